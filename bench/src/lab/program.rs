//! A program in its place, started, waited for and ended.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a program may take to end once it is asked to.
const END_WITHIN: Duration = Duration::from_secs(5);

/// A program that is to run in a cgroup, a network namespace and on a processor.
pub struct Program {
    command: Command,
    target: PathBuf,
    arguments: Vec<OsString>,
    shown: Vec<String>,
    log: PathBuf,
}

impl Program {
    pub(super) fn new(
        cgroup: &Path,
        namespace: &str,
        core: Option<usize>,
        program: &Path,
        folder: &Path,
    ) -> Self {
        // Wherever this program is started from, it is the one that enters.
        let mut command = Command::new("/proc/self/exe");
        command.arg("enter").arg("--cgroup").arg(cgroup).args(["--namespace", namespace]);
        if let Some(core) = core {
            // Traffic goes before whatever else this machine does; the same for all alternatives.
            command.args(["--first", "--core", &core.to_string()]);
        }
        if core.is_none() {
            // A terminal's Ctrl-C is for the runner alone, which then ends what it started; traffic has
            // sessions of its own.
            command.process_group(0);
        }
        let target = program.to_owned();
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = folder.join(format!("{name}.log"));
        Self { command, target, arguments: Vec::new(), shown: vec![name], log }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.shown.push(argument.as_ref().to_string_lossy().into_owned());
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        for argument in arguments {
            self = self.arg(argument);
        }
        self
    }

    /// What it says on standard error is read as output too.
    pub fn joined(mut self) -> Self {
        self.command.arg("--joined");
        self
    }

    /// The command as somebody would type it.
    pub fn line(&self) -> String {
        line(&self.shown)
    }

    /// Starts it; its errors go to a log in the run's folder.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(mut self) -> Result<Running> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        self.command.arg("--").arg(&self.target).args(&self.arguments);
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let line = self.line();
        let mut child = self.command.spawn().with_context(|| format!("`{line}` can't be started"))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("its output is ours")?);
        Ok(Running { child, input, output, line, log: self.log })
    }

    /// Runs it to its end and returns what it printed.
    ///
    /// # Errors
    /// It failed, or did not end in time.
    pub fn output(self, within: Duration) -> Result<String> {
        let mut running = self.start()?;
        drop(running.input.take());
        running.finish(within)
    }
}

/// Words as somebody would type them in a shell.
pub fn line(words: &[String]) -> String {
    let plain = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,@%+{}".contains(c))
    };
    let quoted = words.iter().map(|word| match plain(word) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// A started program. Dropping it kills it.
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    line: String,
    log: PathBuf,
}

impl Running {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The command as somebody would type it.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Waits for a line of its output that contains this, and returns it.
    ///
    /// # Errors
    /// It ended without such a line.
    pub fn wait_for(&mut self, part: &str) -> Result<String> {
        let mut line = String::new();
        while self.output.read_line(&mut line)? > 0 {
            if line.contains(part) {
                return Ok(line.trim_end().to_owned());
            }
            line.clear();
        }
        bail!("`{}` ended before it was ready; see {}", self.line, self.log.display())
    }

    /// Closes its input, which asks our own programs to end, and returns what it printed.
    ///
    /// # Errors
    /// It failed, or did not end in time.
    pub fn finish(mut self, within: Duration) -> Result<String> {
        drop(self.input.take());
        self.collect(within)
    }

    /// Asks it to end with a signal and returns what it printed.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn terminate(mut self) -> Result<String> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)
            .with_context(|| format!("`{}` has ended already; see {}", self.line, self.log.display()))?;
        self.collect(END_WITHIN)
    }

    fn collect(&mut self, within: Duration) -> Result<String> {
        let killer = Killer::new(self.child.id(), within);
        let mut text = String::new();
        let read = self.output.read_to_string(&mut text);
        let status = self.child.wait()?;
        if killer.has_killed() {
            bail!("`{}` did not end within {} s; see {}", self.line, within.as_secs(), self.log.display());
        }
        read.with_context(|| format!("what `{}` prints can't be read", self.line))?;
        let by_signal =
            std::os::unix::process::ExitStatusExt::signal(&status) == Some(Signal::SIGTERM as i32);
        if !status.success() && !by_signal {
            let said = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing");
            bail!("`{}` failed ({status}) and said {said}; see {}", self.line, self.log.display());
        }
        Ok(text)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended needs neither.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills a process that takes too long, so that reading its output ends.
struct Killer {
    done: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<bool>,
}

impl Killer {
    fn new(process: u32, within: Duration) -> Self {
        let (done, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let until = Instant::now() + within;
            let timeout = until.saturating_duration_since(Instant::now());
            match ended.recv_timeout(timeout) {
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    kill(Pid::from_raw(process.cast_signed()), Signal::SIGKILL).is_ok()
                }
                _ => false,
            }
        });
        Self { done, thread }
    }

    fn has_killed(self) -> bool {
        drop(self.done);
        self.thread.join().unwrap_or(false)
    }
}
