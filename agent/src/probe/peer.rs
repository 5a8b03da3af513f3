//! The inner part of the self-test: both ends of each connection, in the private cgroup and network
//! namespace. Each answer is a line: the fault's name and `yes` or `no`.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};

use super::Fault;

/// Long enough for the other thread to be waiting, and for what would come to have come.
const MOMENT: Duration = Duration::from_millis(12);
/// Nothing waits longer.
const LIMIT: Duration = Duration::from_secs(1);
/// Bytes of the test of order.
const ORDER_BYTES: usize = 300_000;

/// Two ends of a connection.
struct Pair {
    source: TcpStream,
    destination: TcpStream,
}

/// Runs all checks and prints their answers.
///
/// # Errors
/// The private namespace can't be made.
pub fn run() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace can't be made")?;
    loopback_up().context("the loopback device can't be set up")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    say(&format!("order {}", word(order(&listener)?)));
    for fault in Fault::ALL {
        // What can't be tried is not told, which counts as present.
        if let Ok(present) = check(&listener, fault) {
            say(&format!("{} {}", fault.name(), word(present)));
        }
    }
    Ok(())
}

#[expect(unsafe_code, reason = "no library has the flags of devices")]
fn loopback_up() -> io::Result<()> {
    let any = TcpListener::bind("0.0.0.0:0")?;
    // SAFETY: all zero is a request without a name.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads the request, which lives until the call returns.
    let result = unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn word(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn say(line: &str) {
    // Nobody listens any more when this fails.
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Asks the outer part to do something.
fn ask(what: &str) -> io::Result<()> {
    say(what);
    io::stdin().lock().read_line(&mut String::new()).map(drop)
}

fn pair(listener: &TcpListener) -> io::Result<Pair> {
    let source = TcpStream::connect(listener.local_addr()?)?;
    let (destination, _) = listener.accept()?;
    for end in [&source, &destination] {
        end.set_read_timeout(Some(LIMIT))?;
        end.set_nodelay(true)?;
    }
    Ok(Pair { source, destination })
}

/// Both ways, large and small, compared byte by byte.
fn order(listener: &TcpListener) -> io::Result<bool> {
    let Pair { mut source, mut destination } = pair(listener)?;
    let sent: Vec<u8> = (0..ORDER_BYTES).map(|index| (index % 251) as u8).collect();
    let expected = sent.clone();
    let echo = std::thread::spawn(move || {
        let mut got = vec![0; ORDER_BYTES];
        destination.read_exact(&mut got)?;
        destination.write_all(&got)
    });
    source.write_all(&sent)?;
    let mut back = vec![0; ORDER_BYTES];
    source.read_exact(&mut back)?;
    echo.join().map_err(|_| io::Error::other("the echo failed"))??;
    Ok(back == expected)
}

fn check(listener: &TcpListener, fault: Fault) -> io::Result<bool> {
    let mut pair = pair(listener)?;
    match fault {
        Fault::UnreadSizeMixed => {
            ask("off")?;
            pair.source.write_all(b"0123456789")?;
            let unread = unread(&pair.destination)?;
            ask("on")?;
            Ok(unread != 10)
        }
        Fault::UnreadSize => {
            pair.source.write_all(b"0123456789")?;
            Ok(unread(&pair.destination)? != 10)
        }
        Fault::Splice => splice(&mut pair),
        Fault::WaitAll => {
            let Pair { mut source, destination } = pair;
            source.write_all(b"01234")?;
            let later = std::thread::spawn(move || {
                std::thread::sleep(MOMENT);
                source.write_all(b"56789")
            });
            let got = recv(destination.as_raw_fd(), &mut [0; 10], MsgFlags::MSG_WAITALL)?;
            later.join().map_err(|_| io::Error::other("the writer failed"))??;
            Ok(got != 10)
        }
        Fault::Minimum => {
            let Pair { mut source, destination } = pair;
            source.write_all(b"01234")?;
            set_minimum(&destination, 10)?;
            let later = std::thread::spawn(move || {
                std::thread::sleep(MOMENT);
                source.write_all(b"56789").map(|()| source)
            });
            let got = recv(destination.as_raw_fd(), &mut [0; 10], MsgFlags::empty())?;
            later.join().map_err(|_| io::Error::other("the writer failed"))??;
            Ok(got != 10)
        }
        Fault::Urgent => {
            send(pair.source.as_raw_fd(), b"ab", MsgFlags::MSG_OOB)?;
            // TCP keeps the urgent byte, the last one, out of the stream.
            Ok(recv(pair.destination.as_raw_fd(), &mut [0; 2], MsgFlags::empty())? != 1)
        }
        Fault::ZeroCopy => zero_copy(&pair),
        Fault::HalfClose => {
            let Pair { source, mut destination } = pair;
            source.shutdown(Shutdown::Write)?;
            let later = std::thread::spawn(move || {
                std::thread::sleep(MOMENT);
                destination.write_all(b"x")
            });
            let got = recv(source.as_raw_fd(), &mut [0], MsgFlags::empty());
            later.join().map_err(|_| io::Error::other("the writer failed"))??;
            Ok(got != Ok(1))
        }
        Fault::Reset => {
            let Pair { source, destination } = pair;
            let now = libc::linger { l_onoff: 1, l_linger: 0 };
            setsockopt(&source, sockopt::Linger, &now)?;
            let later = std::thread::spawn(move || {
                std::thread::sleep(MOMENT);
                drop(source);
            });
            let got = recv(destination.as_raw_fd(), &mut [0], MsgFlags::empty());
            later.join().map_err(|_| io::Error::other("the closer failed"))?;
            Ok(got != Err(nix::errno::Errno::ECONNRESET))
        }
        Fault::Signal => {
            let Pair { mut source, destination } = pair;
            let reader = nix::sys::pthread::pthread_self();
            go_on_after(Signal::SIGUSR1)?;
            let later = std::thread::spawn(move || {
                std::thread::sleep(MOMENT);
                nix::sys::pthread::pthread_kill(reader, Signal::SIGUSR1)?;
                std::thread::sleep(MOMENT);
                source.write_all(b"x")
            });
            // Without a time limit, with which TCP too would end the call.
            destination.set_read_timeout(None)?;
            let got = recv(destination.as_raw_fd(), &mut [0], MsgFlags::empty());
            later.join().map_err(|_| io::Error::other("the writer failed"))??;
            Ok(got != Ok(1))
        }
        Fault::Delete => {
            pair.source.write_all(b"0123456789")?;
            ask("delete")?;
            Ok(!readable(&pair.destination)?)
        }
        Fault::Charged => {
            pair.source.write_all(&[0; 10_000])?;
            Ok(receive_memory(&pair.destination)? >= 10_000)
        }
    }
}

/// Calls that the signal interrupts go on after it.
#[expect(unsafe_code, reason = "setting a handler is declared unsafe for what it may call")]
fn go_on_after(signal: Signal) -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

fn readable(stream: &TcpStream) -> io::Result<bool> {
    stream.set_nonblocking(true)?;
    let seen = poll(stream)? && stream.peek(&mut [0]).is_ok();
    stream.set_nonblocking(false)?;
    Ok(seen)
}

fn poll(stream: &TcpStream) -> io::Result<bool> {
    use std::os::fd::AsFd as _;

    use nix::poll::{PollFd, PollFlags, PollTimeout};
    let mut sockets = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(MOMENT).unwrap_or(PollTimeout::ZERO);
    Ok(nix::poll::poll(&mut sockets, limit)? > 0)
}

fn splice(pair: &mut Pair) -> io::Result<bool> {
    use nix::fcntl::SpliceFFlags;
    let (_out, into) = nix::unistd::pipe()?;
    pair.source.write_all(b"0123456789")?;
    pair.destination.set_nonblocking(true)?;
    let moved = nix::fcntl::splice(&pair.destination, None, &into, None, 10, SpliceFFlags::SPLICE_F_NONBLOCK);
    Ok(moved != Ok(10))
}

fn zero_copy(pair: &Pair) -> io::Result<bool> {
    const SO_ZEROCOPY: libc::c_int = 60;
    set_option(&pair.source, libc::SOL_SOCKET, SO_ZEROCOPY, 1)?;
    let bytes = vec![0; 20_000];
    send(pair.source.as_raw_fd(), &bytes, MsgFlags::from_bits_retain(libc::MSG_ZEROCOPY))?;
    let mut got = vec![0; bytes.len()];
    (&pair.destination).read_exact(&mut got)?;
    // A completion makes the error queue readable.
    use std::os::fd::AsFd as _;

    use nix::poll::{PollFd, PollFlags, PollTimeout};
    let mut sockets = [PollFd::new(pair.source.as_fd(), PollFlags::empty())];
    let limit = PollTimeout::try_from(MOMENT).unwrap_or(PollTimeout::ZERO);
    Ok(nix::poll::poll(&mut sockets, limit)? == 0)
}

fn set_minimum(stream: &TcpStream, minimum: libc::c_int) -> io::Result<()> {
    set_option(stream, libc::SOL_SOCKET, libc::SO_RCVLOWAT, minimum)
}

#[expect(unsafe_code, reason = "no library has these options")]
fn set_option(stream: &TcpStream, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one integer.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "no library has FIONREAD")]
fn unread(stream: &TcpStream) -> io::Result<i32> {
    let mut value: libc::c_int = 0;
    // SAFETY: the kernel writes one integer.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::FIONREAD, &raw mut value) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// `sk_rmem_alloc`, the first of SO_MEMINFO's values (Linux 4.12).
#[expect(unsafe_code, reason = "no library has this option")]
fn receive_memory(stream: &TcpStream) -> io::Result<u32> {
    const SO_MEMINFO: libc::c_int = 55;
    let mut values = [0_u32; 9];
    let mut length = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(values[0]) } else { Err(io::Error::last_os_error()) }
}
