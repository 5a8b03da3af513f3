//! The Manager under test: its program, its HTTP API, what it uses.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::lab::usage;

/// How long anything that is waited for may take.
const WITHIN: Duration = Duration::from_secs(300);

/// A running Manager; dropping it kills it and removes its database.
pub struct Manager {
    child: Child,
    program: PathBuf,
    folder: PathBuf,
    /// Where agents connect.
    pub agents: SocketAddr,
}

impl Manager {
    /// Starts one with an empty database.
    ///
    /// # Errors
    /// It can't be started, or is not ready in time.
    pub fn start(binaries: &Path, folder: &Path) -> Result<Self> {
        let folder = folder.join("manager");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let program = binaries.join("patchbay-manager");
        let agents = free_address()?;
        let child = spawn(&program, &folder, agents)?;
        let manager = Self { child, program, folder, agents };
        manager.wait_ready()?;
        Ok(manager)
    }

    /// Kills it and starts it again with its database; returns how long it took to be ready.
    ///
    /// # Errors
    /// It can't be started, or is not ready in time.
    pub fn restart(&mut self) -> Result<Duration> {
        self.child.kill()?;
        self.child.wait()?;
        let begun = Instant::now();
        self.child = spawn(&self.program, &self.folder, self.agents)?;
        self.wait_ready()?;
        Ok(begun.elapsed())
    }

    /// The command as somebody would type it.
    pub fn line(&self) -> String {
        "patchbay-manager --listen-agents ADDRESS --socket FILE --database FILE".into()
    }

    /// Its resident memory, bytes.
    pub fn memory(&self) -> u64 {
        usage::resident(self.child.id())
    }

    /// Its CPU time so far, nanoseconds.
    pub fn cpu(&self) -> u64 {
        usage::process_cpu(self.child.id())
    }

    /// Applies a graph.
    ///
    /// # Errors
    /// It is refused.
    pub fn apply(&self, graph: &str) -> Result<()> {
        let answer = self.call("PUT", "/v1/apps", graph)?;
        if !answer.contains("\"app\"") {
            bail!("the graph is refused: {answer}");
        }
        Ok(())
    }

    /// One of its counts: `nodes`, `instances` or `sessions`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn count(&self, of: &str) -> Result<u64> {
        let status: serde_json::Value = serde_json::from_str(&self.call("GET", "/v1/status", "")?)?;
        status[of].as_u64().with_context(|| format!("the status has no {of}"))
    }

    /// Waits until a count is reached.
    ///
    /// # Errors
    /// It is not reached in time.
    pub fn wait_for(&self, of: &str, count: u64) -> Result<()> {
        let begun = Instant::now();
        while self.count(of)? < count {
            if begun.elapsed() > WITHIN {
                bail!("{} of {count} {of} after {} s", self.count(of)?, WITHIN.as_secs());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn wait_ready(&self) -> Result<()> {
        let begun = Instant::now();
        while self.count("nodes").is_err() {
            if begun.elapsed() > WITHIN {
                bail!("the Manager is not ready; see {}", self.folder.join("log").display());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn call(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let mut stream = UnixStream::connect(self.folder.join("manager.sock"))?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: manager\r\nconnection: close\r\ncontent-type: application/toml\r\ncontent-length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        Ok(body.to_owned())
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn spawn(program: &Path, folder: &Path, agents: SocketAddr) -> Result<Child> {
    let log = fs::File::options().create(true).append(true).open(folder.join("log"))?;
    command(program)
        .args(["--listen-agents", &agents.to_string(), "--socket"])
        .arg(folder.join("manager.sock"))
        .arg("--database")
        .arg(folder.join("manager.db"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .with_context(|| format!("{} can't be started", program.display()))
}

/// A loopback address that nobody listens at now.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// A program that ends with this one, in its network namespace, and that takes signals.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["enter", "--"]).arg(program);
    command
}
