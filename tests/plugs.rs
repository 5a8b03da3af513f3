//! Adapted programs whose plugs lead elsewhere in the course of time: to what is started on demand, moved, replaced
//! and scaled. Redis and its clients are as they come.

use std::process::{Child, Stdio};
use std::time::Duration;

use patchbay_api::{Instance, Session};
use patchbay_testbed::{Cluster, Plan};
use patchbay_tests::Node;

/// A gateway that only waits: the tests run the clients inside it.
const REPOSITORY: &str = r#"
[service.front]
kind = "adapted"
program = "/usr/bin/python3"
arguments = ["-c", "import socket, time; s = socket.create_server(('{addr}', {port:http})) if '.' in '{addr}' else socket.create_server(('{addr}', {port:http}), family=socket.AF_INET6); time.sleep(3600)"]
environment = { BACK = "{plug_port:back}", BACK_HOST = "{plug_addr:back}" }
sockets = ["http"]
plugs = ["back"]
[service.redis]
kind = "adapted"
program = "/usr/bin/redis-server"
arguments = ["--bind", "{addr}", "--port", "{port:redis}", "--protected-mode", "no", "--save", ""]
sockets = ["redis"]
[service.redis-2]
kind = "adapted"
program = "/usr/bin/redis-server"
arguments = ["--bind", "{addr}", "--port", "{port:redis}", "--protected-mode", "no", "--save", "", "--databases", "17"]
sockets = ["redis"]
"#;

const GRAPH: &str = r#"
app = "adapted"
[service.front]
kind = "gateway"
sockets.http = { protocol = "http", port = 9100 }
plugs.back = { protocol = "resp" }
[service.redis]
kind = "baas"
state = "shared"
replicas = { max = 3 }
sockets.redis = { protocol = "resp" }
[[connection]]
from = "front.back"
to = "redis.redis"
redirect = "always"
"#;

/// Sends PING after PING on one connection and makes a new one when it breaks, as connection pools do; ends with a file.
/// Prints how many answers it got, how many connections it made, and each kind of failure to connect.
const CLIENT: &str = r#"
import os, socket, sys, time
host, port, stop = sys.argv[1:]
answers, connections, failed = 0, 0, set()
while not os.path.exists(stop):
    try:
        s = socket.create_connection((host, int(port)), 30)
        assert s.getpeername()[:2] == (host, int(port)), s.getpeername()
        s.settimeout(30)
    except OSError as error:
        failed.add(repr(error))
        continue
    connections += 1
    try:
        while not os.path.exists(stop):
            s.sendall(b'PING\r\n')
            got = b''
            while len(got) < 7:
                part = s.recv(100)
                if not part: raise ConnectionError('ended')
                got += part
            assert got == b'+PONG\r\n', got
            answers += 1
            time.sleep(0.001)
    except ConnectionError:
        pass
print(answers, connections, sorted(failed))
"#;

struct Front {
    node: Node,
    front: Instance,
}

impl Front {
    fn start(agent_flags: &[&str], manager_flags: &[&str]) -> Self {
        let node = Node::start_with_both(REPOSITORY, agent_flags, manager_flags);
        let output = node.apply(GRAPH);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let front = node.running("front");
        Self { node, front }
    }

    fn plug(&self) -> [String; 2] {
        ["BACK_HOST", "BACK"].map(|name| self.node.environment(&self.front, name))
    }

    /// What `redis-cli` prints, run by the gateway.
    fn redis(&self, words: &[&str]) -> String {
        let [host, port] = self.plug();
        let output =
            self.node.inside(&self.front, "redis-cli").args(["-h", &host, "-p", &port]).args(words).output();
        let output = output.expect("redis-cli is installed");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Begins [`CLIENT`].
    fn client(&self) -> Client<'_> {
        let stop = self.node.folder().join("stop");
        let child = self
            .node
            .inside(&self.front, "python3")
            .args(["-c", CLIENT])
            .args(self.plug())
            .arg(&stop)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        Client { front: self, child }
    }

    fn sessions(&self) -> Vec<Session> {
        let mut sessions = self.node.sessions();
        sessions.sort_by_key(|session| session.id);
        sessions
    }

    /// The latest session with a destination has carried bytes in the kernel.
    fn wait_for_kernel(&self, destination: u64) {
        self.node.wait("the destination has a redirected session", |_| {
            let sessions = self.sessions();
            let latest = sessions.iter().rfind(|session| session.destination.instance == destination);
            latest.is_some_and(|session| session.path == "kernel" && session.sent.kernel_bytes > 0)
        });
    }

    fn wait_for_next(&self, earlier: u64) -> Instance {
        let next = |node: &Node| {
            let all = node.instances();
            let gone = all.iter().any(|i| i.id == earlier && i.ended_ms.is_some());
            all.into_iter()
                .find(|i| gone && i.service.starts_with("redis") && i.id != earlier && i.state == "running")
        };
        self.node.wait("the next one has taken its place", |node| next(node).is_some());
        next(&self.node).expect("it runs")
    }
}

struct Client<'a> {
    front: &'a Front,
    child: Child,
}

impl Client<'_> {
    /// Ends it; how many answers it got, on how many connections. None failed.
    fn end(self) -> (u64, u64) {
        std::fs::write(self.front.node.folder().join("stop"), "").expect("written");
        let output = self.child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success() && text.ends_with("[]"), "{text}");
        let mut numbers = text.split(' ').map(|word| word.parse().unwrap_or(0));
        (numbers.next().expect("answers"), numbers.next().expect("connections"))
    }
}

#[test]
fn a_destination_that_ended_for_idleness_is_started_on_demand() {
    let front = Front::start(&[], &["--idle-timeout=1"]);
    let first = front.node.running("redis");
    for _ in 0..2 {
        assert_eq!(front.redis(&["PING"]), "PONG");
    }
    front.wait_for_kernel(first.id);
    front.node.wait("it has ended", |node| {
        node.instances().iter().any(|i| i.id == first.id && i.ended_ms.is_some())
    });
    assert_eq!(front.redis(&["SET", "a", "1"]), "OK");
    let next = front.node.running("redis");
    assert_ne!(next.id, first.id);
    let carried = |session: &Session| session.reason.as_deref() == Some("through the agent");
    front.node.wait("the connection that had to wait is known, counted and over", |_| {
        front.sessions().iter().any(|s| carried(s) && s.state == "closed" && s.sent.tcp_bytes > 0)
    });
    assert_eq!(front.redis(&["GET", "a"]), "1");
    front.wait_for_kernel(next.id);
    let all = front.sessions();
    assert!(all.iter().all(|session| session.status == Some(111)), "{all:?}");
    assert_eq!(all.len(), 4, "one for each connection: {all:?}");
}

#[test]
fn a_client_goes_on_when_its_destination_is_replaced_and_killed() {
    let front = Front::start(&[], &[]);
    let first = front.node.running("redis");
    let client = front.client();
    front.wait_for_kernel(first.id);
    let output = front.node.apply(&GRAPH.replace("state =", "program = \"redis-2\"\nstate ="));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let second = front.wait_for_next(first.id);
    front.wait_for_kernel(second.id);
    for process in front.node.processes(&Instance { service: "redis-2".into(), ..second.clone() }) {
        assert!(front.node.command("kill").args(["-9", &process]).status().expect("it runs").success());
    }
    let third = front.wait_for_next(second.id);
    front.node.wait("the client is there", |_| {
        front.sessions().iter().any(|s| s.destination.instance == third.id && s.state == "open")
    });
    std::thread::sleep(Duration::from_millis(300));
    let (answers, connections) = client.end();
    assert!(answers > 100 && connections >= 3, "{answers} answers on {connections} connections");
    assert_eq!(front.redis(&["CONFIG", "GET", "databases"]), "databases\n17", "the next version");
}

#[test]
fn further_connections_are_spread_over_what_is_scaled() {
    let front = Front::start(&[], &[]);
    let scaled = front.node.patchbay(&["scale", "adapted", "redis", "3", "--yes"]);
    assert!(scaled.status.success(), "{}", String::from_utf8_lossy(&scaled.stderr));
    let running = |node: &Node| {
        node.instances().iter().filter(|i| i.service == "redis" && i.state == "running").count()
    };
    front.node.wait("three run", |node| running(node) == 3);
    let script = r#"
import socket, sys, time
all = []
for _ in range(30):
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
    s.sendall(b'PING\r\n')
    assert s.recv(100) == b'+PONG\r\n'
    all.append(s)
    time.sleep(0.02)
print(len(all), flush=True)
time.sleep(3)
"#;
    let mut held = front
        .node
        .inside(&front.front, "python3")
        .args(["-c", script])
        .args(front.plug())
        .spawn()
        .expect("python3 is installed");
    front.node.wait("all are sessions", |_| {
        front.sessions().iter().filter(|session| session.state == "open").count() == 30
    });
    let mut of = std::collections::BTreeMap::<u64, u32>::new();
    for session in front.sessions().iter().filter(|session| session.state == "open") {
        *of.entry(session.destination.instance).or_default() += 1;
    }
    assert_eq!(of.len(), 3, "{of:?}");
    assert!(of.values().all(|count| *count >= 5), "{of:?}");
    held.wait().expect("it ends");
}

#[test]
fn plugs_lead_on_while_the_agent_is_killed_and_what_waits_is_served_by_the_next() {
    let mut front = Front::start(&[], &["--idle-timeout=2"]);
    let first = front.node.running("redis");
    assert_eq!(front.redis(&["PING"]), "PONG");
    front.node.kill_agent();
    for _ in 0..3 {
        assert_eq!(front.redis(&["PING"]), "PONG", "the kernel leads on");
    }
    front.node.start_agent();
    assert_eq!(front.redis(&["PING"]), "PONG");
    front.node.wait("it has ended", |node| {
        node.instances().iter().any(|i| i.id == first.id && i.ended_ms.is_some())
    });
    front.node.kill_agent();
    let [host, port] = front.plug();
    let waiting = front
        .node
        .inside(&front.front, "redis-cli")
        .args(["-h", &host, "-p", &port, "PING"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-cli is installed");
    std::thread::sleep(Duration::from_millis(300));
    front.node.start_agent();
    let output = waiting.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "PONG", "it waited for the next agent");
    assert_eq!(front.redis(&["PING"]), "PONG");
    front.wait_for_kernel(front.node.running("redis").id);
}

#[test]
fn a_plugs_address_is_its_instances_alone() {
    let front = Front::start(&[], &[]);
    let [host, port] = front.plug();
    let script = format!(
        "import socket\n\
         try: s = socket.create_connection(({host:?}, {port}), 5); s.settimeout(5); s.sendall(b'PING\\r\\n'); print(s.recv(100))\n\
         except ConnectionError: print('refused')"
    );
    assert_eq!(front.node.python(&script), "refused");
    assert_eq!(front.redis(&["PING"]), "PONG");
}

#[test]
fn ipv6_plugs_lead_too() {
    let front = Front::start(&["--address=::1"], &["--idle-timeout=1"]);
    let first = front.node.running("redis");
    assert_eq!(front.plug()[0], "::1");
    assert_eq!(front.redis(&["PING"]), "PONG");
    front.wait_for_kernel(first.id);
    front.node.wait("it has ended", |node| {
        node.instances().iter().any(|i| i.id == first.id && i.ended_ms.is_some())
    });
    for _ in 0..2 {
        assert_eq!(front.redis(&["PING"]), "PONG");
    }
    front.wait_for_kernel(front.node.running("redis").id);
}

/// The client of [`CLIENT`] as a gateway of its own: whoever connects is told how it fares.
const CLIENT_GATEWAY: &str = r#"
import socket, sys, threading, time
users = socket.create_server((sys.argv[1], int(sys.argv[2])))
told = [0, 0, []]
def work():
    while True:
        try:
            s = socket.create_connection((sys.argv[3], int(sys.argv[4])), 30)
            s.settimeout(30)
        except OSError as error:
            told[2].append(repr(error))
            continue
        told[1] += 1
        try:
            while True:
                s.sendall(b'PING\r\n')
                got = b''
                while len(got) < 7:
                    part = s.recv(100)
                    if not part: raise ConnectionError('ended')
                    got += part
                assert got == b'+PONG\r\n', got
                told[0] += 1
                time.sleep(0.001)
        except ConnectionError:
            pass
threading.Thread(target=work, daemon=True).start()
while True:
    user, _ = users.accept()
    user.sendall(repr(told).encode())
    user.close()
"#;

#[test]
fn a_client_follows_its_destination_from_node_to_node() {
    let front = format!(
        "[service.front]\nkind = \"adapted\"\nprogram = \"/usr/bin/python3\"\nsockets = [\"http\"]\nplugs = [\"back\"]\n\
         arguments = [\"-c\", '''{CLIENT_GATEWAY}''', \"{{addr}}\", \"{{port:http}}\", \"{{plug_addr:back}}\", \"{{plug_port:back}}\"]\n"
    );
    let redis =
        REPOSITORY.split("[service.redis]").nth(1).and_then(|rest| rest.split("[service.redis-2]").next());
    let redis = format!("[service.redis]{}", redis.expect("an entry"));
    let name = format!("pbp{}", std::process::id() % 1_000_000);
    let folder = std::env::temp_dir().join(&name);
    let plan = Plan {
        name,
        folder: folder.clone(),
        programs: std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release"),
        nodes: vec![("a".into(), format!("{front}{redis}")), ("b".into(), redis)],
        manager_flags: Vec::new(),
        agent_flags: Vec::new(),
    };
    let cluster = Cluster::start(plan).expect("the programs are built: cargo xtask test");
    let graph = folder.join("graph.toml");
    std::fs::write(&graph, GRAPH).expect("written");
    cluster.patchbay(&["apply", &graph.display().to_string()]).expect("applied");
    let within = Duration::from_secs(30);
    let told = || -> (u64, u64, String) {
        let script = "import socket; s = socket.create_connection(('10.77.0.1', 9100), 20); print(s.makefile().read())";
        let output =
            cluster.plan().in_hub(&["python3", "-c", script]).output().expect("python3 is installed");
        let text = String::from_utf8_lossy(&output.stdout).trim().trim_matches(['[', ']']).to_owned();
        let mut parts = text.splitn(3, ", ");
        let mut number = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
        (number(), number(), parts.next().unwrap_or("unknown").to_owned())
    };
    cluster.wait("it works", within, |_| told().0 > 50).expect("in time");
    for (to, path) in [("b", "tcp"), ("a", "kernel"), ("b", "tcp")] {
        let [old] = &cluster.running("redis")[..] else { panic!("one runs") };
        let before = told();
        cluster.patchbay(&["move", &old.id.to_string(), to, "--yes"]).expect("moved");
        let arrived = |cluster: &Cluster| {
            let running = cluster.running("redis");
            let [new] = &running[..] else { return false };
            let sessions = cluster.sessions().unwrap_or_default();
            let is_there = |s: &Session| {
                s.state == "open"
                    && s.destination.instance == new.id
                    && s.path == path
                    && s.reason.as_deref() != Some("through the agent")
            };
            new.node == to && sessions.iter().any(is_there) && told().0 > before.0 + 50
        };
        cluster
            .wait(&format!("the client is with the one on {to}, directly"), within, arrived)
            .expect("in time");
    }
    let (_, connections, failed) = told();
    assert_eq!((connections, failed.as_str()), (4, ""), "one connection for each place, none refused");
    drop(cluster);
    let _ = std::fs::remove_dir_all(folder);
}
