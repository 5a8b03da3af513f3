//! The listening sockets of plugs' own addresses.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockname, getsockopt, listen,
    setsockopt, socket, sockopt,
};

/// Connections that may wait in the kernel for the agent, of one plug; further ones try again (TCP).
const BACKLOG: i32 = 1_024;

/// A listening socket at an address, or at any port of it.
pub fn open(at: SocketAddr) -> io::Result<OwnedFd> {
    let family = if at.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let opened = socket(family, SockType::Stream, flags, None)?;
    // An earlier agent's connections may still be waiting for their end (TIME_WAIT).
    setsockopt(&opened, sockopt::ReuseAddr, &true)?;
    bind(opened.as_raw_fd(), &SockaddrStorage::from(at))?;
    listen(&opened, Backlog::new(BACKLOG)?)?;
    Ok(opened)
}

/// Where a socket is.
pub fn address(listener: &OwnedFd) -> io::Result<SocketAddr> {
    let address: SockaddrStorage = getsockname(listener.as_raw_fd())?;
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from(std::net::SocketAddrV4::from(*v4)));
    let v6 = || address.as_sockaddr_in6().map(|v6| SocketAddr::from(std::net::SocketAddrV6::from(*v6)));
    v4.or_else(v6).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is no TCP socket"))
}

/// Whether a descriptor is a listening socket at an address: its program may have put something else in its place.
pub fn is_at(descriptor: &OwnedFd, at: SocketAddr) -> bool {
    address(descriptor).is_ok_and(|found| found == at)
        && getsockopt(&descriptor.as_fd(), sockopt::AcceptConn).unwrap_or(false)
}

/// The cookie by which the kernel names a socket's network namespace (Linux 5.14).
///
/// # Errors
/// The kernel does not tell.
#[expect(unsafe_code, reason = "no library has this option of sockets")]
pub fn namespace_of(socket: &impl AsFd) -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let (mut cookie, mut length) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `length` bytes, which is the cookie's size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_known_by_where_it_is_and_that_it_listens() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = open(at.parse().expect("an address")).expect("loopback");
            let here = address(&listener).expect("bound");
            assert!(is_at(&listener, here) && !is_at(&listener, at.parse().expect("an address")));
            let connected: OwnedFd = std::net::TcpStream::connect(here).expect("it listens").into();
            let local = address(&connected).expect("connected");
            assert!(!is_at(&connected, local), "it does not listen");
        }
    }
}
