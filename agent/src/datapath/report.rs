//! What the kernel programs know, in the agent's terms.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::SystemTime;

use patchbay_ebpf_common::{self as common, Habit, Reason};

use crate::core::habit_names;

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
    pub programs: [common::Program; 2],
    /// Their processes, 0 when they are not known.
    pub processes: [u32; 2],
    /// The path.
    pub path: Path,
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

impl Cause {
    pub(super) fn read(code: u32) -> Self {
        match code {
            common::cause::SOURCE_FINISHED => Self::SourceFinished,
            common::cause::DESTINATION_FINISHED => Self::DestinationFinished,
            _ => Self::Broken,
        }
    }
}

/// Something that happened to a declared session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// The source is connected.
    Established(SessionReport),
    /// Both ends on this node are closed.
    Closed(SessionReport, Cause),
    /// A program did something that behaves differently once it is redirected.
    Habit(SessionReport),
    /// The session is on its way out of the map.
    Leaving(SessionReport),
}

impl SessionEvent {
    /// The session at that moment.
    pub fn report(&self) -> &SessionReport {
        match self {
            Self::Established(report)
            | Self::Closed(report, _)
            | Self::Habit(report)
            | Self::Leaving(report) => report,
        }
    }

    pub(super) fn report_mut(&mut self) -> &mut SessionReport {
        match self {
            Self::Established(report)
            | Self::Closed(report, _)
            | Self::Habit(report)
            | Self::Leaving(report) => report,
        }
    }

    pub(super) fn read(event: &common::Event) -> Option<Self> {
        let report = SessionReport::read(&event.session);
        match event.kind {
            common::event::ESTABLISHED => Some(Self::Established(report)),
            common::event::CLOSED => Some(Self::Closed(report, Cause::read(event.cause))),
            common::event::HABIT | common::event::BREAK_OFF => Some(Self::Habit(report)),
            common::event::LEAVING => Some(Self::Leaving(report)),
            _ => None,
        }
    }
}

impl SessionReport {
    /// Why it is on TCP, for people, without separators of the protocol; `None` when it is not.
    pub fn why(&self) -> Option<String> {
        match self.path {
            Path::Kernel => None,
            Path::Tcp(reason) => Some(self.text(reason)),
        }
    }

    /// A reason for people, with what it is about.
    pub fn text(&self, reason: Reason) -> String {
        match reason {
            Reason::Habit if self.about != Habit::NONE => {
                format!("program uses {}", habit_names::name(self.about))
            }
            reason => reason.text().to_owned(),
        }
    }

    /// A session that nothing is known of but its instances and where it goes.
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
            read_at: now(),
            calls: [0; 2],
            in_flight: [0; 2],
            uncounted: false,
        }
    }

    pub(super) fn read(session: &common::Session) -> Self {
        let common::Tuple { source, destination, source_port, destination_port, .. } = session.tuple;
        let [sent, received] = &session.directions;
        let dialled = address(destination, destination_port);
        let accepted = address(session.accepted, session.accepted_port);
        Self {
            source: address(source, source_port),
            destination: dialled,
            translated: (session.accepted_port != 0 && accepted != dialled).then_some(accepted),
            source_instance: session.source_instance,
            destination_instance: session.destination_instance,
            program: program(&session.source_program.name),
            programs: [session.source_program, session.destination_program],
            processes: [session.source_process, session.destination_process],
            path: path(session),
            sent: traffic(sent),
            received: traffic(received),
            established: session.established,
            last_activity: sent.last_activity.max(received.last_activity),
            key: session.key,
            sockets: [session.source_cookie, session.destination_cookie],
            leaving: Reason::from_code(session.leave),
            outside: session.reason != 0 && session.state & common::state::PAIRED == 0,
            about: Habit(session.about),
            habits: session.habits.map(|noted| noted.into_iter().filter(|it| *it != 0).map(Habit).collect()),
            examined: [false; 2],
            users: session.users,
            read_at: now(),
            calls: [sent.calls, received.calls],
            in_flight: [0; 2],
            uncounted: false,
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The session's path: in the kernel when it is paired and its latest messages were redirected. What
/// passes by itself, an unread rest or a receiver over its budget, shows in the bytes only.
fn path(session: &common::Session) -> Path {
    let reason = |code| Reason::from_code(code).unwrap_or(Reason::Unavailable);
    if session.reason != 0 {
        return Path::Tcp(reason(session.reason));
    }
    if session.state & common::state::PAIRED == 0 {
        return Path::Tcp(Reason::Unpaired);
    }
    let passes =
        |code| matches!(reason(code), Reason::NotDrained | Reason::OverBudget | Reason::ShortOfMemory);
    let lasting = session
        .directions
        .iter()
        .find(|direction| direction.path == common::path::TCP && !passes(direction.reason));
    lasting.map_or(Path::Kernel, |direction| Path::Tcp(reason(direction.reason)))
}

fn program(name: &common::ProgramName) -> String {
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

fn traffic(direction: &common::Direction) -> Traffic {
    let common::Direction { kernel_bytes, tcp_bytes, kernel_messages, tcp_messages, switches, .. } =
        *direction;
    let path = match direction.path {
        common::path::KERNEL => Some(Path::Kernel),
        common::path::TCP => Reason::from_code(direction.reason).map(Path::Tcp),
        _ => None,
    };
    Traffic { kernel_bytes, tcp_bytes, kernel_messages, tcp_messages, path, switches }
}

pub(super) fn address(bytes: common::AddressBytes, port: u32) -> SocketAddr {
    let ip = IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical();
    SocketAddr::new(ip, u16::try_from(port).unwrap_or_default())
}

/// The form of an address in the maps.
pub(super) fn address_bytes(address: IpAddr) -> common::AddressBytes {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
