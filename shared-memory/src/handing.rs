//! What the ends of sessions and the agent that hands memory out say to each other, each in one message of a Unix
//! socket that keeps messages apart (SOCK_SEQPACKET).
//!
//! ```text
//! end → agent   Ask: memory for this connection      Have: I have it already, look     Gone: I have it no more
//! agent → end   Offer: here it is                    Refused: no, because              MoveToTcp: go back
//! ```
//!
//! Numbers are the end's own, and name its sessions on this connection to the agent.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};

use crate::error::Unusable;
use crate::layout::Side;
use crate::{message, offer};

/// What a message of an end begins with.
const ASK: [u8; 8] = *b"PATCHAS1";
/// The same of one that has memory already, of one that has it no more.
const HAVE: [u8; 8] = *b"PATCHHV1";
const GONE: [u8; 8] = *b"PATCHGN1";
/// What other messages of the agent than offers begin with.
const REFUSED: [u8; 8] = *b"PATCHNO1";
const MOVE: [u8; 8] = *b"PATCHTC1";
/// A message of an end: what it begins with, its number (8), the side (1), source and destination (16 + 2 each).
const ASK_BYTES: usize = 53;
/// The longest reason for a refusal, in bytes.
pub const MAX_REASON: usize = 200;
/// Connections that may wait until the agent accepts them.
const BACKLOG: i32 = 1_024;

/// A session as one of its ends names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Named {
    /// The end's own number of it.
    pub number: u64,
    /// Which end.
    pub side: Side,
    /// Where its connection comes from.
    pub source: SocketAddr,
    /// Where it goes to.
    pub destination: SocketAddr,
}

/// What an end says.
#[derive(Debug)]
pub enum FromEnd {
    /// It wants memory for a session.
    Ask(Named),
    /// It has memory for a session, from an earlier agent.
    Have(Named, OwnedFd),
    /// The session is over.
    Gone(u64),
}

/// What the agent says.
#[derive(Debug)]
pub enum FromAgent {
    /// Here is memory. [`crate::Offer::session`] is the end's number.
    Offer(crate::Offer),
    /// There is none for the session with this number, and why.
    Refused(u64, String),
    /// The session with this number is to move to TCP.
    MoveToTcp(u64),
}

/// A socket that listens for ends, at a path that must be free. Everybody may connect.
///
/// # Errors
/// The path can't be used, or the kernel refuses.
pub fn listen_at(path: &Path) -> nix::Result<OwnedFd> {
    use std::os::unix::fs::PermissionsExt as _;

    let listener = new_socket()?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &UnixAddr::new(path.as_os_str().as_bytes())?)?;
    let everybody = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(path, everybody)
        .map_err(|error| nix::Error::from_raw(error.raw_os_error().unwrap_or(0)))?;
    listen(&listener, Backlog::new(BACKLOG)?)?;
    Ok(listener)
}

/// A connection to the agent that listens at a path. Does not wait.
///
/// # Errors
/// Nobody listens there, or the kernel refuses.
pub fn connect_to(path: &Path) -> nix::Result<OwnedFd> {
    let connection = new_socket()?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&connection), &UnixAddr::new(path.as_os_str().as_bytes())?)?;
    Ok(connection)
}

fn new_socket() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
}

impl FromEnd {
    /// Sends it. Does not wait.
    ///
    /// # Errors
    /// The socket has no room (EAGAIN), or the agent is gone.
    pub fn send(&self, to: impl AsFd) -> nix::Result<()> {
        match self {
            Self::Ask(named) => message::send(to, &named.message(ASK), &[]),
            Self::Have(named, memory) => send_have(to, named, memory.as_fd()),
            Self::Gone(number) => message::send(to, &with_number(GONE, *number), &[]),
        }
    }

    /// Receives one; `None` at the end of the connection. Does not wait: EAGAIN when there is none.
    ///
    /// # Errors
    /// What came is nothing that an end says.
    pub fn receive(from: impl AsFd) -> Result<Option<Self>, Unusable> {
        let mut bytes = [0; ASK_BYTES];
        let (length, descriptors) = message::receive(from, &mut bytes)?;
        if length == 0 {
            return Ok(None);
        }
        let other = Unusable::Offer("the message is nothing that an end says");
        let Some((kind, rest)) = bytes[..length].split_first_chunk::<8>() else { return Err(other) };
        let said = match *kind {
            ASK => Named::read(rest).map(Self::Ask),
            HAVE => {
                let memory = <[OwnedFd; 1]>::try_from(descriptors).ok();
                Named::read(rest).zip(memory).map(|(named, [memory])| Self::Have(named, memory))
            }
            GONE => number(rest).map(Self::Gone),
            _ => None,
        };
        said.map(Some).ok_or(other)
    }
}

/// Says [`FromEnd::Have`] without giving the memory away.
///
/// # Errors
/// As [`FromEnd::send`].
pub fn send_have(to: impl AsFd, named: &Named, memory: BorrowedFd<'_>) -> nix::Result<()> {
    message::send(to, &named.message(HAVE), &[memory])
}

impl FromAgent {
    /// Sends it. Does not wait.
    ///
    /// # Errors
    /// The socket has no room (EAGAIN), or the end is gone.
    pub fn send(self, to: impl AsFd) -> nix::Result<()> {
        match self {
            Self::Offer(offer) => offer.send(to),
            Self::Refused(number, reason) => {
                let mut message = with_number(REFUSED, number).to_vec();
                message.extend(reason.bytes().take(MAX_REASON));
                message::send(to, &message, &[])
            }
            Self::MoveToTcp(number) => message::send(to, &with_number(MOVE, number), &[]),
        }
    }

    /// Receives one; `None` at the end of the connection. Does not wait: EAGAIN when there is none.
    ///
    /// # Errors
    /// What came is nothing that an agent says.
    pub fn receive(from: impl AsFd) -> Result<Option<Self>, Unusable> {
        let mut bytes = [0; 16 + MAX_REASON];
        let (length, descriptors) = message::receive(from, &mut bytes)?;
        if length == 0 {
            return Ok(None);
        }
        let other = || Unusable::Offer("the message is nothing that an agent says");
        let (kind, rest) = bytes[..length].split_first_chunk::<8>().ok_or_else(other)?;
        if *kind == offer::MAGIC {
            return crate::Offer::read(&bytes[..length], descriptors).map(|offer| Some(Self::Offer(offer)));
        }
        let (number, reason) = rest.split_first_chunk::<8>().ok_or_else(other)?;
        let number = u64::from_ne_bytes(*number);
        match *kind {
            REFUSED => Ok(Some(Self::Refused(number, String::from_utf8_lossy(reason).into_owned()))),
            MOVE if reason.is_empty() => Ok(Some(Self::MoveToTcp(number))),
            _ => Err(other()),
        }
    }
}

fn with_number(kind: [u8; 8], number: u64) -> [u8; 16] {
    let mut message = [0; 16];
    message[..8].copy_from_slice(&kind);
    message[8..].copy_from_slice(&number.to_ne_bytes());
    message
}

fn number(rest: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(rest.try_into().ok()?))
}

impl Named {
    fn message(&self, kind: [u8; 8]) -> [u8; ASK_BYTES] {
        let mut message = [0; ASK_BYTES];
        message[..16].copy_from_slice(&with_number(kind, self.number));
        message[16] = u8::from(self.side == Side::Destination);
        for (at, end) in [(17, self.source), (35, self.destination)] {
            let ip = match end.ip() {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            message[at..at + 16].copy_from_slice(&ip.octets());
            message[at + 16..at + 18].copy_from_slice(&end.port().to_be_bytes());
        }
        message
    }

    /// What follows the first 8 bytes of a message.
    fn read(rest: &[u8]) -> Option<Self> {
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let (side, rest) = rest.split_first()?;
        let (source, rest) = rest.split_first_chunk::<18>()?;
        let destination: &[u8; 18] = rest.try_into().ok()?;
        let end = |bytes: &[u8; 18]| {
            let mut ip = [0; 16];
            ip.copy_from_slice(&bytes[..16]);
            let port = u16::from_be_bytes([bytes[16], bytes[17]]);
            SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), port)
        };
        let side = match side {
            0 => Side::Source,
            1 => Side::Destination,
            _ => return None,
        };
        let number = u64::from_ne_bytes(*number);
        Some(Self { number, side, source: end(source), destination: end(destination) })
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use nix::sys::socket::{accept4, send, socketpair};

    use super::*;
    use crate::layout::Rings;
    use crate::{MIN_RING_BYTES, Observer, Offer};

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("descriptors")
    }

    fn named(side: Side, source: &str) -> Named {
        let end = |text: &str| text.parse().expect("an address");
        Named { number: 7, side, source: end(source), destination: end("10.0.0.1:54000") }
    }

    #[test]
    fn what_an_end_says_arrives() {
        let (end, agent) = pair();
        let asks = [named(Side::Source, "10.0.0.2:40000"), named(Side::Destination, "[fd00::1]:65535")];
        for ask in asks {
            FromEnd::Ask(ask).send(&end).expect("room");
        }
        let rings = Rings::new(MIN_RING_BYTES, MIN_RING_BYTES).expect("good sizes");
        let [offer, _] = Offer::pair(1, rings).expect("memory");
        send_have(&end, &asks[0], offer.memory().as_fd()).expect("room");
        FromEnd::Gone(9).send(&end).expect("room");
        for ask in asks {
            let Ok(Some(FromEnd::Ask(found))) = FromEnd::receive(&agent) else { panic!("an ask") };
            assert_eq!(found, ask);
        }
        let Ok(Some(FromEnd::Have(found, memory))) = FromEnd::receive(&agent) else { panic!("memory") };
        assert_eq!(found, asks[0]);
        Observer::new(memory).expect("it is a session's");
        assert!(matches!(FromEnd::receive(&agent), Ok(Some(FromEnd::Gone(9)))));
        drop(end);
        assert!(matches!(FromEnd::receive(&agent), Ok(None)));
    }

    #[test]
    fn what_the_agent_says_arrives() {
        let (end, agent) = pair();
        let [offer, _] = Offer::pair(7, Rings::default()).expect("memory");
        FromAgent::Offer(offer).send(&agent).expect("room");
        FromAgent::Refused(8, "the graph says never ".repeat(20)).send(&agent).expect("room");
        FromAgent::MoveToTcp(7).send(&agent).expect("room");
        let Ok(Some(FromAgent::Offer(offer))) = FromAgent::receive(&end) else { panic!("an offer") };
        assert_eq!((offer.session, offer.side), (7, Side::Source));
        let Ok(Some(FromAgent::Refused(8, reason))) = FromAgent::receive(&end) else { panic!("a refusal") };
        assert!(reason.len() == MAX_REASON && reason.starts_with("the graph says never"));
        assert!(matches!(FromAgent::receive(&end), Ok(Some(FromAgent::MoveToTcp(7)))));
        let nothing = FromAgent::receive(&end).expect_err("nothing more");
        assert!(matches!(nothing, Unusable::Kernel { error: nix::Error::EAGAIN, .. }), "{nothing}");
    }

    #[test]
    fn what_nobody_says_is_refused() {
        let (ours, theirs) = pair();
        let flags = nix::sys::socket::MsgFlags::empty();
        let mut bad = vec![vec![0], vec![0; 16], vec![b'P'; 53], vec![0; 4096]];
        for kind in [ASK, HAVE, GONE, REFUSED, MOVE, offer::MAGIC] {
            bad.extend([0, 1, 7].map(|more| [&kind[..], &vec![9; more]].concat()));
        }
        // A side that there is not; memory without a descriptor; a number too long.
        bad.push(named(Side::Source, "10.0.0.2:1").message(ASK).to_vec());
        bad.last_mut().expect("pushed")[16] = 2;
        bad.push(named(Side::Source, "10.0.0.2:1").message(HAVE).to_vec());
        bad.push([&MOVE[..], &[0; 9]].concat());
        for bytes in bad {
            send(ours.as_raw_fd(), &bytes, flags).expect("room");
            assert!(FromEnd::receive(&theirs).is_err(), "{bytes:?}");
            send(ours.as_raw_fd(), &bytes, flags).expect("room");
            assert!(FromAgent::receive(&theirs).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn an_end_finds_the_agent_at_its_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("memory");
        assert_eq!(connect_to(&path).expect_err("nobody"), nix::Error::ENOENT);
        let listener = listen_at(&path).expect("the path is free");
        let end = connect_to(&path).expect("it listens");
        let agent = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC).expect("it has connected");
        FromEnd::Gone(1).send(&end).expect("room");
        #[expect(unsafe_code, reason = "the kernel hands the descriptor over as a number")]
        // SAFETY: the kernel has just made it, and nobody else knows it.
        let agent = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(agent) };
        assert!(matches!(FromEnd::receive(&agent), Ok(Some(FromEnd::Gone(1)))));
        drop(listener);
        assert_eq!(connect_to(&path).expect_err("nobody listens"), nix::Error::ECONNREFUSED);
    }
}
