//! One user of the smallest application whose session lasts, and who checks every answer.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::Node;

/// Goes on until a file appears, with a pause between two requests.
const TALK: &str = "import os, socket, sys, time
s = socket.create_connection(('127.0.0.1', 9000), 20)
s.settimeout(20)
answers, count, pause = s.makefile('rb'), 0, float(sys.argv[2])
while not os.path.exists(sys.argv[1]):
    s.sendall(b'name-%d\\n' % count)
    line = answers.readline()
    assert line == b'hello, name-%d\\n' % count, line
    count += 1
    if pause:
        time.sleep(pause)
print(count)";

/// A user whose session lasts. It ends with the test, also when that fails.
pub struct Talker {
    child: Option<Child>,
    stop: PathBuf,
}

impl Talker {
    /// Talks without a pause.
    pub fn start(node: &Node) -> Self {
        Self::with_pause(node, Duration::ZERO)
    }

    /// Talks with a pause between an answer and the next request.
    pub fn with_pause(node: &Node, pause: Duration) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Beside the node's folder, which some tests fill.
        let name = node.folder().file_name().expect("a name").to_string_lossy();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let stop = std::env::temp_dir().join(format!("patchbay-stop-{name}-{number}"));
        let child = node
            .command("python3")
            .args(["-c", TALK, &stop.display().to_string(), &pause.as_secs_f64().to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        Self { child: Some(child), stop }
    }

    /// Ends it; returns how many answers it got, all of them right.
    ///
    /// # Panics
    /// It has lost something, or got a wrong answer.
    pub fn end(mut self) -> u64 {
        fs::write(&self.stop, "").expect("written");
        let output = self.child.take().expect("it talks").wait_with_output().expect("it ends");
        assert!(output.status.success(), "the talker lost or got a wrong answer");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_file(&self.stop);
    }
}
