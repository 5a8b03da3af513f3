"""A real Kubernetes of one node, in network and mount namespaces of its own, from binaries that `build.sh` made.

    cluster.py up FOLDER --bin FOLDER     starts everything and stays until it is interrupted
    cluster.py in FOLDER -- COMMAND...    runs a command beside it, KUBECONFIG set

Everything that it starts, mounts and makes goes when it ends.
"""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import time

NODE = "node-1"
ADDRESS = "10.99.0.1"
SERVICES = "10.96.0.0/16"
PODS = "10.244.0.0/24"
# How long a part may take to be ready on a busy machine, seconds.
WITHIN = 180

CONTAINERD = """
version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
oom_score = 0
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  # Lowering the score needs CAP_SYS_RESOURCE, which not every machine gives.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
"""

NETWORK = """{
  "cniVersion": "0.4.0", "name": "pods", "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "%s"}]], "routes": [{"dst": "0.0.0.0/0"}],
              "dataDir": "%s/ipam"}},
    {"type": "portmap", "capabilities": {"portMappings": true}}]
}"""

KUBELET = """
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
failSwapOn: false
enforceNodeAllocatable: []
evictionHard: {nodefs.available: "1%%", imagefs.available: "1%%"}
imageGCHighThresholdPercent: 100
resolvConf: ""
"""

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://%s:6443", certificate-authority: "%s/ca.crt"}}]
users: [{name: u, user: {token: "%s"}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""

PAUSE = """
#include <signal.h>
#include <unistd.h>
static void end(int s) { _exit(0); }
int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }
"""


def run(*command, **more):
    return subprocess.run([str(part) for part in command], check=True, **more)


def wait(what, done):
    begun = time.monotonic()
    while not done():
        if time.monotonic() - begun > WITHIN:
            raise SystemExit(f"{what}: not within {WITHIN} s")
        time.sleep(0.2)


class Cluster:
    def __init__(self, folder, binaries, xtask):
        self.folder, self.binaries, self.xtask = folder, binaries, xtask
        self.parts = []

    def start(self, name, *command):
        log = open(self.folder / f"{name}.log", "wb")
        part = subprocess.Popen([str(it) for it in command], stdout=log, stderr=log, cwd=self.folder, start_new_session=True)
        self.parts.append((name, part))

    def check(self):
        for name, part in self.parts:
            if part.poll() is not None:
                log = (self.folder / f"{name}.log").read_text(errors="replace")
                raise SystemExit(f"{name} has ended ({part.returncode}):\n{log[-3000:]}")

    def quiet(self, *command):
        self.check()
        return subprocess.run([str(it) for it in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              env={**os.environ, "KUBECONFIG": str(self.folder / "admin.conf")}).returncode == 0

    def own_folders(self):
        """What agents keep on a node is this cluster's own: the machine may have agents, too."""
        for folder in ["/run/patchbay", "/var/lib/patchbay"]:
            pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
            run("mount", "-t", "tmpfs", "node", folder)

    def network(self):
        run("ip", "link", "set", "lo", "up")
        # Both ends are ours: the default route leads nowhere, but there is one.
        run("ip", "link", "add", "node0", "type", "veth", "peer", "name", "node1")
        run("ip", "link", "set", "node1", "up")
        run("ip", "address", "add", f"{ADDRESS}/24", "dev", "node0")
        run("ip", "link", "set", "node0", "up")
        run("ip", "route", "add", "default", "via", "10.99.0.254", "dev", "node0")
        pathlib.Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for name in ["bridge-nf-call-iptables"]:
            file = pathlib.Path("/proc/sys/net/bridge") / name
            if file.exists():
                file.write_text("1")

    def certificates(self):
        at = self.folder
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=test-ca",
            "-keyout", at / "ca.key", "-out", at / "ca.crt", stderr=subprocess.DEVNULL)
        run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=kube-apiserver",
            "-keyout", at / "api.key", "-out", at / "api.csr", stderr=subprocess.DEVNULL)
        (at / "api.ext").write_text(
            f"subjectAltName=IP:127.0.0.1,IP:{ADDRESS},IP:10.96.0.1,DNS:kubernetes,DNS:kubernetes.default.svc\n"
            "basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n")
        run("openssl", "x509", "-req", "-in", at / "api.csr", "-CA", at / "ca.crt", "-CAkey", at / "ca.key",
            "-CAcreateserial", "-days", "30", "-extfile", at / "api.ext", "-out", at / "api.crt",
            stderr=subprocess.DEVNULL)
        run("openssl", "genrsa", "-out", at / "sa.key", "2048", stderr=subprocess.DEVNULL)
        (at / "tokens.csv").write_text('admin-token,admin,admin,"system:masters"\n')
        (at / "admin.conf").write_text(KUBECONFIG % (ADDRESS, at, "admin-token"))

    def control_plane(self):
        at, bin = self.folder, self.binaries
        self.start("etcd", "etcd", "--data-dir", at / "etcd", "--listen-client-urls", "http://127.0.0.1:2379",
                   "--advertise-client-urls", "http://127.0.0.1:2379", "--listen-peer-urls", "http://127.0.0.1:2380",
                   "--unsafe-no-fsync")
        self.start("apiserver", bin / "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379",
                   f"--service-cluster-ip-range={SERVICES}", "--authorization-mode=RBAC",
                   f"--token-auth-file={at}/tokens.csv", f"--tls-cert-file={at}/api.crt",
                   f"--tls-private-key-file={at}/api.key", f"--service-account-key-file={at}/sa.key",
                   f"--service-account-signing-key-file={at}/sa.key", "--service-account-issuer=https://kubernetes",
                   "--bind-address=0.0.0.0", "--kubelet-preferred-address-types=InternalIP", f"--advertise-address={ADDRESS}", "--allow-privileged=true",
                   f"--cert-dir={at}/certs")
        wait("the API server", lambda: self.quiet("kubectl", "get", "--raw", "/readyz"))
        common = f"--kubeconfig={at}/admin.conf"
        self.start("controller-manager", bin / "kube-controller-manager", common, f"--root-ca-file={at}/ca.crt",
                   f"--service-account-private-key-file={at}/sa.key", "--use-service-account-credentials=false",
                   "--leader-elect=false", f"--cert-dir={at}/certs")
        self.start("scheduler", bin / "kube-scheduler", common, "--leader-elect=false", f"--cert-dir={at}/certs")

    def node(self):
        at, bin = self.folder, self.binaries
        (at / "cni").mkdir()
        (at / "cni/10-pods.conflist").write_text(NETWORK % (PODS, at))
        (at / "containerd.toml").write_text(CONTAINERD.format(folder=at))
        self.start("containerd", "containerd", "--config", at / "containerd.toml")
        wait("containerd", lambda: self.quiet("ctr", "-a", at / "containerd.sock", "version"))
        (at / "pause.c").write_text(PAUSE)
        run("cc", "-static", "-Os", "-o", at / "pause", at / "pause.c")
        run(self.xtask, "image", "--of", at / "pause", "--tag", "1", "--out", at / "images")
        self.load(at / "images/pause.tar")
        (at / "kubelet.yaml").write_text(KUBELET)
        self.start("kubelet", bin / "kubelet", f"--kubeconfig={at}/admin.conf", f"--config={at}/kubelet.yaml",
                   f"--root-dir={at}/kubelet", "--container-runtime=remote",
                   f"--container-runtime-endpoint=unix://{at}/containerd.sock", f"--node-ip={ADDRESS}",
                   f"--hostname-override={NODE}", f"--cert-dir={at}/certs")
        (at / "proxy.yaml").write_text(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: iptables\n"
            f"hostnameOverride: {NODE}\nclusterCIDR: {PODS}\nclientConnection: {{kubeconfig: {at}/admin.conf}}\n"
            "conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}\n")
        self.start("proxy", bin / "kube-proxy", f"--config={at}/proxy.yaml")
        ready = ["kubectl", "wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=1s"]
        wait("the node", lambda: self.quiet(*ready))
        account = ["kubectl", "get", "serviceaccount", "default", "-o", "jsonpath={.secrets[0].name}"]
        wait("the service account", lambda: self.quiet(*account))

    def load(self, archive):
        run("ctr", "-a", self.folder / "containerd.sock", "-n", "k8s.io", "images", "import", "--digests",
            archive, stdout=subprocess.DEVNULL)

    def end(self):
        ctr = ["ctr", "-a", str(self.folder / "containerd.sock"), "-n", "k8s.io"]
        for name in ["kubelet"]:
            self.stop(name)
        tasks = subprocess.run([*ctr, "tasks", "ls", "-q"], capture_output=True, text=True).stdout.split()
        for task in tasks:
            subprocess.run([*ctr, "tasks", "kill", "-s", "KILL", task], capture_output=True)
            subprocess.run([*ctr, "tasks", "rm", "-f", task], capture_output=True)
        for name, _ in reversed(list(self.parts)):
            self.stop(name)
        for hierarchy in pathlib.Path("/sys/fs/cgroup").iterdir():
            for top in [hierarchy / "kubepods"]:
                for folder in sorted(top.rglob("*"), key=lambda it: -len(it.parts)) if top.is_dir() else []:
                    if folder.is_dir():
                        try:
                            folder.rmdir()
                        except OSError:
                            pass
                try:
                    top.rmdir()
                except OSError:
                    pass

    def stop(self, wanted):
        for name, part in self.parts:
            if name == wanted and part.poll() is None:
                part.terminate()
                try:
                    part.wait(20)
                except subprocess.TimeoutExpired:
                    part.kill()
                    part.wait()


def up(arguments):
    if "PATCHBAY_CLUSTER_INSIDE" not in os.environ:
        environment = {**os.environ, "PATCHBAY_CLUSTER_INSIDE": "1"}
        # Pods may ask for mounts that come later (HostToContainer), which a private mount refuses.
        os.execvpe("unshare", ["unshare", "--net", "--mount", "--propagation", "shared", sys.executable, *sys.argv], environment)
    folder = pathlib.Path(arguments.folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(folder, pathlib.Path(arguments.bin).resolve(), pathlib.Path(arguments.xtask).resolve())
    ended = []
    for number in [signal.SIGINT, signal.SIGTERM]:
        signal.signal(number, lambda *_: sys.exit(0))
    (folder / "pid").write_text(str(os.getpid()))
    try:
        cluster.own_folders()
        cluster.network()
        cluster.certificates()
        cluster.control_plane()
        cluster.node()
        print("ready", flush=True)
        while not ended:
            time.sleep(1)
            cluster.check()
    finally:
        cluster.end()


def inside(arguments):
    folder = pathlib.Path(arguments.folder).resolve()
    process = (folder / "pid").read_text()
    environment = {**os.environ, "KUBECONFIG": str(folder / "admin.conf"), "CLUSTER": str(folder)}
    command = ["nsenter", f"--net=/proc/{process}/ns/net", f"--mount=/proc/{process}/ns/mnt", "--", *arguments.command]
    os.execvpe("nsenter", command, environment)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    start = commands.add_parser("up")
    start.add_argument("folder")
    start.add_argument("--bin", required=True)
    start.add_argument("--xtask", required=True)
    start.set_defaults(do=up)
    enter = commands.add_parser("in")
    enter.add_argument("folder")
    enter.add_argument("command", nargs=argparse.REMAINDER)
    enter.set_defaults(do=inside)
    arguments = parser.parse_args()
    if getattr(arguments, "command", None) and arguments.command[0] == "--":
        arguments.command.pop(0)
    arguments.do(arguments)


main()
