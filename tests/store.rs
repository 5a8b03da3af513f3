//! What becomes of the Manager's database: a full disk, damage, backups, a second Manager, history.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use patchbay_api as api;
use patchbay_tests::{HELLO, Node, REPOSITORY};

const WITHIN: Duration = Duration::from_secs(20);

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release").join(name)
}

/// A Manager alone, its database on a small file system of its own in a mount namespace.
struct Lone {
    folder: PathBuf,
    manager: Child,
}

impl Lone {
    fn start(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("patchbay-store-{name}-{}", std::process::id()));
        fs::create_dir_all(folder.join("disk")).expect("a folder");
        let mount = "mount -t tmpfs -o size=8m patchbay-test \"$0\" && exec \"$@\"";
        let log = fs::File::create(folder.join("log")).expect("a log");
        let manager = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", mount])
            .arg(folder.join("disk"))
            .arg(program("patchbay-manager"))
            .args(["--listen-agents=127.0.0.1:0", "--socket"])
            .arg(folder.join("manager.sock"))
            .arg("--database")
            .arg(folder.join("disk/manager.db"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("util-linux is installed");
        let lone = Self { folder, manager };
        lone.wait("it is ready", |lone| lone.log().contains(" ready "));
        lone
    }

    /// The file system as the Manager sees it.
    fn disk(&self) -> PathBuf {
        let inside = self.folder.join("disk");
        Path::new("/proc")
            .join(self.manager.id().to_string())
            .join("root")
            .join(inside.strip_prefix("/").expect("absolute"))
    }

    /// The Manager's program beside this one, with its file system: SQLite can't follow [`Self::disk`].
    fn beside(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.manager.id())).arg(program("patchbay-manager"));
        command
    }

    fn database(&self) -> PathBuf {
        self.folder.join("disk/manager.db")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn patchbay(&self, arguments: &[&str]) -> Output {
        Command::new(program("patchbay"))
            .args(["--manager", &format!("unix:{}", self.folder.join("manager.sock").display())])
            .args(arguments)
            .output()
            .expect("it runs")
    }

    fn apply(&self, graph: &str) -> Output {
        let file = self.folder.join("graph.toml");
        fs::write(&file, graph).expect("written");
        self.patchbay(&["apply", &file.display().to_string()])
    }

    fn wait(&self, what: &str, is_true: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_true(self) {
            assert!(begun.elapsed() < WITHIN, "not in time: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Lone {
    fn drop(&mut self) {
        let _ = self.manager.kill();
        let _ = self.manager.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

#[test]
fn a_full_disk_is_said_in_few_lines_nothing_is_answered_and_the_manager_goes_on_when_there_is_room() {
    let lone = Lone::start("full");
    assert!(lone.apply(HELLO).status.success());
    let filler = lone.disk().join("filler");
    let mut file = fs::File::create(&filler).expect("made");
    while file.write_all(&[0; 4096]).is_ok() {}
    let other = HELLO.replace("app = \"hello\"", "app = \"other\"");
    let mut refused = lone.apply(&other);
    // What fitted into the rest of a page was kept.
    for number in 0..50 {
        if !refused.status.success() {
            break;
        }
        refused = lone.apply(&HELLO.replace("app = \"hello\"", &format!("app = \"more{number}\"")));
    }
    let text = said(&refused);
    assert!(
        !refused.status.success() && text.contains("disk is full") && text.contains("make room"),
        "{text}"
    );
    let status = lone.patchbay(&["status"]);
    assert!(!status.status.success() && said(&status).contains("nothing is answered until it can be"));
    std::thread::sleep(Duration::from_millis(3_200));
    // It is tried twice a second, and told in powers of two.
    let lines = lone.log().matches("refuses to be written").count();
    assert!((1..=4).contains(&lines), "{}", lone.log());

    fs::remove_file(&filler).expect("removed");
    drop(file);
    lone.wait("it goes on", |lone| lone.patchbay(&["status"]).status.success());
    assert!(lone.log().contains("the database can be written again"));
    let apps: Vec<api::App> =
        serde_json::from_slice(&lone.patchbay(&["apps", "--output", "json"]).stdout).expect("apps");
    assert!(
        apps.iter().any(|app| app.name == "hello") && apps.len() >= 2,
        "what was asked is done: {apps:?}"
    );
}

/// A Manager that should not start; what it said.
fn refused(mut manager: Command, database: &Path) -> String {
    let socket = database.with_extension(format!("{}.sock", std::process::id()));
    manager.args(["--listen-agents=127.0.0.1:0", "--socket"]).arg(&socket).arg("--database").arg(database);
    let output = manager.output().expect("it runs");
    assert!(!output.status.success(), "{}", said(&output));
    said(&output)
}

fn manage(mut manager: Command, task: &[&str], database: &Path) -> Output {
    manager.args(task).arg("--database").arg(database).output().expect("it runs")
}

fn manager() -> Command {
    Command::new(program("patchbay-manager"))
}

#[test]
fn a_database_is_backed_up_while_it_is_used_and_restored_when_it_is_damaged() {
    let lone = Lone::start("backup");
    assert!(lone.apply(HELLO).status.success());
    let database = lone.database();
    assert!(refused(lone.beside(), &database).contains("another Manager"));
    let backup = lone.folder.join("backup.db");
    let output = manage(lone.beside(), &["backup", &backup.display().to_string()], &database);
    assert!(output.status.success(), "{}", said(&output));
    let checked = manage(lone.beside(), &["check"], &database);
    assert!(said(&checked).contains("no damage found"), "{}", said(&checked));

    let mut bytes = fs::read(&backup).expect("read");
    bytes[4096..].fill(0x55);
    let damaged = lone.folder.join("damaged.db");
    fs::write(&damaged, bytes).expect("written");
    for text in [refused(manager(), &damaged), said(&manage(manager(), &["check"], &damaged))] {
        assert!(text.contains("it is damaged") && text.contains("patchbay-manager backup"), "{text}");
    }
    fs::write(&damaged, "no database").expect("written");
    assert!(refused(manager(), &damaged).contains("is no SQLite database"));

    let read_only = lone.folder.join("read-only");
    fs::create_dir(&read_only).expect("a folder");
    let script = "mount -t tmpfs -o size=8m patchbay-test \"$0\" && cp \"$1\" \"$0/manager.db\" && \
                  mount -o remount,ro \"$0\" && exec \"$2\" --listen-agents=127.0.0.1:0 --database \"$0/manager.db\"";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .args([&read_only, &backup, &program("patchbay-manager")])
        .output()
        .expect("util-linux is installed");
    assert!(!output.status.success() && said(&output).contains("Read-only file system"), "{}", said(&output));

    // The backup in the database's place.
    fs::remove_file(&damaged).expect("removed");
    fs::copy(&backup, &damaged).expect("copied");
    let output = manage(manager(), &["check"], &damaged);
    assert!(output.status.success() && said(&output).contains("1 apps"), "{}", said(&output));
}

const GREET: &str = "import socket; s = socket.create_connection(('127.0.0.1', 9000), 20); \
                     s.settimeout(20); s.sendall(b'world\\n'); print(s.recv(100).decode())";

#[test]
fn history_answers_for_what_has_ended_and_ends_itself() {
    let mut node = Node::start_with_both(REPOSITORY, &[], &[]);
    assert!(node.apply(HELLO).status.success());
    let gateway = node.running("gateway");
    assert_eq!(node.python(GREET), "hello, world");
    node.wait("the session has ended", |node| node.sessions().iter().any(|s| s.state == "closed"));
    let id = node.sessions()[0].id.to_string();
    let history = |node: &Node, what: &[&str]| said(&node.patchbay(&[&["history"], what].concat()));

    let session = history(&node, &["session", &id]);
    for expected in ["kernel", "status 111", "gateway/", "session-opened", "→ 127.0.0.1:54"] {
        assert!(session.contains(expected), "{expected}: {session}");
    }
    let json = node.patchbay(&["history", "instance", &gateway.id.to_string(), "--output", "json"]);
    let instance: api::InstanceHistory = serde_json::from_slice(&json.stdout).expect("JSON");
    let states: Vec<_> = instance.changes.iter().map(|change| change.state.as_str()).collect();
    assert_eq!(states, ["starting", "running"]);
    assert_eq!((instance.sessions.len(), instance.sessions[0].sent.kernel_messages), (1, 1));
    let told = history(&node, &["node", "test"]);
    assert!(told.contains("node-up") && told.contains("hello/gateway"), "{told}");
    assert!(history(&node, &["session", "99"]).contains("there is no session 99 in the kept history"));
    let metrics = node.python(&format!(
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('{}'); s.sendall(b'GET /metrics HTTP/1.0\\r\\n\\r\\n'); print(s.makefile().read())",
        node.folder().join("manager.sock").display()
    ));
    for expected in [
        "patchbay_messages_by_type_total{message=\"session_request\"} 1",
        "patchbay_database_writable 1",
        "patchbay_instances 2",
        "patchbay_commit_seconds_count",
        "# EOF",
    ] {
        assert!(metrics.contains(expected), "{expected}: {metrics}");
    }

    node.kill_manager();
    let database = node.folder().join("manager.db").display().to_string();
    let socket = node.folder().join("manager.sock").display().to_string();
    let _short = Ended(
        node.command(&node.program("patchbay-manager"))
            .args(["--database", &database, "--socket", &socket, "--keep-history", "1s"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("started"),
    );
    node.wait("it answers", |node| node.patchbay(&["status"]).status.success());
    // The newest row of each kind stays: it tells which numbers were given.
    assert_eq!(node.python(GREET), "hello, world");
    node.wait("the first session is forgotten", |node| {
        history(node, &["session", &id]).contains("in the kept history")
    });
    let living = history(&node, &["instance", &gateway.id.to_string()]);
    assert!(living.contains("running"), "what lives is kept: {living}");
}

/// Ends with the test, also when it fails.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
