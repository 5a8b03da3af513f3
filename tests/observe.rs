//! What an agent tells of itself: metrics that dashboard and alerts name, health, flows.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use patchbay_agent::datapath::cgroup2_mount;
use serde_json::Value;
use tempfile::TempDir;

const BUILT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release");
const SESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scopes.py");
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
/// Long enough for everything on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);

/// A cgroup, a folder, and an agent with a socket in it.
struct Observed {
    cgroup: PathBuf,
    folder: TempDir,
    agent: Child,
}

impl Observed {
    fn start(name: &str, arguments: impl Fn(&Path, &Path) -> Vec<String>) -> Self {
        let name = format!("pbo{}-{name}", std::process::id());
        let cgroup = cgroup2_mount().expect("cgroup v2 is mounted").join(name);
        fs::create_dir(&cgroup).expect("root makes cgroups");
        let folder = tempfile::tempdir().expect("a folder");
        let agent = Command::new(format!("{BUILT}/patchbay-agent"))
            .args(arguments(&cgroup, folder.path()))
            .arg("--observe")
            .arg(format!("unix:{}", folder.path().join("agent.sock").display()))
            .stdout(Stdio::null())
            .spawn()
            .expect("built");
        let observed = Self { cgroup, folder, agent };
        observed.wait_for("it listens", || observed.socket().exists());
        observed
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// The status and the text of an answer.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.socket()).expect("it listens");
        stream.set_read_timeout(Some(WITHIN)).expect("a time");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("answered");
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, text.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned()))
    }

    fn wait_for(&self, what: &str, mut done: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < WITHIN, "{what}: not in time");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.agent.id().cast_signed()), Signal::SIGTERM);
        let _ = self.agent.wait();
        for below in ["instances", ""] {
            let _ = fs::remove_dir(self.cgroup.join(below));
        }
    }
}

fn node(cgroup: &Path, folder: &Path) -> Vec<String> {
    let (cgroup, state) = (cgroup.display().to_string(), folder.join("state").display().to_string());
    let words = [
        "node",
        "--pods",
        "off",
        "--redirect",
        "always",
        "--node",
        "here",
        "--cgroup",
        &cgroup,
        "--state-dir",
        &state,
    ];
    words.map(str::to_owned).to_vec()
}

/// An agent whose Manager does not answer.
fn alone(cgroup: &Path, folder: &Path) -> Vec<String> {
    let repository = folder.join("repository.toml");
    fs::write(&repository, "").expect("written");
    let free = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("loopback");
    let (state, name) =
        (folder.join("state"), cgroup.file_name().expect("a name").to_string_lossy().into_owned());
    let words = [
        "run",
        "--manager",
        "127.0.0.1:1",
        "--address",
        "127.0.0.1",
        "--node",
        &name,
        "--cgroup",
        &cgroup.display().to_string(),
        "--listen",
        &free.to_string(),
        "--repository",
        &repository.display().to_string(),
        "--state-dir",
        &state.display().to_string(),
    ];
    words.map(str::to_owned).to_vec()
}

fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let found = text.match_indices("patchbay_agent_").map(|(at, _)| &text[at..]);
    found.map(|rest| rest.split(|c| !is_part(c)).next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn sessions_are_counted_shown_as_flows_and_every_metric_that_alerts_and_dashboard_name_exists() {
    let observed = Observed::start("node", node);
    observed.wait_for("it is ready", || observed.get("/readyz").0 == 200);
    assert_eq!(observed.get("/healthz"), (200, "ok\n".into()));
    let script = "echo 0 > \"$0/cgroup.procs\" && ip link set lo up && exec python3 \"$@\"";
    let mut inside = Command::new("unshare");
    inside.args(["--net", "sh", "-c", script]).arg(&observed.cgroup).args([SESSIONS, "7"]);
    assert!(inside.stdout(Stdio::null()).status().expect("unshare is installed").success());
    let line = |wanted: &str| observed.get("/metrics").1.lines().any(|line| line == wanted);
    // Four bytes each way.
    observed.wait_for("its bytes", || line("patchbay_agent_bytes_total{path=\"kernel\"} 56"));
    assert!(
        line("patchbay_agent_sessions_total{path=\"kernel\",reason=\"\"} 7"),
        "{}",
        observed.get("/metrics").1
    );

    let mut flows = Command::new(format!("{BUILT}/patchbay"));
    let flows =
        flows.args(["flows", "-o", "jsonpb", "--socket"]).arg(observed.socket()).output().expect("built");
    let lines: Vec<Value> = flows
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    let closed = lines.iter().filter(|line| line["flow"]["l4"]["TCP"]["flags"]["FIN"] == true);
    assert_eq!(closed.clone().count(), 7, "{lines:?}");
    for line in closed {
        assert_eq!((&line["node_name"], &line["flow"]["Type"]), (&"here".into(), &"SOCK".into()));
        assert!(
            line["flow"]["Summary"].as_str().expect("text").contains("8 bytes through the kernel"),
            "{line}"
        );
    }

    let with_manager = Observed::start("run", alone);
    with_manager.wait_for("its self-test", || with_manager.get("/readyz").1.contains("self-test: ok"));
    let (status, said) = with_manager.get("/readyz");
    assert!(status == 503 && said.contains("manager: not registered"), "{said}");
    let scraped = observed.get("/metrics").1 + &with_manager.get("/metrics").1;
    // With pods alone.
    let told: BTreeSet<String> = names(&scraped);
    for file in ["chart/files/alerts.yaml", "grafana/agents.json"] {
        let text = fs::read_to_string(Path::new(DEPLOY).join(file)).expect("ours");
        let named = names(&text);
        assert!(named.len() > 4, "{file}: {named:?}");
        for name in named {
            assert!(
                told.contains(&name) || name == "patchbay_agent_pods",
                "{file} names {name}, which is not told"
            );
        }
    }
}

#[test]
fn connections_are_bounded_and_a_second_agent_says_who_listens() {
    let observed = Observed::start("bounded", node);
    let held: Vec<UnixStream> = (0..40).filter_map(|_| UnixStream::connect(observed.socket()).ok()).collect();
    // One too many is closed without a word.
    observed.wait_for("those over the bound are closed", || {
        held.iter().any(|stream| {
            stream.set_nonblocking(true).expect("a socket");
            let mut stream = stream;
            matches!(stream.read(&mut [0]), Ok(0))
        })
    });
    drop(held);
    observed.wait_for("there is room again", || {
        UnixStream::connect(observed.socket()).is_ok_and(|mut stream| {
            let _ = write!(stream, "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let mut text = String::new();
            stream.read_to_string(&mut text).is_ok_and(|_| text.contains("200 OK"))
        })
    });
    let mut second = Command::new(format!("{BUILT}/patchbay-agent"));
    second.args(node(&observed.cgroup, observed.folder.path()));
    let second = second.output().expect("built");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("belongs to a running agent"), "{said}");
}
