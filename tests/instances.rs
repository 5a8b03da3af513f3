//! What instances are given and what becomes of what they write: environment, user, files, output.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use patchbay_api as api;
use patchbay_tests::Node;

/// A gateway of one program.
const GRAPH: &str = r#"
app = "alone"
[service.one]
kind = "gateway"
sockets.s = { protocol = "p", port = 9300 }
"#;

/// An entry that runs a Python text; it has `s`, its listening socket.
fn repository(script: &str, more: &str) -> String {
    let script = format!(
        "import os, socket, subprocess, sys, time\ns = socket.create_server((sys.argv[1], int(sys.argv[2])))\n{script}\ntime.sleep(600)"
    );
    format!(
        "[service.one]\nkind = \"adapted\"\nprogram = \"/usr/bin/python3\"\narguments = [\"-uc\", {script:?}, \"{{addr}}\", \"{{port:s}}\"]\nsockets = [\"s\"]\n{more}"
    )
}

fn start(script: &str, more: &str) -> (Node, api::Instance) {
    let node = Node::start(&repository(script, more));
    let output = node.apply(GRAPH);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let instance = node.running("one");
    (node, instance)
}

#[test]
fn instances_get_a_clean_environment_a_user_who_is_not_root_and_files_of_their_own() {
    let script = "print('ENV', sorted(os.environ.items()))
print('WHO', os.getuid(), os.getgroups(), oct(os.umask(0)))
open(os.environ['PATCHBAY_STATE'] + '/mine', 'w').write('x')
open(os.environ['PATCHBAY_DATA'] + '/kept', 'w').write('x')
open('/dev/stdout', 'a').write('REOPENED\\n')
print('FDS', sorted(os.listdir('/proc/self/fd')))";
    let (node, instance) = start(script, "data = true\nenvironment = { GREETING = \"hello {addr}\" }\n");
    node.wait("it has said all", |node| node.output(&instance).contains("FDS"));
    let said = node.output(&instance);
    assert!(said.contains("REOPENED"), "{said}");
    let names: Vec<&str> = said
        .lines()
        .find(|line| line.contains("ENV"))
        .expect("said")
        .split("('")
        .skip(1)
        .filter_map(|item| item.split('\'').next())
        .collect();
    let expected = [
        "GREETING",
        "HOME",
        "LANG",
        "LC_CTYPE",
        "LOGNAME",
        "PATCHBAY_DATA",
        "PATCHBAY_NODE",
        "PATCHBAY_STATE",
        "PATH",
        "SSMMP_AGENT",
        "USER",
    ];
    assert!(names.iter().all(|name| expected.contains(name)), "{names:?}");
    assert!(said.contains("'GREETING', 'hello 127.0.0.1'") && said.contains("'USER', 'nobody'"), "{said}");
    assert!(said.contains("WHO 65534 [] 0o22"), "{said}");
    // Its socket, the lock of its data, and the listing itself.
    let descriptors = said.lines().find(|line| line.contains("FDS")).expect("said").matches('\'').count() / 2;
    assert_eq!(descriptors, 3 + 3, "{said}");
    let state = node.folder().join("state");
    let place = |name: &str| state.join("instances").join(format!("one-{}{name}", instance.id));
    let secret = |path: &Path| {
        let found = fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (found.permissions().mode() & 0o777, found.uid())
    };
    assert_eq!(secret(&place("")), (0o700, 65_534));
    assert_eq!(secret(&place(".log")), (0o600, 0));
    assert_eq!(secret(&place(".toml")), (0o600, 0));
    assert_eq!(secret(&place(".out")), (0o600, 65_534));
    assert_eq!(secret(&state.join("data/one@alone")), (0o700, 65_534));
    assert_eq!(secret(&state.join("secret")), (0o600, 0));
    assert_eq!(secret(&state), (0o711, 0));
    for file in ["", "-wal"] {
        let file = node.folder().join(format!("manager.db{file}"));
        assert_eq!(secret(&file), (0o600, 0), "{}", file.display());
    }
}

/// Numbered lines that were kept, in their order.
fn numbers(node: &Node, instance: &api::Instance) -> Vec<u64> {
    let name = format!("state/instances/one-{}.log", instance.id);
    let files = [".3", ".2", ".1", ""].map(|ending| node.folder().join(format!("{name}{ending}")));
    let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap_or_default()).collect();
    text.lines().filter_map(|line| line.split(' ').nth(2)?.parse().ok()).collect()
}

#[test]
fn an_instance_goes_on_writing_while_its_agent_and_its_keeper_are_killed() {
    let script = "n = 0
while True:
    print('line', n, 'x' * 500, flush=True)
    n += 1
    time.sleep(0.0005)";
    let (mut node, instance) = start(script, "");
    let lines = |node: &Node, more: usize| {
        let before = numbers(node, &instance).len();
        node.wait("it goes on writing", |node| numbers(node, &instance).len() > before + more);
    };
    lines(&node, 20);
    node.kill_agent();
    // More than a pipe holds.
    lines(&node, 500);
    node.start_agent();
    lines(&node, 20);
    let keepers = node.cgroup().join("node/outputs/cgroup.procs");
    let keeper = fs::read_to_string(&keepers).expect("there");
    assert_eq!(keeper.lines().count(), 1, "one instance, one keeper: {keeper}");
    assert!(node.command("kill").args(["-9", keeper.trim()]).status().expect("it runs").success());
    lines(&node, 20);
    assert_eq!(node.running("one").id, instance.id);
    let numbers = numbers(&node, &instance);
    assert!(numbers.is_sorted_by(|a, b| a < b), "no line twice, none out of order");
    // What the killed keeper had read is lost, and nothing else.
    let gaps = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
    assert!(gaps <= 1, "{gaps} gaps");
}

#[test]
fn a_flood_of_output_is_bounded_and_keeps_nobody_waiting() {
    let (node, instance) = start(
        "text = b'x' * 199 + b'\\n'\nfor _ in range(1000): os.write(1, text * 2000)\nprint('the end')",
        "",
    );
    let state = node.folder().join("state/instances");
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    while !node.output(&instance).contains("the end") {
        let asked = Instant::now();
        assert!(node.patchbay(&["sessions"]).status.success());
        slowest = slowest.max(asked.elapsed());
        let bytes: u64 = fs::read_dir(&state)
            .expect("there")
            .flatten()
            .filter_map(|entry| entry.metadata().ok())
            .filter(|found| found.is_file())
            .map(|found| found.len())
            .sum();
        assert!(bytes < 20 << 20, "{bytes} bytes");
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not end");
    }
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

#[test]
fn an_instance_that_is_just_starting_is_taken_over_by_the_next_agent() {
    let script = "print('too late')";
    let repository = repository(script, "").replace("s = socket", "time.sleep(3); s = socket");
    let mut node = Node::start(&repository);
    assert!(node.apply(GRAPH).status.success());
    node.wait("it is executed", |node| node.instances().iter().any(|instance| instance.state == "starting"));
    let id = node.instances()[0].id;
    std::thread::sleep(Duration::from_millis(300));
    node.kill_agent();
    node.start_agent();
    assert_eq!(node.running("one").id, id);
}

/// What root's instances can do, and nobody else's: leave the cgroup.
#[test]
fn what_a_root_instance_takes_out_of_its_cgroup_ends_with_it() {
    let script =
        "root = next(line.split()[1] for line in open('/proc/mounts') if line.split()[2] == 'cgroup2')
sleepers = [subprocess.Popen(['sleep', '600']), subprocess.Popen(['setsid', 'sleep', '600'])]
for process in sleepers: open(root + '/cgroup.procs', 'w').write(str(process.pid))
open(root + '/cgroup.procs', 'w').write(str(os.getpid()))
print('OUT', *[process.pid for process in sleepers], os.getpid())";
    let (mut node, instance) = start(script, "user = \"root\"\n");
    node.wait("it has left", |node| node.output(&instance).contains("OUT"));
    let said = node.output(&instance);
    let line = said.lines().find(|line| line.contains("OUT")).expect("said");
    let processes: Vec<String> =
        line.split("OUT ").nth(1).expect("ids").split(' ').map(str::to_owned).collect();
    let alive = |process: &String| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        !status.is_empty() && !status.contains("State:\tZ")
    };
    assert_eq!(processes.iter().filter(|process| alive(process)).count(), 3);
    // The next agent still knows it, and brings it back.
    node.kill_agent();
    node.start_agent();
    assert_eq!(node.running("one").id, instance.id);
    node.wait("it is put back", |node| node.processes(&instance).len() == 1);
    assert!(node.log("patchbay-agent").contains("it left its cgroup and is put back"));
    assert!(node.patchbay(&["stop", "alone", "--yes"]).status.success());
    node.wait("it has ended", |node| node.instances().iter().all(|i| i.state == "ended"));
    let left: Vec<&String> = processes.iter().filter(|process| alive(process)).collect();
    assert!(left.is_empty(), "{left:?} live");
}

#[test]
fn a_missing_program_makes_one_service_unavailable_and_leaves_what_runs() {
    let good = repository("", "");
    let mut node =
        Node::start(&format!("{good}\n[service.gone]\nkind = \"native\"\nprogram = \"/no/such\"\n"));
    assert!(node.log("patchbay-agent").contains("there is no program /no/such"));
    assert!(node.apply(GRAPH).status.success());
    let instance = node.running("one");
    let check = node
        .command(&node.program("patchbay-agent"))
        .args(["check", "--repository", &node.folder().join("repository.toml").display().to_string()])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(!check.status.success() && said.contains("there is no program /no/such"), "{said}");
    // Its program goes away under a running instance: the next agent keeps it.
    let file = node.folder().join("repository.toml");
    let text = fs::read_to_string(&file).expect("there");
    fs::write(&file, text.replace("/usr/bin/python3", "/no/python")).expect("written");
    node.kill_agent();
    node.start_agent();
    assert_eq!(node.running("one").id, instance.id);
    // Who wants it is told why nobody has it.
    let graph =
        GRAPH.replace("alone", "other").replace("service.one", "service.gone").replace("9300", "9301");
    assert!(node.apply(&graph).status.success());
    node.wait("the reason is told", |node| {
        String::from_utf8_lossy(&node.patchbay(&["apps"]).stdout).contains("there is no program /no/such")
    });
}

#[test]
fn outputs_are_read_through_the_manager_from_anywhere() {
    let script = "print('first\\x1b[31m\\x00red'); sys.stderr.write('an error\\n')
for n in range(3000): print('number', n)
import threading
def later():
    n = 0
    while True: time.sleep(0.2); print('later', n); n += 1
threading.Thread(target=later, daemon=True).start()";
    let (node, instance) = start(script, "");
    node.wait("it writes", |node| node.output(&instance).contains("later 0"));
    let id = instance.id.to_string();
    let logs = |arguments: &[&str]| {
        let output = node.patchbay(&[&["logs"], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let whole = logs(&[&id, "--since", "1h"]);
    assert!(whole.contains("first\\u{1b}[31m\\u{0}red") && whole.contains("an error"), "{}", &whole[..300]);
    let numbers: Vec<u64> =
        whole.lines().filter_map(|line| line.split_once(" number ")?.1.parse().ok()).collect();
    assert_eq!(numbers, (0..3000).collect::<Vec<_>>(), "every line once, in its order, over many answers");
    let last = logs(&["one", "--app", "alone", "--tail", "3"]);
    assert_eq!(last.lines().count(), 3, "{last}");
    let json = logs(&[&id, "--since", "1h", "--output", "json"]);
    let first: serde_json::Value = serde_json::from_str(json.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["text"], "first\u{1b}[31m\u{0}red");
    // Following shows what comes, and nothing twice.
    let file = node.folder().join("followed");
    let mut follower = node
        .command(&node.program("patchbay"))
        .env("PATCHBAY_MANAGER", format!("unix:{}", node.folder().join("manager.sock").display()))
        .args(["logs", &id, "--follow", "--tail", "1"])
        .stdout(fs::File::create(&file).expect("made"))
        .spawn()
        .expect("it runs");
    let later = |_: &Node| -> Vec<u64> {
        let shown = fs::read_to_string(&file).expect("there");
        shown.lines().filter_map(|line| line.split_once(" later ")?.1.parse().ok()).collect()
    };
    node.wait("it shows what comes", |node| later(node).len() > 5);
    follower.kill().expect("ours");
    follower.wait().expect("it ends");
    let later = later(&node);
    assert!(later.windows(2).all(|pair| pair[1] == pair[0] + 1), "{later:?}");
    // It can still be read when the instance has ended.
    assert!(node.patchbay(&["stop", "alone", "--yes"]).status.success());
    node.wait("it has ended", |node| node.instances().iter().all(|i| i.state == "ended"));
    assert!(logs(&[&id, "--tail", "5"]).contains("later"));
    let unknown = node.patchbay(&["logs", "nobody"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no instance or service `nobody`"));
}
