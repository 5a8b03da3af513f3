//! Connection tracking forgets a connection of which it sees no packets, and of a redirected one it sees none: what
//! then goes over TCP again would be a stranger's. So a session that carries redirected bytes sends an empty packet
//! now and then, as often as the shortest time-out found asks for. It is one that TCP sends to ask whether the other
//! end is still there, so the other end answers, and neither program sees anything of it. A session that carries
//! nothing is forgotten as it would be without redirection.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};
use patchbay_ebpf_common::operation;
use tracing::debug;

use super::{Datapath, Error, namespaces};
use crate::socket_table;

/// Where a namespace says how long it remembers a connection without packets, in seconds.
const TIME_OUT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";
/// Packets in the shortest time-out, so that a lost one does no harm.
const PACKETS_IN_A_TIME_OUT: u32 = 4;
/// A session sends no more than one packet in this time.
const SHORTEST: Duration = Duration::from_millis(500);
/// A session sends at least one packet in this time: a namespace in the middle may remember for less than those
/// of the ends, and none is known whose time-out is shorter than some minutes unless somebody set it.
const LONGEST: Duration = Duration::from_secs(60);
/// Flags of a segment.
const ACK: u8 = 0x10;
const RESET: u8 = 0x04;

/// What is known of time-outs and of packets sent.
#[derive(Default)]
pub(super) struct MiddleBoxes {
    /// The shortest time-outs of namespaces, by their cookies; written by the threads that go there.
    time_outs: Arc<Mutex<BTreeMap<u64, Duration>>>,
    /// When a session last sent a packet, and how many messages had been redirected then.
    told: BTreeMap<u64, (Instant, u64)>,
}

/// A segment of a session without bytes.
pub(super) struct Packet {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) sequence: u32,
    pub(super) expected: u32,
    /// Whether it resets the connection.
    pub(super) resets: bool,
}

impl Datapath {
    /// Keeps redirected sessions known to connection tracking. To be called at least each second; it waits for
    /// nothing.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn tell_middle_boxes(&mut self) -> Result<(), Error> {
        let mut due: BTreeMap<u64, Vec<Packet>> = BTreeMap::new();
        let mut told = BTreeMap::new();
        for (session, record) in self.records()? {
            if session.outside || record.state & patchbay_ebpf_common::state::PAIRED == 0 {
                continue;
            }
            let namespace = record.tuple.namespace;
            let every = self.middle_boxes.every(namespace);
            if every.is_none() {
                due.entry(namespace).or_default();
            }
            let messages = session.sent.kernel_messages + session.received.kernel_messages;
            let before = self.middle_boxes.told.get(&session.key).copied();
            let (since, told_messages) = before.unwrap_or_else(|| (Instant::now(), 0));
            let is_due = every.is_some_and(|every| since.elapsed() >= every) && messages != told_messages;
            if !is_due {
                told.insert(session.key, (since, told_messages));
                continue;
            }
            told.insert(session.key, (Instant::now(), messages));
            let sequence = self.control(operation::NEXT_TO_SEND, session.key, 0)?;
            let expected = self.control(operation::NEXT_EXPECTED, session.key, 0)?;
            due.entry(namespace).or_default().push(Packet {
                source: session.source,
                destination: session.destination,
                // One that the other end has already: it says again what it expects.
                sequence: sequence.wrapping_sub(1),
                expected,
                resets: false,
            });
        }
        self.middle_boxes.told = told;
        self.middle_boxes.send(due)
    }
}

impl MiddleBoxes {
    /// How often sessions of a namespace send a packet; `None` when it is not known yet.
    fn every(&self, namespace: u64) -> Option<Duration> {
        let time_outs = self.time_outs.lock().unwrap_or_else(PoisonError::into_inner);
        time_outs.get(&namespace)?;
        let shortest = time_outs.values().min()?;
        Some((*shortest / PACKETS_IN_A_TIME_OUT).clamp(SHORTEST, LONGEST))
    }

    /// Sends from a thread that goes into each namespace.
    fn send(&self, mut due: BTreeMap<u64, Vec<Packet>>) -> Result<(), Error> {
        if due.is_empty() {
            return Ok(());
        }
        let time_outs = Arc::clone(&self.time_outs);
        let go = move || {
            // The agent's own is often in the middle.
            let own = socket_table::namespace().ok();
            let living: BTreeSet<u64> = due.keys().copied().chain(own).collect();
            // A namespace that can't be entered is not asked for again.
            let mut found: BTreeMap<u64, Duration> = living.iter().map(|cookie| (*cookie, LONGEST)).collect();
            namespaces::visit(living, |cookie| {
                if let Ok(text) = fs::read_to_string(TIME_OUT)
                    && let Ok(seconds) = text.trim().parse()
                {
                    found.insert(cookie, Duration::from_secs(seconds));
                }
                for packet in due.remove(&cookie).unwrap_or_default() {
                    if let Err(error) = packet.send() {
                        debug!("a packet for connection tracking was not sent: {error}");
                    }
                }
            });
            let mut known = time_outs.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= MAX_NAMESPACES {
                known.clear();
            }
            known.extend(found);
        };
        if let Err(error) = std::thread::Builder::new().name("middle-boxes".into()).spawn(go) {
            debug!("no thread for packets to connection tracking: {error}");
        }
        Ok(())
    }
}

/// Namespaces whose time-outs are remembered; with more all are found out again.
const MAX_NAMESPACES: usize = 4_096;

impl Packet {
    pub(super) fn send(&self) -> io::Result<()> {
        let family = match self.source {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
        let mut to = self.destination;
        to.set_port(0);
        sendto(raw.as_raw_fd(), &self.bytes(), &SockaddrStorage::from(to), MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }

    /// The packet with its headers.
    fn bytes(&self) -> Vec<u8> {
        let (source, destination) = (octets(self.source.ip()), octets(self.destination.ip()));
        let mut tcp = Vec::with_capacity(20);
        tcp.extend(self.source.port().to_be_bytes());
        tcp.extend(self.destination.port().to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.expected.to_be_bytes());
        tcp.extend([5 << 4, if self.resets { RESET | ACK } else { ACK }]);
        // The window, the sum, and no urgent data.
        tcp.extend([0xff, 0xff, 0, 0, 0, 0]);
        let protocol = libc::IPPROTO_TCP as u8;
        let length = tcp.len() as u16;
        let mut summed = [&source[..], &destination[..], &[0, protocol], &length.to_be_bytes()].concat();
        summed.extend(&tcp);
        tcp[16..18].copy_from_slice(&sum(&summed).to_be_bytes());
        let mut bytes = match self.source {
            // Version and length, no type of service; the kernel fills in the rest, and the sum.
            SocketAddr::V4(_) => {
                let total = (20 + length).to_be_bytes();
                vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol, 0, 0]
            }
            SocketAddr::V6(_) => {
                let length = length.to_be_bytes();
                vec![0x60, 0, 0, 0, length[0], length[1], protocol, 64]
            }
        };
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend(tcp);
        bytes
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The Internet's sum (RFC 1071) of an even number of bytes.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_has_its_headers_and_a_right_sum() {
        for (source, destination, headers) in
            [("10.0.0.1:40000", "10.0.0.2:80", 20), ("[fd00::1]:40000", "[fd00::2]:80", 40)]
        {
            let source: SocketAddr = source.parse().expect("an address");
            let destination: SocketAddr = destination.parse().expect("an address");
            let bytes = Packet { source, destination, sequence: 7, expected: 9, resets: false }.bytes();
            assert_eq!(bytes.len(), headers + 20);
            let (addresses, tcp) = (octets(source.ip()).len() * 2, &bytes[headers..]);
            let mut summed = bytes[headers - addresses..headers].to_vec();
            summed.extend([0, 6, 0, 20]);
            summed.extend(tcp);
            assert_eq!(sum(&summed), 0, "the sum over everything, itself too, is nothing");
            assert_eq!(u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]), 7);
        }
    }
}
