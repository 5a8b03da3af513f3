//! Services linked with the SDK, started by hand: no agent, no Manager, addresses from the environment.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A service that is ended with the test.
struct Alone(Child);

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &str, environment: &[(&str, String)]) -> Alone {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release").join(program);
    let child = Command::new(&program)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask test`", program.display()));
    Alone(child)
}

/// An address that was free a moment ago.
fn free() -> String {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("loopback").to_string()
}

fn connect(at: &str) -> TcpStream {
    let begun = Instant::now();
    loop {
        match TcpStream::connect(at) {
            Ok(stream) => return stream,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(10), "{at}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn services_work_together_without_patchbay() {
    let (users, names) = (free(), free());
    let _greeter = start("hello-greeter", &[("SOCKET_NAMES", names.clone())]);
    drop(connect(&names));
    let _gateway = start("hello-gateway", &[("SOCKET_USERS", users.clone()), ("PLUG_GREETER", names)]);
    let mut user = BufReader::new(connect(&users));
    for name in ["world", "you"] {
        writeln!(user.get_mut(), "{name}").expect("connected");
        let mut line = String::new();
        user.read_line(&mut line).expect("answered");
        assert_eq!(line, format!("hello, {name}\n"));
    }
}

#[test]
fn what_is_missing_is_named() {
    let mut gateway = start("hello-gateway", &[("SOCKET_USERS", free())]);
    let mut said = String::new();
    let errors = gateway.0.stderr.take().expect("piped");
    BufReader::new(errors).read_line(&mut said).expect("it says why");
    assert!(!gateway.0.wait().expect("it ends").success());
    assert!(said.contains("PLUG_GREETER"), "{said}");
}
