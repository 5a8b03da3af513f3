//! The two ends of the matrix: programs that do one kind of work over connections, each in a process of
//! its own, and say what it took. They know nothing of redirection.

mod address;
mod clock;
mod destination;
mod drive;
mod report;
mod source;
mod talk;

pub use address::Address;
use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
pub use report::EndReport;

/// One of the two ends.
#[derive(Subcommand)]
pub enum End {
    /// Accepts connections, until its input ends, and prints a report
    Serve(Serve),
    /// Connects, works for the time given, and prints a report
    Drive(Drive),
}

/// The accepting end.
#[derive(Args)]
pub struct Serve {
    /// `tcp:ADDRESS:PORT` or `unix:PATH`
    #[arg(long)]
    pub at: Address,
    #[command(flatten)]
    pub work: Work,
}

/// The connecting end.
#[derive(Args)]
pub struct Drive {
    /// `tcp:ADDRESS:PORT` or `unix:PATH`
    #[arg(long)]
    pub to: Address,
    /// How long to work, in milliseconds
    #[arg(long)]
    pub measure: u64,
    #[command(flatten)]
    pub work: Work,
}

/// What is done.
#[derive(Args, Clone, Debug)]
pub struct Work {
    /// The kind of work
    #[arg(long, value_enum)]
    pub kind: Kind,
    /// Bytes of a request and its response, or of each write
    #[arg(long)]
    pub size: usize,
    /// Connections at once
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// How the ends wait
    #[arg(long, value_enum, default_value = "blocking")]
    pub style: Style,
    /// Send at once (TCP_NODELAY)
    #[arg(long)]
    pub no_delay: bool,
    /// What goes before and does not count, in milliseconds
    #[arg(long, default_value_t = 50)]
    pub warm_up: u64,
}

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A request of the size, a response of the same size, and so on
    Request,
    /// The source writes, the destination reads
    Stream,
    /// Half of the connections carry a stream there, half of them back
    Halves,
    /// A connection for each request; the destination closes it
    Short,
}

/// How a program waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Style {
    /// A thread for each connection, in blocking calls
    Blocking,
    /// One thread, epoll, edge-triggered
    Epoll,
}

/// Runs an end.
pub fn run(end: &End) -> Result<()> {
    let report = match end {
        End::Serve(serve) => destination::run(serve)?,
        End::Drive(drive) => source::run(drive)?,
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

impl Work {
    /// As arguments.
    pub fn arguments(&self) -> Vec<String> {
        let name = |value: &dyn Fn() -> Option<clap::builder::PossibleValue>| {
            value().map_or_else(String::new, |value| value.get_name().to_owned())
        };
        let mut arguments = vec![
            "--kind".into(),
            name(&|| self.kind.to_possible_value()),
            "--size".into(),
            self.size.to_string(),
            "--connections".into(),
            self.connections.to_string(),
            "--style".into(),
            name(&|| self.style.to_possible_value()),
            "--warm-up".into(),
            self.warm_up.to_string(),
        ];
        if self.no_delay {
            arguments.push("--no-delay".into());
        }
        arguments
    }
}
