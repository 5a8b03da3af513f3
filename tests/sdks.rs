//! Services in C and Python between real Manager, agent and a service in Rust: through memory, as these do.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use patchbay_tests::user::User;
use patchbay_tests::{HELLO, Node, REPOSITORY};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Compiles an example against the header and the library.
fn compile(example: &str, into: &Path) -> PathBuf {
    let program = into.join(example.trim_end_matches(".c"));
    let compiled = Command::new("cc")
        .args(["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"])
        .arg(format!("-I{}", root().join("sdk-c/include").display()))
        .arg(root().join("sdk-c/examples").join(example))
        .arg(format!("-L{}", root().join("target/release").display()))
        .args(["-lpatchbay", "-o"])
        .arg(&program)
        .output()
        .expect("cc is installed");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    program
}

/// A greeter of another language, behind the gateway in Rust.
fn exchanges(node: &str) {
    let own = tempfile::tempdir().expect("a folder");
    // Instances may run as anybody.
    std::fs::set_permissions(own.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    let entry = match node.rsplit_once('.') {
        Some((_, "c")) => {
            let program = compile(node, own.path());
            format!("program = \"{}\"\nenvironment = {{ LD_LIBRARY_PATH = \"{{bin}}\" }}", program.display())
        }
        _ => format!(
            "program = \"/usr/bin/python3\"\narguments = [\"{{tests}}/../python/examples/{node}\"]\n\
             environment = {{ PYTHONPATH = \"{{tests}}/../python\", PATCHBAY_LIBRARY = \"{{bin}}/libpatchbay.so\", \
             PYTHONDONTWRITEBYTECODE = \"1\" }}"
        ),
    };
    let repository = REPOSITORY.replace("program = \"{bin}/hello-greeter\"", &entry);
    assert_ne!(repository, REPOSITORY);
    let node = Node::start_with(&repository, &["--memory=on"]);
    assert!(node.apply(HELLO).status.success());
    let _ = node.running("gateway");
    let mut user = User::begin(&node);
    let _ = user.goes_on(2 << 20);
    node.wait("its session goes through memory", |node| {
        let sessions = node.sessions();
        sessions
            .iter()
            .any(|s| s.path == "memory" && s.sent.memory_bytes.min(s.received.memory_bytes) > 1 << 19)
    });
    // Back to the other ways, and no byte is wrong.
    assert!(node.patchbay(&["redirect", "off", "--node", "test"]).status.success());
    let _ = user.goes_on(2 << 20);
    node.wait("its session is back", |node| node.sessions().iter().all(|session| session.path != "memory"));
    drop(user);
    // It ends as it is asked to.
    assert!(node.patchbay(&["stop", "hello", "--yes"]).status.success());
    node.wait("all instances have ended", |node| node.instances().iter().all(|i| i.state == "ended"));
}

#[test]
fn a_service_in_c_exchanges_through_memory() {
    exchanges("greeter.c");
}

/// Without an agent, with one thread for all its sessions: what comes back is what was sent, however much is under way.
#[test]
fn a_loop_in_c_serves_many_sessions_by_their_descriptors() {
    let own = tempfile::tempdir().expect("a folder");
    let at =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let mut echo = Command::new(compile("echo.c", own.path()))
        .env("SOCKET_NAMES", at.to_string())
        .env("LD_LIBRARY_PATH", root().join("target/release"))
        .spawn()
        .expect("compiled");
    let connect = || {
        let begun = Instant::now();
        loop {
            match TcpStream::connect(at) {
                Ok(stream) => return stream,
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(20), "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let users: Vec<_> = (0..8u8)
        .map(|user| {
            let stream = connect();
            std::thread::spawn(move || {
                let sent: Vec<u8> = (0..4_000_000u32).map(|at| (at % 251) as u8 ^ user).collect();
                let (mut writer, all) = (stream.try_clone().expect("descriptors"), sent.clone());
                let writing = std::thread::spawn(move || {
                    writer.write_all(&all).expect("it reads");
                    writer.shutdown(Shutdown::Write).expect("connected");
                });
                let mut got = Vec::new();
                (&stream).read_to_end(&mut got).expect("connected");
                writing.join().expect("no panic");
                assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
            })
        })
        .collect();
    let all_right = users.into_iter().all(|user| user.join().is_ok());
    let _ = echo.kill();
    let _ = echo.wait();
    assert!(all_right);
}

#[test]
fn a_service_in_python_exchanges_through_memory() {
    exchanges("greeter.py");
}

#[test]
fn a_service_in_asyncio_exchanges_through_memory() {
    exchanges("greeter_async.py");
}
