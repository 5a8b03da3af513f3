//! What the kernel programs know, in the agent's terms.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::SystemTime;

use patchbay_agent_core::session_report::{Cause, Path, SessionReport, Traffic};
use patchbay_ebpf_common::{self as common, Habit, Reason};

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
        let report = session(&event.session);
        match event.kind {
            common::event::ESTABLISHED => Some(Self::Established(report)),
            common::event::CLOSED => Some(Self::Closed(report, cause(event.cause))),
            common::event::HABIT | common::event::BREAK_OFF => Some(Self::Habit(report)),
            common::event::LEAVING => Some(Self::Leaving(report)),
            _ => None,
        }
    }
}

/// A session as the kernel programs keep it.
pub(super) fn session(session: &common::Session) -> SessionReport {
    let common::Tuple { source, destination, source_port, destination_port, .. } = session.tuple;
    let [sent, received] = &session.directions;
    let dialled = address(destination, destination_port);
    let accepted = address(session.accepted, session.accepted_port);
    SessionReport {
        source: address(source, source_port),
        destination: dialled,
        translated: (session.accepted_port != 0 && accepted != dialled).then_some(accepted),
        source_instance: session.source_instance,
        destination_instance: session.destination_instance,
        program: program(&session.source_program.name),
        programs: [session.source_program, session.destination_program],
        processes: [session.source_process, session.destination_process],
        path: path(session),
        memory: false,
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

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

pub(super) fn cause(code: u32) -> Cause {
    match code {
        common::cause::SOURCE_FINISHED => Cause::SourceFinished,
        common::cause::DESTINATION_FINISHED => Cause::DestinationFinished,
        _ => Cause::Broken,
    }
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
    Traffic { kernel_bytes, tcp_bytes, kernel_messages, tcp_messages, path, switches, ..Traffic::default() }
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
