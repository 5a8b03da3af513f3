//! Sessions of a node as its kernel programs, or what stands in for them, report them to the core.

use std::borrow::Cow;
use std::net::{Ipv6Addr, SocketAddr};

use patchbay_ebpf_common::{Habit, Program, Reason};
use ssmmp::extension::{self, SwitchedSession};

use crate::habit_names;

/// One direction of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes redirected in the kernel.
    pub kernel_bytes: u64,
    /// Bytes over TCP.
    pub tcp_bytes: u64,
    /// Messages redirected in the kernel; one over the kernel's own message size counts as several.
    pub kernel_messages: u64,
    /// Messages over TCP, counted only for sessions in the map.
    pub tcp_messages: u64,
    /// Bytes through shared memory.
    pub memory_bytes: u64,
    /// Messages through shared memory.
    pub memory_messages: u64,
    /// The path of the latest message, for sessions in the map.
    pub path: Option<Path>,
    /// How often the path changed.
    pub switches: u32,
}

/// The path a session takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Redirected in the kernel.
    Kernel,
    /// Over TCP, and why.
    Tcp(Reason),
}

/// A session on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionReport {
    /// The source's address and port.
    pub source: SocketAddr,
    /// The destination's address and port, as the source has them.
    pub destination: SocketAddr,
    /// Where the destination accepted, if its address or port was translated on the way.
    pub translated: Option<SocketAddr>,
    /// The source instance's id.
    pub source_instance: u64,
    /// The destination instance's id.
    pub destination_instance: u64,
    /// The name of the program that connected, where there are no declarations; empty when it is not known.
    pub program: String,
    /// The programs that connected and that began to listen, where there are no declarations.
    pub programs: [Program; 2],
    /// Their processes, 0 when they are not known.
    pub processes: [u32; 2],
    /// The path.
    pub path: Path,
    /// Whether its bytes go through shared memory instead.
    pub memory: bool,
    /// From source to destination.
    pub sent: Traffic,
    /// From destination to source.
    pub received: Traffic,
    /// When it was established, nanoseconds since boot.
    pub established: u64,
    /// When something was last sent, monotonic nanoseconds; 0 for never, or not in the map.
    pub last_activity: u64,
    /// The kernel programs' key.
    pub key: u64,
    /// Keys of the source's and the destination's socket in the map, 0 when it is not known.
    pub sockets: [u64; 2],
    /// Why it is leaving the map, or has left it.
    pub leaving: Option<Reason>,
    /// Whether it is outside the map, where only TCP counts.
    pub outside: bool,
    /// What the reason is about, if it is [`Reason::Habit`].
    pub about: Habit,
    /// What the source and the destination were seen to do, or could do, that is not on the list.
    pub habits: [Vec<Habit>; 2],
    /// Whether the programs at both ends were asked what they could do.
    pub examined: [bool; 2],
    /// The processes that last used both ends, 0 while none was seen.
    pub users: [u32; 2],
    /// When this was read, seconds since 1970.
    pub read_at: u64,
    /// Sending and receiving calls seen at the source and at the destination while they were observed.
    pub calls: [u32; 2],
    /// Unread redirected bytes towards the destination and back, when they were looked at.
    pub in_flight: [u32; 2],
    /// Whether its counters are unknown: an earlier version's programs keep them.
    pub uncounted: bool,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The source closed first.
    SourceFinished,
    /// The destination closed first.
    DestinationFinished,
    /// A reset, a time-out or an error.
    Broken,
}

impl SessionReport {
    /// Whether it is the one that a person has switched.
    pub fn is(&self, switched: &SwitchedSession) -> bool {
        let SwitchedSession { source, port, at } = *switched;
        self.source_instance == source.0
            && self.source.port() == port.0
            && extension::end(self.destination) == at
    }

    /// Why it is on TCP, for people, without separators of the protocol; `None` when it is not.
    pub fn why(&self) -> Option<Cow<'static, str>> {
        match self.path {
            Path::Kernel => None,
            Path::Tcp(reason) => Some(self.text(reason)),
        }
    }

    /// A reason for people, with what it is about.
    pub fn text(&self, reason: Reason) -> Cow<'static, str> {
        match reason {
            Reason::Habit if self.about != Habit::NONE => {
                format!("program uses {}", habit_names::name(self.about)).into()
            }
            reason => reason.text().into(),
        }
    }

    /// A session that nothing is known of but its instances and where it goes; `read_at` is 0.
    pub fn between(source: u64, destination: u64, at: SocketAddr) -> Self {
        let nowhere = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
        Self {
            source: nowhere,
            destination: at,
            translated: None,
            source_instance: source,
            destination_instance: destination,
            program: String::new(),
            programs: Default::default(),
            processes: [0; 2],
            path: Path::Tcp(Reason::Unpaired),
            memory: false,
            sent: Traffic::default(),
            received: Traffic::default(),
            established: 0,
            last_activity: 0,
            key: 0,
            sockets: [0; 2],
            leaving: None,
            outside: true,
            about: Habit::NONE,
            habits: Default::default(),
            examined: [false; 2],
            users: [0; 2],
            read_at: 0,
            calls: [0; 2],
            in_flight: [0; 2],
            uncounted: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use ssmmp::{InstanceId, Port};

    use super::*;

    #[test]
    fn of_two_sessions_from_one_port_the_switched_one_is_known_by_its_destination() {
        let [one, other] = ["10.0.0.1:54001", "10.0.0.1:54002"].map(|at| {
            let mut report = SessionReport::between(7, 8, at.parse().expect("an address"));
            report.source = "10.0.0.1:40000".parse().expect("an address");
            report
        });
        let at = extension::end(one.destination);
        let switched = SwitchedSession { source: InstanceId(7), port: Port(40000), at };
        assert!(one.is(&switched) && !other.is(&switched));
        assert!(!one.is(&SwitchedSession { source: InstanceId(8), ..switched }));
        assert!(!one.is(&SwitchedSession { port: Port(40001), ..switched }));
    }
}
