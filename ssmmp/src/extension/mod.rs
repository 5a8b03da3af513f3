//! Our extension lines (`x_…`) as types: each is read and written in one place, here. `docs/protocol.md` has their
//! table, which `ssmmp/tests/extensions.rs` compares with [`LINES`].
//!
//! What can't be read is as if the line were not there: a peer of another version is understood as far as may be.

mod items;
mod live;
mod node;
mod output;
mod redirect;
mod sessions;

use std::net::SocketAddr;

pub use live::{Live, LiveSession, WholeSession};
pub use node::{Running, RunningInstance, Stage, Unavailable, UnlimitedInstances};
pub use output::{Log, LogLines, Output};
pub use redirect::{Allow, Allowance, Redirect, Switch, Switched, SwitchedSession};
pub use sessions::{Details, Latest, Path, SessionCounters, Sessions, ThroughMemory, Traffic};

use crate::{Address, MessageType as M, Name, Port};

/// An extension line: a value behind a message's own fields.
pub trait Extension<'a>: Sized {
    /// The line's name.
    const NAME: &'static str;
    /// The messages that may have it.
    const ON: &'static [M];
    /// Reads the trimmed value; nothing when it makes no sense.
    fn read(text: &'a str) -> Option<Self>;
    /// Appends the value.
    fn write(&self, out: &mut String);
}

/// Where one end of a session is: an address and a port.
pub type End = (Address, Port);

/// A socket's address as an end.
pub fn end(at: SocketAddr) -> End {
    (Address::from(at.ip()), Port(at.port()))
}

/// Lines that are there or not: `yes`, and whatever else a peer writes.
macro_rules! flags {
    ($($(#[$doc:meta])* $type:ident = $name:literal on $($message:ident)|+;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $type;

        impl Extension<'_> for $type {
            const NAME: &'static str = $name;
            const ON: &'static [M] = &[$(M::$message),+];

            fn read(_: &str) -> Option<Self> {
                Some(Self)
            }

            fn write(&self, out: &mut String) {
                out.push_str("yes");
            }
        }
    )+};
}

/// Lines of any text, for people or to be compared with itself.
macro_rules! texts {
    ($($(#[$doc:meta])* $type:ident = $name:literal on $($message:ident)|+;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $type<'a>(pub &'a str);

        impl<'a> Extension<'a> for $type<'a> {
            const NAME: &'static str = $name;
            const ON: &'static [M] = &[$(M::$message),+];

            fn read(text: &'a str) -> Option<Self> {
                Some(Self(text))
            }

            fn write(&self, out: &mut String) {
                out.push_str(self.0);
            }
        }
    )+};
}

/// Lines of one value that has a text of its own.
macro_rules! values {
    ($($(#[$doc:meta])* $type:ident($of:ty) = $name:literal on $($message:ident)|+;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $type(pub $of);

        impl Extension<'_> for $type {
            const NAME: &'static str = $name;
            const ON: &'static [M] = &[$(M::$message),+];

            fn read(text: &str) -> Option<Self> {
                text.parse().ok().map(Self)
            }

            fn write(&self, out: &mut String) {
                out.push_str(&self.0.to_string());
            }
        }
    )+};
}

flags! {
    /// This registration is a part: what it tells in [`Running`] belongs to the next one of the connection.
    RunningMore = "x_running_more" on InitiationRequest;
    /// An instance knows extension lines, and is sent them.
    Extensions = "x_extensions" on ServiceInstanceHealthResponse;
    /// An instance has said this itself, and its process is still there.
    Exiting = "x_exiting" on GracefulShutdownResponse | ServiceInstanceTerminationInfo;
    /// A request for a connection that may come: nothing is kept of it, nothing is started for it.
    Ahead = "x_ahead" on SessionRequest;
    /// More lines of the output follow.
    LogMore = "x_log_more" on AgentHealthControlResponse;
    /// The graph lets no session of the abstract connection go through shared memory.
    NoMemory = "x_no_memory" on SessionResponse;
    /// All living sessions were told.
    LiveComplete = "x_live_complete" on AgentHealthControlResponse;
}

texts! {
    /// A node's name, for people.
    Node = "x_node" on InitiationRequest;
    /// What a node's agent proves with that it is the one that registered before.
    Secret = "x_secret" on InitiationRequest;
    /// The agent's version.
    Version = "x_version" on InitiationRequest;
    /// Why something is as it is, one sentence.
    Reason = "x_reason" on InitiationResponse | ExecutionResponse | SessionResponse | SessionAck
        | SourceServiceSessionCloseResponse | DestServiceSessionCloseResponse | GracefulShutdownResponse
        | HardShutdownResponse | ServiceInstanceTerminationInfo | ServiceInstanceHealthResponse
        | AgentHealthControlResponse;
    /// Which limits of an instance are not applied, and why, one sentence.
    Unlimited = "x_unlimited" on ExecutionResponse;
    /// Who the Manager is.
    Manager = "x_manager" on InitiationResponse;
    /// Why an agent ended a connection itself.
    Forced = "x_forced" on SourceServiceSessionCloseResponse | DestServiceSessionCloseResponse;
}

values! {
    /// The sender's clock, milliseconds since 1970.
    Time(i64) = "x_time" on InitiationRequest | AgentHealthControlResponse;
    /// The application of an instance.
    App(Name) = "x_app" on ExecutionRequest;
    /// The graph's service of an instance.
    Service(Name) = "x_service" on ExecutionRequest;
    /// Which of its starts a Manager is; larger at every start.
    Epoch(u64) = "x_epoch" on InitiationResponse;
    /// Where the Manager that owns a node listens for agents.
    ManagerAddress(SocketAddr) = "x_manager_address" on InitiationResponse;
    /// How long an instance may take to close a session, milliseconds.
    Within(u64) = "x_within" on SourceServiceSessionCloseRequest | DestServiceSessionCloseRequest;
}

/// Whether a node redirects sessions in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirection {
    /// It does: `kernel`.
    Kernel,
    /// It does not; why, for people.
    Off(String),
}

impl Redirection {
    /// `kernel`, or why it does not.
    pub fn text(&self) -> &str {
        match self {
            Self::Kernel => "kernel",
            Self::Off(why) => why,
        }
    }
}

impl Extension<'_> for Redirection {
    const NAME: &'static str = "x_redirection";
    const ON: &'static [M] = &[M::InitiationRequest, M::AgentHealthControlResponse];

    fn read(text: &str) -> Option<Self> {
        Some(match text {
            "kernel" => Self::Kernel,
            why => Self::Off(why.to_owned()),
        })
    }

    fn write(&self, out: &mut String) {
        out.push_str(self.text());
    }
}

/// An agent was told to end, and is gone after so many milliseconds at the latest. Whoever writes no number is about
/// to end all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending(pub u64);

impl Extension<'_> for Ending {
    const NAME: &'static str = "x_ending";
    const ON: &'static [M] = &[M::AgentHealthControlResponse];

    fn read(text: &str) -> Option<Self> {
        Some(Self(text.parse().unwrap_or(0)))
    }

    fn write(&self, out: &mut String) {
        out.push_str(&self.0.to_string());
    }
}

/// Declares the table of all lines.
macro_rules! lines {
    ($($type:ty),+ $(,)?) => {
        /// Every line's name, and the messages that may have it.
        pub const LINES: &[(&str, &[M])] = &[$((<$type as Extension<'static>>::NAME, <$type>::ON)),+];
    };
}

lines! {
    Node<'static>, Redirection, Running, Secret<'static>, Version<'static>, Time, RunningMore, Unavailable,
    UnlimitedInstances, Unlimited<'static>, App, Service, Reason<'static>, Output, Extensions, Exiting,
    Manager<'static>, Epoch, ManagerAddress, Ahead, Redirect, Allow, WholeSession, Within, Forced<'static>, Log, Switch,
    LogLines, LogMore, NoMemory, Sessions<'static>, Ending, Live, LiveComplete,
}
