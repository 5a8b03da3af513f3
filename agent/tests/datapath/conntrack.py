"""A firewall that knows connections, and forgets one after two seconds without packets: conntrack.py"""
import socket
import subprocess
import threading
import time

RULES = """table inet t {
 chain in {
  type filter hook input priority 0; policy accept;
  tcp dport 24030 ct state new tcp flags & (fin|syn|rst|ack) == syn accept
  tcp dport 24030 ct state established accept
  tcp sport 24030 ct state established accept
  tcp dport 24030 drop
  tcp sport 24030 drop
 }
}
"""
TOTAL = 24 << 20

subprocess.run(["nft", "-f", "-"], input=RULES.encode(), check=True)
for key in ("timeout_established=2", "loose=0"):
    subprocess.run(["sysctl", "-qw", f"net.netfilter.nf_conntrack_tcp_{key}"], check=True)
listener = socket.create_server(("127.0.0.1", 24030))
got = 0


def serve():
    global got
    s, _ = listener.accept()
    for _ in range(12):
        s.sendall(s.recv(100))
    # A reader that is slow for a moment: what outruns it goes on over TCP.
    time.sleep(1)
    while data := s.recv(1 << 16):
        got += len(data)
        time.sleep(0.0005)


thread = threading.Thread(target=serve, daemon=True)
thread.start()
c = socket.create_connection(listener.getsockname())
for _ in range(12):
    c.sendall(b"ping")
    assert c.recv(100) == b"ping"
    time.sleep(0.5)
assert c.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0, "nothing of the socket's options is changed"
c.settimeout(10)
c.sendall(b"z" * TOTAL)
c.shutdown(socket.SHUT_WR)
thread.join(15)
assert got == TOTAL, f"{got} bytes of {TOTAL} arrived"
