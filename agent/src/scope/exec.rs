//! `exec`: a program and its children in a cgroup of their own, with redirection between them.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::sys::signal::{self, SigHandler, Signal};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::{Allow, Mode, Runner, STATE, base_name};
use crate::datapath::{DEFAULT_IN_FLIGHT_BYTES, Options};
use crate::own_cgroup::{self, OwnCgroup};
use crate::processes::enter_cgroup;
use crate::require_root;

/// Plugs and sockets whose habits are printed.
const SHOWN_HABITS: usize = 12;

/// A program to run with redirection inside.
#[derive(Args)]
pub struct Exec {
    /// When to redirect
    #[arg(long, value_enum, default_value = "auto")]
    mode: Mode,
    /// The same as --mode always
    #[arg(long, conflicts_with_all = ["mode", "auto", "off"])]
    always: bool,
    /// The same as --mode auto
    #[arg(long, conflicts_with_all = ["mode", "off"])]
    auto: bool,
    /// The same as --mode off
    #[arg(long, conflicts_with = "mode")]
    off: bool,
    /// With --mode auto, let programs do what their files could, because they are known not to; one that is seen to do it
    /// goes back to TCP for good
    #[arg(long, value_enum, value_name = "HABIT")]
    allow: Vec<Allow>,
    /// Also write what went which way as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Where what was learned of programs is kept
    #[arg(long, default_value = STATE, value_name = "FOLDER")]
    state_dir: PathBuf,
    /// Unread redirected bytes allowed for each direction; 0 for the receiver's buffer size
    #[arg(long, default_value_t = DEFAULT_IN_FLIGHT_BYTES, value_name = "BYTES")]
    in_flight_bytes: u32,
    /// Print nothing but errors
    #[arg(long, short)]
    quiet: bool,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
    command: Vec<OsString>,
}

impl Exec {
    fn mode(&self) -> Mode {
        match (self.always, self.off) {
            (true, _) => Mode::Always,
            (_, true) => Mode::Off,
            _ => self.mode,
        }
    }
}

/// Runs the program to its end and ends as it did. What it left running goes on, in the cgroup above.
///
/// # Errors
/// The program can't be started, or this node can't redirect.
pub async fn run(exec: &Exec) -> Result<ExitCode> {
    require_root("kernel programs are loaded and a cgroup is made")?;
    let cgroup = OwnCgroup::make(own_cgroup::EXEC)?;
    let result = run_in(exec, &cgroup).await;
    cgroup.dissolve();
    let status = result?;
    if let Some(number) = status.signal() {
        die_of(number);
    }
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}

async fn run_in(exec: &Exec, cgroup: &OwnCgroup) -> Result<ExitStatus> {
    let (program, arguments) = exec.command.split_first().context("no program is given")?;
    let options = Options { in_flight_budget: exec.in_flight_bytes, ..Options::new(cgroup.path.clone()) };
    let mut runner =
        Runner::load(options, base_name(Path::new(program)), exec.mode(), &exec.allow, &exec.state_dir)?;
    let mut command = Command::new(program);
    command.args(arguments);
    enter_cgroup(&mut command, cgroup.entrance()?);
    let mut child =
        command.spawn().with_context(|| format!("`{}` can't be started", program.to_string_lossy()))?;
    let status = tokio::select! {
        status = wait(&mut child) => status?,
        failed = runner.work() => return failed.and(Err(anyhow::anyhow!("the kernel's events have ended"))),
    };
    runner.end().await?;
    if !exec.quiet {
        eprint!("patchbay: {}", runner.summary.text().trim_end().replace('\n', "\npatchbay: ") + "\n");
        for (endpoint, habits) in runner.learned().into_iter().take(SHOWN_HABITS) {
            eprintln!("patchbay: {endpoint} stays on TCP under auto, it uses: {habits}");
        }
    }
    if let Some(file) = &exec.report {
        runner.summary.write(file)?;
    }
    Ok(status)
}

/// Waits for the program. What a terminal sends goes to the program too, which decides; what is sent to
/// this process alone is passed on.
async fn wait(child: &mut Child) -> Result<ExitStatus> {
    let mut passed = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::user_defined1()]
        .map(signal)
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let (mut interrupt, mut quit) = (signal(SignalKind::interrupt())?, signal(SignalKind::quit())?);
    let id = child.id().map(|id| Pid::from_raw(id.cast_signed())).context("the program has ended already")?;
    let [terminate, hang_up, user] = &mut passed[..] else { bail!("signals can't be watched") };
    loop {
        let passed = tokio::select! {
            status = child.wait() => return Ok(status?),
            _ = terminate.recv() => Signal::SIGTERM,
            _ = hang_up.recv() => Signal::SIGHUP,
            _ = user.recv() => Signal::SIGUSR1,
            _ = interrupt.recv() => continue,
            _ = quit.recv() => continue,
        };
        let _ = signal::kill(id, passed);
    }
}

/// Ends as the program did, so that a shell sees the same.
#[expect(unsafe_code, reason = "restoring a signal's default is declared unsafe for handlers' sake")]
fn die_of(number: i32) {
    if let Ok(signal) = Signal::try_from(number) {
        // SAFETY: the default action is no handler; nothing of this process runs in it.
        let _ = unsafe { signal::signal(signal, SigHandler::SigDfl) };
        let _ = signal::raise(signal);
    }
}
