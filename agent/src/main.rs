//! The agent's program: flags, logs, start and end.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use patchbay_agent::detach::{self, Detach};
use patchbay_agent::mounts::{self, Mounts};
use patchbay_agent::output;
use patchbay_agent::probe::{self, Probe};
use patchbay_agent::profile_table::{self, ProfileTable};
use patchbay_agent::run::{self, Run, read_repository};
use patchbay_agent::scope::{self, Exec, NodeMode};
use patchbay_agent::signals;
use patchbay_agent::switch::{self, Redirect};
use patchbay_agent::trace::{self, Trace};
use patchbay_logging::{self as logging, LogFormat};

/// What is logged unless RUST_LOG says otherwise.
const LOGGED: &str = "info";

/// The Patchbay agent: executes service instances on this node and redirects their sessions.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  patchbay-agent run --manager 10.0.0.1:55555 --certificates /etc/patchbay/certificate --address 10.0.0.2 --repository repository.toml\n  \
                  patchbay-agent check --repository repository.toml"
)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Register with the Manager and serve this node
    #[command(after_help = signals::HELP)]
    Run(Run),
    /// Run a program and its children with redirection between them, without a Manager
    #[command(
        after_help = "SIGTERM, SIGHUP and SIGUSR1 are passed on to the program alone, which decides. When it has ended, what \
                            it left running in the background goes on over TCP, in the cgroup that this was started in: end it as \
                            without Patchbay.\n\nExample:\n  patchbay-agent exec --always -- sh -c 'redis-server --port 7000 & \
                            sleep 1; redis-benchmark -p 7000; redis-cli -p 7000 shutdown'"
    )]
    Exec(Exec),
    /// Redirect between the pods of this Kubernetes node, or inside any cgroup, without a Manager
    #[command(after_help = "Examples:\n  patchbay-agent node --observe unix\n  \
                            patchbay-agent node --pods off --redirect always --cgroup system.slice/web.service")]
    Node(NodeMode),
    /// Mount what `node` needs on a Kubernetes node, where it is missing
    Mounts(Mounts),
    /// Try what redirection does on this kernel and print how it differs from TCP
    Probe(Probe),
    #[command(hide = true)]
    ProbePeer,
    /// Keep what comes from standard input, line by line with its time
    #[command(hide = true)]
    KeepOutput {
        /// The file of lines
        log: PathBuf,
    },
    /// Show the messages of a session, which tcpdump can't see once they are redirected
    #[command(
        after_help = "Example:\n  patchbay-agent trace --source-port 40122 --destination-port 54001 --bytes 32"
    )]
    Trace(Trace),
    /// Take sessions to TCP for a while and let them return, without interrupting anything
    #[command(
        after_help = "Examples:\n  patchbay-agent redirect off --source-port 40122\n  patchbay-agent redirect off \
                      --destination-port 54001\n  patchbay-agent redirect on"
    )]
    Redirect(Redirect),
    /// Take all sessions back to TCP and remove what an agent left in the kernel
    Detach(Detach),
    /// Show what was learned of programs and of their traffic, and what `auto` makes of it
    Profiles(ProfileTable),
    /// Read a repository file and print its problems
    Check {
        /// The repository file
        #[arg(long, value_name = "FILE")]
        repository: PathBuf,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Task::Check { repository } => check(&repository).map(|()| ExitCode::SUCCESS),
        Task::Run(arguments) => {
            logging::start(arguments.log_format, LOGGED);
            in_runtime(run::run(arguments)).map(|()| ExitCode::SUCCESS)
        }
        Task::Exec(exec) => {
            logging::start(LogFormat::Text, LOGGED);
            in_runtime(scope::exec(&exec))
        }
        Task::Mounts(mounts) => mounts::run(&mounts).map(|()| ExitCode::SUCCESS),
        Task::Probe(probe) => in_runtime(probe::run(&probe)).map(|()| ExitCode::SUCCESS),
        Task::ProbePeer => probe::run_peer().map(|()| ExitCode::SUCCESS),
        Task::KeepOutput { log } => {
            output::keep(&log).map(|()| ExitCode::SUCCESS).context("an instance's output can't be read")
        }
        Task::Trace(trace) => in_runtime(trace::run(&trace)).map(|()| ExitCode::SUCCESS),
        Task::Redirect(redirect) => switch::run(&redirect).map(|()| ExitCode::SUCCESS),
        Task::Detach(detach) => in_runtime(detach::run(&detach)).map(|()| ExitCode::SUCCESS),
        Task::Profiles(profiles) => profile_table::print(&profiles).map(|()| ExitCode::SUCCESS),
        Task::Node(node) => {
            logging::start(node.log_format, LOGGED);
            in_runtime(scope::node(&node)).map(|()| ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "error: {error:#}");
        ExitCode::FAILURE
    })
}

/// One thread for everything: a message on its way through the agent wakes no other thread, which would take
/// longer than all that the agent does with it.
fn in_runtime<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the runtime can't be started")?;
    let done = runtime.block_on(work);
    // A thread that waits without end, for a process that can't begin say, must not be waited for.
    runtime.shutdown_background();
    done
}

fn check(file: &Path) -> Result<()> {
    let repository = read_repository(file)?;
    let missing: Vec<String> =
        repository.values().filter_map(|entry| Some(entry.unavailable.as_ref()?.to_string())).collect();
    if !missing.is_empty() {
        bail!(
            "{} of {} services can't be executed on this machine:\n{}",
            missing.len(),
            repository.len(),
            missing.join("\n")
        );
    }
    println!("{}: {} services, no problems", file.display(), repository.len());
    Ok(())
}
