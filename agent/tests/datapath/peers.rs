//! The two ends of a session: a Python program each, checking every byte by its position.

use std::io::{BufRead, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::place::Place;

/// Longest life of a peer.
const PEER_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes each way of [`Work::Echo`].
pub const ECHO_BYTES: u64 = 4_000_000;
/// Bytes each way of [`Work::Duplex`].
pub const DUPLEX_BYTES: u64 = 60_000_000;
/// Bytes each way of [`Work::HalfClose`].
pub const HALF_CLOSE_BYTES: u64 = 700_000;

/// What the two ends do.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// Messages of random sizes, each echoed before the next.
    Echo,
    /// Both send and receive at once, non-blocking, with random sizes.
    Duplex,
    /// The source sends, shuts its sending down, and then gets as much back.
    HalfClose,
    /// The destination reads nothing until the source's sends have stopped.
    SlowReader,
    /// Messages are echoed until [`Peer::release`].
    Stay,
    /// [`Work::Echo`] over multipath TCP.
    Multipath,
    /// A socket is connected to itself, after [`Peer::release`].
    WithItself,
}

/// A running end.
pub struct Peer {
    child: Child,
    output: BufReader<ChildStdout>,
    within: Duration,
}

impl Peer {
    /// An accepting end, listening at a port of its own.
    pub fn serve(place: &Place, address: &str, work: Work) -> Self {
        Self::start(place, "d", &["serve", address, "0", &format!("{work:?}")])
    }

    /// A connecting end.
    pub fn connect(place: &Place, at: SocketAddr, work: Work) -> Self {
        Self::start(
            place,
            "s",
            &["connect", &at.ip().to_string(), &at.port().to_string(), &format!("{work:?}")],
        )
    }

    fn start(place: &Place, end: &str, arguments: &[&str]) -> Self {
        Self::run(place, end, &place.namespace(end), "peer.py", arguments)
    }

    fn run(place: &Place, end: &str, namespace: &str, script: &str, arguments: &[&str]) -> Self {
        // The shell enters the cgroup before the program makes its sockets.
        let mut child = Command::new("sh")
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(place.cgroup().join(end).join("cgroup.procs"))
            .args(["ip", "netns", "exec", namespace, "python3"])
            .arg(format!("{}/tests/datapath/{script}", env!("CARGO_MANIFEST_DIR")))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, output, within: PEER_TIMEOUT }
    }

    /// Where the end listens.
    pub fn address(&mut self, address: &str) -> SocketAddr {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the peer says its port");
        SocketAddr::new(address.parse().expect("an address"), line.trim().parse().expect("a port"))
    }

    /// Ends the input of a source that stays.
    pub fn release(&mut self) {
        drop(self.child.stdin.take());
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Where in the kernel the peer waits, and its namespace's sockets.
    fn whereabouts(&self) -> String {
        let id = self.child.id().to_string();
        let told = |name: &str| std::fs::read_to_string(format!("/proc/{id}/{name}")).unwrap_or_default();
        let sockets = Command::new("nsenter").args(["-t", &id, "-n", "ss", "-tnmoie"]).output();
        let sockets = sockets.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let program = told("cmdline").replace('\0', " ");
        format!("{program}\n{}{}{}", told("syscall"), told("stack"), sockets.unwrap_or_default())
    }

    /// Lets it live longer than others.
    pub fn within(mut self, seconds: u64) -> Self {
        self.within = Duration::from_secs(seconds);
        self
    }

    /// What it printed, once it has ended well.
    pub fn output(mut self) -> String {
        let mut printed = String::new();
        self.output.read_to_string(&mut printed).expect("text");
        self.succeed();
        printed
    }

    /// Waits for the end and asserts that all was as it should be.
    pub fn succeed(mut self) {
        let begun = Instant::now();
        while self.is_running() {
            assert!(begun.elapsed() < self.within, "a peer hangs:\n{}", self.whereabouts());
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = self.child.wait().expect("it has ended");
        assert!(status.success(), "a peer failed: {status}");
    }
}

/// A script in the source's cgroup and namespace.
pub fn script(place: &Place, file: &str, arguments: &[&str]) -> Peer {
    Peer::run(place, "s", &place.namespace("s"), file, arguments)
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
