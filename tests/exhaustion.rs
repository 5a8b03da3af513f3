//! What becomes of Manager and agent while a machine is short of descriptors or of disk, and when its clock is set:
//! they live, go on with what needs nothing new, say it in a few lines, and recover by themselves.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use patchbay_api as api;
use patchbay_tests::talker::Talker;
use patchbay_tests::{HELLO, Node, REPOSITORY};

/// Between two requests of a user whose session lasts.
const PAUSE: Duration = Duration::from_millis(10);
/// Asks once and prints the answer.
const ASK: &str = "import socket; s = socket.create_connection(('127.0.0.1', 9000)); s.settimeout(20); \
                   s.sendall(b'x\\n'); print(s.recv(99))";
/// Goes on for so long in these tests, that a line for each failure would be many.
const A_WHILE: Duration = Duration::from_millis(2_500);
/// Lines in powers of two for what happens ten times a second for that long, and some.
const FEW_LINES: usize = 7;

/// A small file system at a folder, which goes with the test. To be made before the node, so that it goes after it.
struct Disk(PathBuf);

impl Disk {
    fn new(folder: PathBuf, options: &str) -> Self {
        fs::create_dir_all(&folder).expect("a folder");
        let mount = ["-t", "tmpfs", "-o", options, "patchbay-test"];
        let status =
            Command::new("mount").args(mount).arg(&folder).status().expect("util-linux is installed");
        assert!(status.success(), "a small disk is mounted");
        Self(folder)
    }

    /// Nothing more can be written.
    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).expect("there is room");
        while file.write_all(&[0; 4096]).is_ok() {}
        while file.write_all(&[0]).is_ok() {}
    }

    /// No further file can be made.
    fn fill_inodes(&self) {
        fs::create_dir_all(self.0.join("fillers")).expect("there is room");
        let mut number = 0;
        while File::create(self.0.join(format!("fillers/{number}"))).is_ok() {
            number += 1;
        }
    }

    fn make_room(&self) {
        let _ = fs::remove_file(self.0.join("filler"));
        let _ = fs::remove_dir_all(self.0.join("fillers"));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy", "--quiet"]).arg(&self.0).status();
        let _ = fs::remove_dir_all(&self.0);
        // The node could not remove its folder while this was mounted below.
        let _ = self.0.parent().map(fs::remove_dir);
    }
}

/// Lets a process open nothing beyond what it has, or all again: those below the limit are taken by its standard
/// streams.
fn limit_descriptors(process: u32, short: bool) {
    let limit = if short { 3 } else { 1_024 };
    let status = Command::new("prlimit")
        .args(["--pid", &process.to_string(), &format!("--nofile={limit}:")])
        .status()
        .expect("util-linux is installed");
    assert!(status.success(), "prlimit {limit}");
}

fn lives(process: u32) -> bool {
    Path::new(&format!("/proc/{process}/fd")).exists()
}

fn count(node: &Node, program: &str, text: &str) -> usize {
    node.log(program).matches(text).count()
}

fn nodes(node: &Node) -> Vec<api::Node> {
    serde_json::from_str(&node.list("nodes")).unwrap_or_default()
}

#[test]
fn an_agent_without_descriptors_goes_on_and_takes_instances_again_when_it_has_some() {
    let node = Node::start(REPOSITORY);
    assert!(node.apply(HELLO).status.success());
    let gateway = node.running("gateway");
    let talker = Talker::with_pause(&node, PAUSE);
    node.wait("they talk", |node| !node.sessions().is_empty());
    let agent = node.agent_process();
    limit_descriptors(agent, true);
    // It asks for what the agent can't take, and waits: the kernel has its connection.
    let waits = "import socket; s = socket.create_connection(('127.0.0.1', 55556)); s.settimeout(20); \
                 s.sendall(b'type: session_request\\n\\n'); print(len(s.recv(99)) > 0)";
    let asks = node
        .inside(&gateway, "python3")
        .args(["-c", waits])
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is installed");
    node.wait("it is said", |node| count(node, "patchbay-agent", "can't be accepted") > 0);
    std::thread::sleep(A_WHILE);
    let lines = count(&node, "patchbay-agent", "can't be accepted");
    assert!((2..=FEW_LINES).contains(&lines), "{lines}\n{}", node.log("patchbay-agent"));
    assert!(nodes(&node).iter().all(|node| node.state == "up"), "{:?}", nodes(&node));
    limit_descriptors(agent, false);
    let asked = asks.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&asked.stdout).trim(), "True", "it is served at last");
    assert_eq!(node.python(ASK), "b'hello, x\\n'");
    talker.end();
    assert_eq!(node.agent_process(), agent);
    assert!(lives(agent));
}

#[test]
fn a_manager_without_descriptors_serves_whom_it_has_and_the_others_when_it_has_some() {
    let mut node = Node::start(REPOSITORY);
    assert!(node.apply(HELLO).status.success());
    let gateway = node.running("gateway");
    let talker = Talker::with_pause(&node, PAUSE);
    let manager = node.manager_process();
    limit_descriptors(manager, true);
    // A new session is still configured: the agent is connected.
    assert_eq!(node.python(ASK), "b'hello, x\\n'");
    let socket = format!("unix:{}", node.folder().join("manager.sock").display());
    let asks = node
        .command(&node.program("patchbay"))
        .env("PATCHBAY_MANAGER", socket)
        .arg("status")
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    std::thread::sleep(A_WHILE);
    let lines = count(&node, "patchbay-manager", "can't be accepted");
    assert!((2..=FEW_LINES).contains(&lines), "{lines}\n{}", node.log("patchbay-manager"));
    node.kill_agent();
    limit_descriptors(manager, false);
    let answered = asks.wait_with_output().expect("it ends");
    assert!(answered.status.success(), "who waited is served");
    node.start_agent();
    assert_eq!(node.running("gateway").id, gateway.id);
    talker.end();
    assert!(lives(manager));
}

/// A node whose state folder is a small disk that fills up, while an instance and the agent are killed. What is said
/// of the instance that is to be started meanwhile; nothing where it could be.
fn state_fills_up(options: &str, fill: impl Fn(&Disk)) -> Option<String> {
    let node = Node::prepare(REPOSITORY, &[], &[]);
    let disk = Disk::new(node.folder().join("state"), options);
    let mut node = node;
    node.start_manager();
    node.start_agent();
    assert!(node.apply(HELLO).status.success());
    let gateway = node.running("gateway");
    assert_eq!(node.python(ASK), "b'hello, x\\n'");
    fill(&disk);
    // It goes on with what it has.
    assert_eq!(node.python(ASK), "b'hello, x\\n'");
    let agent = node.agent_process();
    for process in node.processes(&gateway) {
        let _ = Command::new("kill").args(["-9", &process]).status();
    }
    let app = |node: &Node| -> Vec<api::App> { serde_json::from_str(&node.list("apps")).unwrap_or_default() };
    let problem = |node: &Node| {
        app(node).iter().flat_map(|app| app.services.clone()).find_map(|service| service.problem)
    };
    let next = |node: &Node| {
        node.instances().iter().any(|i| i.service == "gateway" && i.state == "running" && i.id > gateway.id)
    };
    let no_room = |node: &Node| problem(node).filter(|problem| problem.contains("No space left"));
    node.wait("the next one runs, or it is said why not", |node| no_room(node).is_some() || next(node));
    let said = no_room(&node);
    assert!(lives(agent));
    // Nor does a new agent need room.
    node.kill_agent();
    node.start_agent();
    std::thread::sleep(A_WHILE);
    let log = node.log("patchbay-agent");
    assert!(log.matches("can't be kept").count() <= FEW_LINES, "{log}");
    disk.make_room();
    assert!(node.running("gateway").id > gateway.id, "it comes back by itself");
    assert_eq!(node.python(ASK), "b'hello, x\\n'");
    drop(node);
    drop(disk);
    said
}

#[test]
fn a_node_whose_disk_has_no_byte_left_goes_on() {
    // What the ended instance leaves may be enough for the next one.
    state_fills_up("size=2m", Disk::fill);
}

#[test]
fn a_node_whose_disk_has_no_inode_left_goes_on_and_starts_instances_when_there_is_room() {
    let said = state_fills_up("size=64m,nr_inodes=200", Disk::fill_inodes);
    assert!(said.is_some(), "it was started without a file");
}

#[test]
fn logs_on_a_full_disk_end_neither_manager_nor_agent() {
    let node = Node::prepare(REPOSITORY, &[], &[]);
    let repository = fs::read_to_string(node.folder().join("repository.toml")).expect("there");
    let disk = Disk::new(node.folder().to_owned(), "size=8m");
    fs::write(node.folder().join("repository.toml"), repository).expect("written");
    let mut node = node;
    node.start_manager();
    node.start_agent();
    assert!(node.apply(HELLO).status.success());
    let gateway = node.running("gateway");
    let talker = Talker::with_pause(&node, PAUSE);
    node.wait("they talk", |node| !node.sessions().is_empty());
    let (manager, agent) = (node.manager_process(), node.agent_process());
    disk.fill();
    for process in [manager, agent] {
        // Each has something to say on this signal.
        let status = Command::new("kill").args(["-HUP", &process.to_string()]).status().expect("it runs");
        assert!(status.success());
    }
    std::thread::sleep(A_WHILE);
    assert!(lives(manager) && lives(agent));
    disk.make_room();
    node.wait("the Manager answers again", |node| node.patchbay(&["status"]).status.success());
    assert_eq!(node.running("gateway").id, gateway.id);
    assert_eq!(node.python(ASK), "b'hello, x\\n'");
    talker.end();
    drop(node);
    drop(disk);
}

/// Manager and agent see a clock that is set while they run: their calls that ask for the time of day are
/// answered by a library in between, the time that only grows stays the kernel's.
#[test]
fn a_clock_that_is_set_while_they_run_changes_nothing_for_sessions_and_instances() {
    let mut node = Node::prepare(REPOSITORY, &[], &["--health-interval=1"]);
    let clock = node.folder().join("clock");
    let set = |text: &str| {
        fs::write(clock.with_extension("new"), text).expect("written");
        fs::rename(clock.with_extension("new"), &clock).expect("replaced");
    };
    set("+0");
    node.set_environment(&[
        ("LD_PRELOAD", library().as_str()),
        ("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]);
    node.start_manager();
    node.start_agent();
    assert!(node.apply(HELLO).status.success());
    let gateway = node.running("gateway");
    let talker = Talker::with_pause(&node, PAUSE);
    node.wait("they talk", |node| !node.sessions().is_empty());
    for jump in ["+3650d", "-3650d", "+0"] {
        set(jump);
        std::thread::sleep(A_WHILE);
        assert_eq!(node.python(ASK), "b'hello, x\\n'", "{jump}");
        let doctor = String::from_utf8_lossy(&node.patchbay(&["doctor"]).stdout).into_owned();
        assert_eq!(doctor.contains("was set by"), jump != "+0", "{jump}: {doctor}");
        assert!(nodes(&node).iter().all(|node| node.state == "up"), "{jump}");
    }
    // Those that start while it is wrong know what was there before.
    for jump in ["+3650d", "-3650d"] {
        set(jump);
        node.kill_agent();
        node.start_agent();
        assert_eq!(node.python(ASK), "b'hello, x\\n'", "{jump}");
        node.kill_manager();
        node.start_manager();
        node.wait("the agent is back", |node| nodes(node).iter().any(|node| node.state == "up"));
        assert_eq!(node.python(ASK), "b'hello, x\\n'", "{jump}");
    }
    assert_eq!(node.running("gateway").id, gateway.id);
    talker.end();
    let events = String::from_utf8_lossy(&node.patchbay(&["events"]).stdout).into_owned();
    for bad in ["service-failing", "instance-failed", "instance-silent"] {
        assert!(!events.contains(bad), "{bad}:\n{events}");
    }
}

/// libfaketime, of Debian's package `faketime`.
fn library() -> String {
    let folders = fs::read_dir("/usr/lib").expect("there").flatten().map(|entry| entry.path());
    let found = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|file| file.exists());
    found.expect("faketime is installed: run `cargo xtask test`").display().to_string()
}
