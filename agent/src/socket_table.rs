//! The kernel's socket table (sock_diag, Linux 3.3; the cgroup of a socket since 5.8).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// Where `struct tcp_info` has its 64-bit counters (Linux 4.1).
const BYTES_ACKED: usize = 120;
const BYTES_RECEIVED: usize = 128;
const TCP_LISTEN: u32 = 10;
/// Where `inet_diag_req_v2` and `inet_diag_msg` have a socket's cookie.
const COOKIE_ASKED: usize = 48;
const COOKIE_TOLD: usize = 44;
const SO_NETNS_COOKIE: libc::c_int = 71;
/// Bytes of a netlink header, and of the header with `inet_diag_msg`.
const HEADER: usize = 16;
const MESSAGE: usize = HEADER + 72;
/// Bytes read at once; the kernel fills at most so much of a dump.
const READ_BYTES: usize = 64 * 1024;

/// A listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// Where it listens.
    pub at: SocketAddr,
    /// The id of the cgroup that made it.
    pub cgroup: u64,
}

/// The id of the cgroup whose process made the socket with these ends, in this network namespace.
///
/// # Errors
/// There is no such socket, or the kernel does not tell.
pub fn cgroup_of(local: SocketAddr, remote: SocketAddr) -> io::Result<u64> {
    let answers =
        ask(&request(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, !0, Some((local, remote)), local.is_ipv6()))?;
    answers.iter().find_map(|message| attribute(message, INET_DIAG_CGROUP_ID)).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "the kernel does not tell the socket's cgroup")
    })
}

/// All listening TCP sockets of this network namespace.
///
/// # Errors
/// The kernel refused.
pub fn listening() -> io::Result<Vec<Listening>> {
    let mut found = Vec::new();
    for v6 in [false, true] {
        for message in
            ask(&request(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1 << TCP_LISTEN, None, v6))?
        {
            if let Some(cgroup) = attribute(&message, INET_DIAG_CGROUP_ID) {
                found.push(Listening { at: end(&message, HEADER + 4, HEADER + 8, v6), cgroup });
            }
        }
    }
    Ok(found)
}

/// The cookie by which the kernel names this thread's network namespace (Linux 5.14).
///
/// # Errors
/// The kernel does not tell.
#[expect(unsafe_code, reason = "no library has this option of sockets")]
pub fn namespace() -> io::Result<u64> {
    let any = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let (mut cookie, mut length) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `length` bytes, which is the cookie's size.
    let result = unsafe {
        libc::getsockopt(
            any.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// What a connection has carried over TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// Its own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The id of the cgroup that made it; 0 when the kernel does not tell.
    pub cgroup: u64,
    /// Bytes sent and acknowledged.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
}

/// All connections of this network namespace with what they have carried.
///
/// # Errors
/// The kernel refused.
pub fn carried() -> io::Result<Vec<Carried>> {
    let mut found = Vec::new();
    for v6 in [false, true] {
        let mut request =
            request(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, !(1 << TCP_LISTEN), None, v6);
        request[HEADER + 2] = 1 << (INET_DIAG_INFO - 1);
        for message in ask(&request)? {
            let Some(info) = attribute_bytes(&message, INET_DIAG_INFO) else { continue };
            let (Some(acked), Some(received)) = (long(info, BYTES_ACKED), long(info, BYTES_RECEIVED)) else {
                continue;
            };
            found.push(Carried {
                local: end(&message, HEADER + 4, HEADER + 8, v6),
                remote: end(&message, HEADER + 6, HEADER + 24, v6),
                cgroup: attribute(&message, INET_DIAG_CGROUP_ID).unwrap_or(0),
                // The SYN counts as a byte.
                sent: acked.saturating_sub(1),
                received,
            });
        }
    }
    Ok(found)
}

fn end(message: &[u8], port: usize, address: usize, v6: bool) -> SocketAddr {
    let port = u16::from_be_bytes([message[port], message[port + 1]]);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&message[address..address + 16]);
    let ip = match v6 {
        true => IpAddr::from(bytes).to_canonical(),
        false => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
    };
    SocketAddr::new(ip, port)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Ends a connection from outside its process (CONFIG_INET_DIAG_DESTROY); both ends see it broken.
///
/// # Errors
/// There is no such socket, or the kernel refused.
pub fn destroy(local: SocketAddr, remote: SocketAddr) -> io::Result<()> {
    let (ends, v6) = (Some((local, remote)), local.is_ipv6());
    let gone = || io::Error::new(io::ErrorKind::NotFound, "the connection has gone");
    let found = ask(&request(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, !0, ends, v6))?;
    let found = found.first().filter(|message| message.len() >= MESSAGE).ok_or_else(gone)?;
    // Where the connection has gone, the kernel finds its listening socket instead, and would end that.
    if u32::from(found[HEADER + 1]) == TCP_LISTEN {
        return Err(gone());
    }
    let mut request = request(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, !0, ends, v6);
    request[HEADER + COOKIE_ASKED..].copy_from_slice(&found[HEADER + COOKIE_TOLD..HEADER + COOKIE_TOLD + 8]);
    ask(&request).map(drop)
}

/// A netlink header with an `inet_diag_req_v2`.
fn request(kind: u16, flags: u16, states: u32, ends: Option<(SocketAddr, SocketAddr)>, v6: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + 56);
    bytes.extend_from_slice(&((HEADER + 56) as u32).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    bytes.extend_from_slice(&[family as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    bytes.extend_from_slice(&states.to_ne_bytes());
    match ends {
        Some((local, remote)) => {
            bytes.extend_from_slice(&local.port().to_be_bytes());
            bytes.extend_from_slice(&remote.port().to_be_bytes());
            bytes.extend_from_slice(&address(local.ip()));
            bytes.extend_from_slice(&address(remote.ip()));
        }
        None => bytes.extend_from_slice(&[0; 36]),
    }
    // Any interface, any cookie.
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&[0xff; 8]);
    bytes
}

fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
    }
}

/// Sends a request and reads its answers, up to the end of a dump.
fn ask(request: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let netlink: OwnedFd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    sendto(netlink.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let dump = u16::from_ne_bytes([request[6], request[7]]) & NLM_F_DUMP != 0;
    let mut answers = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while rest.len() >= HEADER {
            let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            if size < HEADER || size > rest.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a damaged netlink message"));
            }
            match kind {
                NLMSG_DONE => return Ok(answers),
                NLMSG_ERROR => {
                    let code = i32::from_ne_bytes([rest[16], rest[17], rest[18], rest[19]]);
                    return if code == 0 { Ok(answers) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ if size >= MESSAGE => answers.push(rest[..size].to_vec()),
                _ => {}
            }
            rest = &rest[size.next_multiple_of(4).min(rest.len())..];
        }
        if !dump {
            return Ok(answers);
        }
    }
}

/// An attribute of eight bytes.
fn attribute(message: &[u8], wanted: u16) -> Option<u64> {
    long(attribute_bytes(message, wanted)?, 0)
}

fn attribute_bytes(message: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = message.get(MESSAGE..)?;
    while rest.len() >= 4 {
        let size = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]);
        if size < 4 || size > rest.len() {
            return None;
        }
        if kind == wanted {
            return rest.get(4..size);
        }
        rest = &rest[size.next_multiple_of(4).min(rest.len())..];
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn sockets_of_this_process_are_found_with_their_cgroup() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).expect("loopback");
            let here = listener.local_addr().expect("bound");
            let found = listening().expect("readable");
            let listens = found.iter().find(|socket| socket.at == here).expect("it listens");
            let stream = TcpStream::connect(here).expect("it listens");
            let local = stream.local_addr().expect("connected");
            assert_eq!(cgroup_of(local, here).expect("it is there"), listens.cgroup);
            assert!(listens.cgroup > 0);
            let (mut accepted, _) = listener.accept().expect("connected");
            accepted.write_all(b"four").expect("connected");
            let mut bytes = [0; 4];
            (&stream).read_exact(&mut bytes).expect("connected");
            let all = carried().expect("readable");
            let ours = all.iter().find(|c| (c.local, c.remote) == (local, here)).expect("it is there");
            assert_eq!((ours.sent, ours.received), (0, 4));
        }
    }

    #[test]
    fn a_connection_that_has_gone_takes_no_listener_with_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let here = listener.local_addr().expect("bound");
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        let error = destroy(here, nobody).expect_err("there is none");
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        std::net::TcpStream::connect(here).expect("it listens still");
    }

    #[test]
    fn a_destroyed_connection_is_broken_at_both_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let here = listener.local_addr().expect("bound");
        let mut stream = TcpStream::connect(here).expect("it listens");
        let local = stream.local_addr().expect("connected");
        let (mut accepted, _) = listener.accept().expect("connected");
        destroy(local, here).expect("root may");
        assert!(stream.read(&mut [0]).is_err() || accepted.read(&mut [0]).is_err());
        assert!(cgroup_of(local, here).is_err());
    }
}
