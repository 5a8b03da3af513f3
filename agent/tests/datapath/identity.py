"""Who is whose peer: identity.py CASE. Makes network namespaces of its own, named by its process, and removes them."""
import ctypes
import os
import socket
import subprocess
import sys
import threading
import time

LIMIT = 5
libc = ctypes.CDLL(None, use_errno=True)
NAME = f"patchbay-identity-{os.getpid()}"
made = []


def run(*command, **options):
    subprocess.run(command, check=True, **options)


def namespace(letter):
    """A new namespace with lo up; returns its name."""
    name = f"{NAME}-{letter}"
    run("ip", "netns", "add", name)
    made.append(name)
    run("ip", "-n", name, "link", "set", "lo", "up")
    return name


class inside:
    """This thread in a namespace: sockets that it makes stay there."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        self.before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/var/run/netns/{self.name}", os.O_RDONLY)
        assert libc.setns(there, 0x40000000) == 0
        os.close(there)

    def __exit__(self, *_):
        assert libc.setns(self.before, 0x40000000) == 0
        os.close(self.before)


def joined_by(a, b, router=None):
    """Two namespaces joined by a pair of devices, or each with a router between them."""
    for end, address, name in (("a", "10.77.1", a), ("b", "10.77.2", b)):
        device = f"pb{os.getpid()}{end}"[-15:]
        peer, host = (router, f"{device}r"[-15:]) if router else (None, None)
        if router:
            run("ip", "link", "add", device, "netns", name, "type", "veth", "peer", "name", host, "netns", router)
            run("ip", "-n", router, "addr", "add", f"{address}.1/24", "dev", host)
            run("ip", "-n", router, "link", "set", host, "up")
        elif end == "a":
            other = f"pb{os.getpid()}b"[-15:]
            run("ip", "link", "add", device, "netns", a, "type", "veth", "peer", "name", other, "netns", b)
            run("ip", "-n", a, "addr", "add", "10.77.1.2/16", "dev", device)
            run("ip", "-n", b, "addr", "add", "10.77.2.2/16", "dev", other)
            run("ip", "-n", a, "link", "set", device, "up")
            run("ip", "-n", b, "link", "set", other, "up")
            return
        run("ip", "-n", name, "addr", "add", f"{address}.2/24", "dev", device)
        run("ip", "-n", name, "link", "set", device, "up")
        run("ip", "-n", name, "route", "add", "default", "via", f"{address}.1")
    run("ip", "netns", "exec", router, "sysctl", "-qw", "net.ipv4.ip_forward=1")


def rules(name, text):
    run("ip", "netns", "exec", name, "nft", "-f", "-", input=text.encode())


def listen(address, port=0, family=socket.AF_INET, transparent=False):
    s = socket.socket(family)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if transparent:
        s.setsockopt(socket.SOL_IP, 19, 1)
    s.bind((address, port))
    s.listen()
    s.settimeout(LIMIT)
    return s


def connect(to, source=None, transparent=False, family=socket.AF_INET):
    s = socket.socket(family)
    s.settimeout(LIMIT)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if transparent:
        s.setsockopt(socket.SOL_IP, 19, 1)
    if source:
        s.bind(source)
    s.connect(to)
    return s


def accept(server):
    s, _ = server.accept()
    s.settimeout(LIMIT)
    return s


def talk(c, s, times=20):
    for i in range(times):
        c.sendall(b"question %d" % i)
        assert s.recv(99) == b"question %d" % i
        s.sendall(b"answer %d" % i)
        assert c.recv(99) == b"answer %d" % i


def end(*sockets):
    for s in sockets:
        s.close()


def same_address_in_two_namespaces(mirrored):
    """As every rootless container has: the later connection leaves the earlier one alone."""
    a, b = namespace("a"), namespace("b")
    for name in (a, b):
        run("ip", "-n", name, "addr", "add", "10.0.2.100/24", "dev", "lo")
    ip, p, q = "10.0.2.100", 24040, 24041
    with inside(a):
        la = listen(ip, q)
        ca = connect((ip, q), (ip, p))
        sa = accept(la)
    talk(ca, sa)
    sa.sendall(b"not read yet")
    assert len(ca.recv(99, socket.MSG_PEEK)) == 12
    with inside(b):
        lb = listen(ip, p if mirrored else q)
        cb = connect((ip, p if mirrored else q), (ip, q if mirrored else p))
        sb = accept(lb)
    talk(cb, sb)
    assert ca.recv(99) == b"not read yet"
    talk(ca, sa)
    end(ca, sa, cb, sb)


def twins():
    same_address_in_two_namespaces(False)


def mirrored_twins():
    same_address_in_two_namespaces(True)


def one_address_in_many_namespaces():
    """All at once, with the same ports."""
    pairs = []
    for i in range(8):
        name = namespace(f"n{i}")
        run("ip", "-n", name, "addr", "add", "10.0.2.100/24", "dev", "lo")
        with inside(name):
            server = listen("10.0.2.100", 7000)
            c = connect(("10.0.2.100", 7000), ("10.0.2.100", 7001))
            pairs.append((c, accept(server), b"%d" % i))
    for _ in range(20):
        for c, s, tag in pairs:
            c.sendall(tag)
        for c, s, tag in pairs:
            assert s.recv(9) == tag
            s.sendall(tag * 2)
        for c, s, tag in pairs:
            assert c.recv(9) == tag * 2
    for c, s, _ in pairs:
        end(c, s)


def between_namespaces():
    a, b = namespace("a"), namespace("b")
    joined_by(a, b)
    with inside(b):
        server = listen("10.77.2.2")
    with inside(a):
        c = connect(server.getsockname())
    s = accept(server)
    time.sleep(0.05)
    talk(c, s)
    end(c, s)


def through_a_service_address(rule):
    """As kube-proxy does for a ClusterIP: nobody listens at the address that the client connects to."""
    a, b, r = namespace("a"), namespace("b"), namespace("r")
    joined_by(a, b, r)
    rule(r)
    with inside(b):
        server = listen("10.77.2.2", 7000)
    with inside(a):
        c = connect(("10.96.0.77", 80))
    s = accept(server)
    assert c.getpeername() == ("10.96.0.77", 80) and s.getsockname() == ("10.77.2.2", 7000)
    time.sleep(0.05)
    talk(c, s)
    end(c, s)


def service_by_nftables():
    through_a_service_address(lambda r: rules(r, """table ip t {
        chain pre { type nat hook prerouting priority -100; ip daddr 10.96.0.77 tcp dport 80 dnat to 10.77.2.2:7000; }
        }"""))


def service_by_iptables():
    through_a_service_address(lambda r: run(
        "ip", "netns", "exec", r, "iptables", "-t", "nat", "-A", "PREROUTING", "-d", "10.96.0.77", "-p", "tcp",
        "--dport", "80", "-j", "DNAT", "--to-destination", "10.77.2.2:7000"))


def service_and_source_translated():
    """As for a node's port: both ends have another's address for their peer."""
    through_a_service_address(lambda r: rules(r, """table ip t {
        chain pre { type nat hook prerouting priority -100; ip daddr 10.96.0.77 tcp dport 80 dnat to 10.77.2.2:7000; }
        chain post { type nat hook postrouting priority 100; ip daddr 10.77.2.2 masquerade random; }
        }"""))


def hairpin():
    """A client reaches itself by its service's address, and is translated to the router's."""
    a, b, r = namespace("a"), namespace("b"), namespace("r")
    joined_by(a, b, r)
    rules(r, """table ip t {
        chain pre { type nat hook prerouting priority -100; ip daddr 10.96.0.77 tcp dport 80 dnat to 10.77.1.2:7000; }
        chain post { type nat hook postrouting priority 100; ip saddr 10.77.1.2 ip daddr 10.77.1.2 masquerade; }
        }""")
    with inside(a):
        server = listen("10.77.1.2", 7000)
        c = connect(("10.96.0.77", 80))
    s = accept(server)
    assert s.getpeername()[0] == "10.77.1.1"
    time.sleep(0.05)
    talk(c, s)
    end(c, s)


def translated_in_its_own_namespace():
    """Destination and source translated on the way out of the one namespace."""
    a = namespace("a")
    rules(a, """table ip t {
        chain out { type nat hook output priority -100; ip daddr 10.96.0.77 tcp dport 80 dnat to 127.0.0.1:7000; }
        chain post { type nat hook postrouting priority 100; tcp dport 7000 snat to 127.0.0.9; }
        }""")
    run("ip", "-n", a, "addr", "add", "10.96.0.1/24", "dev", "lo")
    run("ip", "netns", "exec", a, "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    with inside(a):
        server = listen("127.0.0.1", 7000)
        c = connect(("10.96.0.77", 80))
    s = accept(server)
    talk(c, s)
    end(c, s)


def another_local_address():
    """From 10.0.9.1 to 127.0.0.1, and the other way round."""
    a = namespace("a")
    run("ip", "-n", a, "addr", "add", "10.0.9.1/24", "dev", "lo")
    with inside(a):
        for at, source in (("127.0.0.1", "10.0.9.1"), ("10.0.9.1", "127.0.0.1"), ("0.0.0.0", "10.0.9.1")):
            server = listen(at)
            c = connect(("127.0.0.1" if at == "0.0.0.0" else at, server.getsockname()[1]), (source, 0))
            s = accept(server)
            talk(c, s)
            end(c, s, server)


def mapped_addresses():
    """An IPv4 client of an IPv6 listener, and an IPv6 socket that connects to a mapped address."""
    a = namespace("a")
    with inside(a):
        server = listen("::", family=socket.AF_INET6)
        port = server.getsockname()[1]
        for to, family in ((("127.0.0.1", port), socket.AF_INET), (("::ffff:127.0.0.1", port), socket.AF_INET6),
                           (("::1", port), socket.AF_INET6)):
            c = connect(to, family=family)
            s = accept(server)
            talk(c, s)
            end(c, s)


def link_local_addresses():
    """The same link-local address at two devices: only the scope id differs."""
    a, b = namespace("a"), namespace("b")
    for i in range(2):
        run("ip", "link", "add", f"pbl{i}", "netns", a, "type", "veth", "peer", "name", f"pbl{i}", "netns", b)
        for name, address in ((a, "fe80::a/64"), (b, "fe80::b/64")):
            run("ip", "-n", name, "addr", "add", address, "dev", f"pbl{i}", "nodad")
            run("ip", "-n", name, "link", "set", f"pbl{i}", "up")
    pairs = []
    for i in range(2):
        with inside(b):
            number = socket.if_nametoindex(f"pbl{i}")
            server = socket.socket(socket.AF_INET6)
            server.bind(("fe80::b", 7000, 0, number))
            server.listen()
            server.settimeout(LIMIT)
        with inside(a):
            c = socket.socket(socket.AF_INET6)
            c.settimeout(LIMIT)
            number = socket.if_nametoindex(f"pbl{i}")
            c.bind(("fe80::a", 7001, 0, number))
            c.connect(("fe80::b", 7000, 0, number))
        pairs.append((c, accept(server)))
    time.sleep(0.05)
    for c, s in pairs:
        talk(c, s)
    for c, s in pairs:
        end(c, s)


def transparent_proxy():
    """A proxy in the client's way that takes over its address and port towards the server, and changes what passes."""
    a, b, r = namespace("a"), namespace("b"), namespace("r")
    joined_by(a, b, r)
    with inside(r):
        run("ip", "rule", "add", "fwmark", "1", "lookup", "100")
        run("ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", "100")
    rules(r, """table ip t {
        chain pre { type filter hook prerouting priority -150;
            ip saddr 10.77.1.2 tcp dport 7000 tproxy to :9000 meta mark set 1 accept
            ip daddr 10.77.1.2 tcp sport 7000 socket transparent 1 meta mark set 1 accept
        }
        }""")
    with inside(b):
        server = listen("10.77.2.2", 7000)
    with inside(r):
        proxy = listen("0.0.0.0", 9000, transparent=True)

    def pass_on():
        down, client = proxy.accept()
        down.settimeout(LIMIT)
        with inside(r):
            up = socket.socket()
            up.settimeout(LIMIT)
            up.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            up.setsockopt(socket.SOL_IP, 19, 1)
            # The client's own address and port, from a namespace where no other socket has them.
            up.bind(client)
            up.connect(("10.77.2.2", 7000))
        while data := down.recv(99):
            up.sendall(b"proxied " + data)
            down.sendall(b"proxied " + up.recv(99))
        up.close()
        down.close()

    thread = threading.Thread(target=pass_on)
    thread.start()
    with inside(a):
        c = connect(("10.77.2.2", 7000))
    s = accept(server)
    assert s.getpeername() == c.getsockname(), "the proxy shows the client's own address"
    time.sleep(0.05)
    for i in range(20):
        c.sendall(b"question")
        assert s.recv(99) == b"proxied question"
        s.sendall(b"answer")
        assert c.recv(99) == b"proxied answer"
    end(c)
    thread.join()
    end(s)


def data_with_the_connection_request():
    """TCP Fast Open: the first bytes come with the SYN."""
    a = namespace("a")
    run("ip", "netns", "exec", a, "sysctl", "-qw", "net.ipv4.tcp_fastopen=519")
    with inside(a):
        server = socket.socket()
        server.setsockopt(socket.SOL_TCP, socket.TCP_FASTOPEN, 16)
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(LIMIT)
        for _ in range(3):
            c = socket.socket()
            c.sendto(b"with the request", socket.MSG_FASTOPEN, server.getsockname())
            c.settimeout(LIMIT)
            s = accept(server)
            assert s.recv(99) == b"with the request"
            talk(c, s)
            end(c, s)


def restored_sockets():
    """TCP_REPAIR makes a connected socket of whatever numbers its maker likes: it is nobody's peer."""
    a, b = namespace("a"), namespace("b")
    joined_by(a, b)
    with inside(a):
        c = socket.socket()
        c.setsockopt(socket.SOL_TCP, 19, 1)  # TCP_REPAIR
        for queue, number in ((2, 1000), (1, 2000)):
            c.setsockopt(socket.SOL_TCP, 20, queue)  # TCP_REPAIR_QUEUE
            c.setsockopt(socket.SOL_TCP, 21, number)  # TCP_QUEUE_SEQ
        c.bind(("10.77.1.2", 0))
        c.connect(("10.77.2.2", 7000))
        c.setsockopt(socket.SOL_TCP, 19, -1)
        c.close()
    with inside(b):
        server = listen("10.77.2.2", 7001)
    with inside(a):
        c = connect(server.getsockname())
    s = accept(server)
    time.sleep(0.05)
    talk(c, s)
    end(c, s)


try:
    globals()[sys.argv[1]]()
finally:
    for name in made:
        subprocess.run(["ip", "netns", "delete", name])
