//! A user whose session goes on while things happen to others.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Stdio};

use crate::Node;

/// Sends names of up to 200 KB to the gateway, one after another, and checks every answer; says how many bytes went
/// whenever it is asked, and at the end why it ended.
const USER: &str = "
import socket, sys, threading
s = socket.create_connection(('127.0.0.1', 9000), 20)
s.settimeout(20)
done, reader = [0, None], s.makefile('rb')
def exchange():
    try:
        n = 0
        while done[1] is None:
            n += 1
            name = (b'%d.' % n) * (1 + n * 7919 % 30000)
            s.sendall(name + b'\\n')
            answer = reader.readline()
            if answer != b'hello, ' + name + b'\\n':
                done[1] = 'ended' if not answer else 'WRONG'
                break
            done[0] += len(name) + 1
    except OSError as error:
        done[1] = 'ended'
threading.Thread(target=exchange, daemon=True).start()
for line in sys.stdin:
    print(done[1] or done[0], flush=True)
";

/// A user of the smallest application who sends and checks without end.
pub struct User {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<std::process::ChildStdout>,
}

impl User {
    /// Begins at once.
    pub fn begin(node: &Node) -> Self {
        let mut command = node.command("python3");
        command.args(["-c", USER]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 is installed");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().expect("piped"));
        Self { child, stdin, stdout: BufReader::new(stdout) }
    }

    /// Bytes so far, or how it ended: `ended`, `WRONG`.
    pub fn says(&mut self) -> String {
        self.stdin.as_mut().expect("it runs").write_all(b"\n").expect("it runs");
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("it runs");
        line.trim().to_owned()
    }

    /// Bytes that went to the gateway and came back.
    pub fn bytes(&mut self) -> u64 {
        let said = self.says();
        said.parse().unwrap_or_else(|_| panic!("the session {said}"))
    }

    /// Waits until so many bytes more have gone; how many have then.
    pub fn goes_on(&mut self, bytes: u64) -> u64 {
        let begun = std::time::Instant::now();
        let until = self.bytes() + bytes;
        loop {
            let now = self.bytes();
            if now >= until {
                return now;
            }
            assert!(begun.elapsed().as_secs() < 30, "it does not go on after {now} bytes");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
