"""Installs the chart in the cluster of cluster.py and looks what becomes of pods' sessions: check.py FOLDER --helm HELM
--xtask XTASK. Each line that it prints was seen."""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
CHART = pathlib.Path(os.environ.get("CHART", HERE.parent.parent / "deploy/chart"))
WITHIN = 240

SHOP = """
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: redis, namespace: shop}
spec:
  selector: {matchLabels: {app: redis}}
  template:
    metadata: {labels: {app: redis}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 2
      containers:
      - {name: redis, image: "localhost/redis-server:1", imagePullPolicy: Never, args: ["--save", "", "--protected-mode", "no"]}
---
apiVersion: v1
kind: Service
metadata: {name: redis, namespace: shop}
spec: {selector: {app: redis}, ports: [{port: 6379}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: nginx, namespace: shop}
spec:
  selector: {matchLabels: {app: nginx}}
  template:
    metadata: {labels: {app: nginx}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 2
      containers:
      - name: nginx
        image: localhost/nginx:1
        imagePullPolicy: Never
        args: ["-e", "/dev/stderr", "-c", "/config/nginx.conf"]
        volumeMounts: [{name: config, mountPath: /config}]
      volumes: [{name: config, configMap: {name: nginx}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: nginx, namespace: shop}
data:
  nginx.conf: |
    daemon off;
    user root root;
    pid /tmp/nginx.pid;
    events {}
    http {
      access_log off;
      client_body_temp_path /tmp/a; proxy_temp_path /tmp/b; fastcgi_temp_path /tmp/c; uwsgi_temp_path /tmp/d; scgi_temp_path /tmp/e;
      server { listen 8080; location / { return 200 "hello from nginx"; } }
    }
---
apiVersion: v1
kind: Service
metadata: {name: nginx, namespace: shop}
spec: {selector: {app: nginx}, ports: [{port: 80, targetPort: 8080}]}
"""

# Programs that nobody here wrote, for ever; `-l` of redis-benchmark and wrk's time keep them going.
LOAD = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: %(name)s, namespace: shop}
spec:
  selector: {matchLabels: {app: %(name)s}}
  template:
    metadata: {labels: {app: %(name)s}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 2
      containers:
      - {name: load, image: "localhost/%(image)s:1", imagePullPolicy: Never, args: %(args)s}
"""


class Check:
    def __init__(self, folder, helm, xtask):
        self.folder, self.helm, self.xtask = folder, helm, xtask

    def inside(self, *command, check=True, text=None):
        line = [sys.executable, HERE / "cluster.py", "in", self.folder, "--", *command]
        done = subprocess.run([str(it) for it in line], capture_output=True, text=True, input=text)
        if check and done.returncode:
            raise SystemExit(f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def kubectl(self, *words, **more):
        return self.inside("kubectl", *words, **more)

    def metric(self, name):
        text = self.inside("curl", "-sf", "http://127.0.0.1:9964/metrics", check=False)
        found = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(name + " ")]
        return float(found[0]) if found else 0.0

    def flows(self, last=4000):
        pod = self.agent()
        text = self.kubectl("-n", "patchbay", "exec", pod, "--", "patchbay", "flows", "--last", last, "-o", "jsonpb")
        return [json.loads(line)["flow"] for line in text.splitlines() if '"flow"' in line]

    def agent(self):
        words = ["-n", "patchbay", "get", "pods", "-l", "app.kubernetes.io/component=agent", "-o", "json"]
        pods = json.loads(self.kubectl(*words))["items"]
        return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]][0]

    def wait(self, what, done, within=WITHIN):
        begun = time.monotonic()
        while True:
            found = done()
            if found:
                print(f"{what}: {found if found is not True else 'seen'} ({time.monotonic() - begun:.1f} s)", flush=True)
                return found
            if time.monotonic() - begun > within:
                print(self.kubectl("get", "pods", "-A", "-o", "wide", check=False))
                print(self.kubectl("-n", "patchbay", "logs", "-l", "app.kubernetes.io/component=agent", "--tail=40", check=False))
                raise SystemExit(f"{what}: not within {within} s")
            time.sleep(0.5)

    def images(self):
        out = self.folder / "images"
        subprocess.run([self.xtask, "image", "--no-build", "--out", out], check=True)
        for program in ["/usr/bin/redis-server", "/usr/bin/redis-benchmark", "/usr/sbin/nginx", "/usr/bin/wrk"]:
            subprocess.run([self.xtask, "image", "--of", program, "--tag", "1", "--out", out], check=True)
        for archive in sorted(out.glob("*.tar")):
            self.inside("ctr", "-a", self.folder / "containerd.sock", "-n", "k8s.io", "images", "import", archive)

    def install(self):
        self.inside(self.helm, "install", "patchbay", CHART, "--namespace", "patchbay", "--create-namespace", "--set",
                    "image.pullPolicy=Never", "--server-side=false")
        self.kubectl("-n", "patchbay", "rollout", "status", "ds/patchbay-agent", f"--timeout={WITHIN}s")
        print("the chart is installed, its agent ready", flush=True)

    def restarts(self):
        pods = json.loads(self.kubectl("-n", "shop", "get", "pods", "-o", "json"))["items"]
        return {pod["metadata"]["name"]: [it["restartCount"] for it in pod["status"].get("containerStatuses", [])] for pod in pods}

    def through_kernel(self, server):
        """A session through the ClusterIP to a pod, by pods' names, of which bytes went through the kernel."""
        for flow in self.flows():
            bytes = re.search(r"; (\d+) bytes through the kernel", flow["Summary"])
            if flow["destination"].get("pod_name", "").startswith(server) and int(bytes[1]) > 0 and "dialled 10.96." in flow["Summary"]:
                return f"{flow['source']['pod_name']} -> {flow['destination']['pod_name']}: {flow['Summary']}"
        return None

    def run(self):
        self.images()
        self.kubectl("apply", "-f", "-", text=SHOP)
        for deployment in ["redis", "nginx"]:
            self.kubectl("-n", "shop", "rollout", "status", f"deployment/{deployment}", f"--timeout={WITHIN}s")
        self.install()
        # Variables of services exist only in pods made after them.
        loads = [("load-redis", "redis-benchmark", ["-h", "$(REDIS_SERVICE_HOST)", "-c", "4", "-n", "20000", "-t", "set,get", "-d", "4096", "-q", "-l"]),
                 ("load-nginx", "wrk", ["-t1", "-c4", "-d", "100000", "http://$(NGINX_SERVICE_HOST):80/"])]
        for name, image, args in loads:
            self.kubectl("apply", "-f", "-", text=LOAD % {"name": name, "image": image, "args": json.dumps(args)})
        for name, *_ in loads:
            self.kubectl("-n", "shop", "rollout", "status", f"deployment/{name}", f"--timeout={WITHIN}s")
        kernel, tcp = 'patchbay_agent_bytes_total{path="kernel"}', 'patchbay_agent_bytes_total{path="tcp"}'
        self.wait("sessions are counted", lambda: self.metric('patchbay_agent_live_sessions{path="tcp",reason="switched off"}') >= 4)
        assert self.metric(kernel) == 0, "nobody opted in"
        print("nobody opted in: nothing is redirected", flush=True)
        self.kubectl("annotate", "namespace", "shop", "patchbay.dev/redirect=auto")
        self.wait("redis through its ClusterIP", lambda: self.through_kernel("redis"))
        before = (self.metric(kernel), self.metric(tcp))
        time.sleep(5)
        after = (self.metric(kernel), self.metric(tcp))
        moved = [now - then for now, then in zip(after, before)]
        print(f"of all bytes in 5 s {moved[0] / max(sum(moved), 1):.1%} went through the kernel ({moved[0] / 5e6:.0f} MB/s)", flush=True)
        self.restarted_pod(kernel)
        self.bad_annotation()
        self.updated_agent(kernel)
        self.said_never(kernel)
        self.uninstalled()

    def restarted_pod(self, kernel):
        old = self.pod("redis")
        self.kubectl("-n", "shop", "delete", "pod", old)
        self.kubectl("-n", "shop", "rollout", "status", "deployment/redis", f"--timeout={WITHIN}s")
        new = self.pod("redis")
        self.wait("a pod that was made again", lambda: self.through_kernel(new))

    def pod(self, app):
        pods = json.loads(self.kubectl("-n", "shop", "get", "pods", "-l", f"app={app}", "-o", "json"))["items"]
        return [it["metadata"]["name"] for it in pods if "deletionTimestamp" not in it["metadata"]][0]

    def bad_annotation(self):
        pod = self.pod("nginx")
        self.kubectl("-n", "shop", "annotate", "pod", pod, "patchbay.dev/redirect=perhaps")
        def told():
            events = json.loads(self.kubectl("-n", "shop", "get", "events", "-o", "json"))["items"]
            return next((it["message"] for it in events if it["reason"] == "BadAnnotation" and it["involvedObject"]["name"] == pod), None)
        self.wait("a bad annotation", told)
        self.kubectl("-n", "shop", "annotate", "pod", pod, "patchbay.dev/redirect-")

    def updated_agent(self, kernel):
        before, old = self.restarts(), self.agent()
        self.kubectl("-n", "patchbay", "rollout", "restart", "ds/patchbay-agent")
        self.kubectl("-n", "patchbay", "rollout", "status", "ds/patchbay-agent", f"--timeout={WITHIN}s")
        assert self.agent() != old
        self.wait("the next agent redirects", lambda: self.metric(kernel) > 0 and f"{self.metric(kernel) / 1e6:.0f} MB")
        assert self.restarts() == before, (before, self.restarts())
        print("the agent was updated under load: no client failed", flush=True)

    def said_never(self, kernel):
        before = self.restarts()
        self.kubectl("annotate", "namespace", "shop", "--overwrite", "patchbay.dev/redirect=never")
        live = 'patchbay_agent_live_sessions{path="kernel",reason=""}'
        self.wait("everything is on TCP again", lambda: self.metric(live) == 0)
        assert self.restarts() == before
        self.kubectl("annotate", "namespace", "shop", "--overwrite", "patchbay.dev/redirect=auto")
        self.wait("and redirected again", lambda: self.metric(live) > 0)

    def uninstalled(self):
        before = self.restarts()
        self.inside(self.helm, "uninstall", "patchbay", "--namespace", "patchbay", "--wait")
        self.kubectl("delete", "namespace", "patchbay", "--wait")
        def left():
            names = self.inside("sh", "-c", "ls -A /sys/fs/bpf/patchbay-scopes /run/patchbay/bpf 2>/dev/null | grep -v :", check=False)
            return not [it for it in names.split() if it]
        self.wait("nothing is left in the kernel", left)
        time.sleep(3)
        assert self.restarts() == before, (before, self.restarts())
        print("the chart was removed under load: no client failed", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--helm", required=True, type=pathlib.Path)
    parser.add_argument("--xtask", required=True, type=pathlib.Path)
    arguments = parser.parse_args()
    Check(arguments.folder.resolve(), arguments.helm.resolve(), arguments.xtask.resolve()).run()


main()
