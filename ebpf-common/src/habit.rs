//! What programs do with their sockets: the list of what is known to behave the same on a redirected socket,
//! and a name for everything else.

/// Something that a program does with a socket and that is not on the list: its kind in the upper byte, what
/// exactly below. The value 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Habit(pub u64);

/// Habits of each end that a session's record has room for; further ones are not named, the first one has
/// decided already.
pub const NAMED: usize = 4;

/// Kinds of habits, in the upper byte.
pub mod kind {
    /// Receives with flags that are not on the list; the detail is those flags.
    pub const RECEIVE: u64 = 1;
    /// Sends with flags that are not on the list; the detail is those flags.
    pub const SEND: u64 = 2;
    /// Sets an option; the detail is its level, then its number, 16 bits each.
    pub const SET_OPTION: u64 = 3;
    /// Asks for an option; the detail as above.
    pub const GET_OPTION: u64 = 4;
    /// Calls ioctl; the detail is the request.
    pub const IOCTL: u64 = 5;
    /// Receives or sends by a system call; the detail is its number.
    pub const CALL: u64 = 6;
    /// Something about how it reads or sends; the detail is one of [`super::manner`].
    pub const MANNER: u64 = 7;
    /// Could do something that can't be seen in time; the detail is one of [`super::could`].
    pub const COULD: u64 = 8;
}

/// How a program reads or sends.
pub mod manner {
    /// Its reads may block.
    pub const BLOCKS: u64 = 1;
    /// Bytes were read by something that no receiving call shows.
    pub const UNSEEN: u64 = 2;
    /// Sends control data with a message.
    pub const CONTROL_DATA: u64 = 3;
    /// Receives or sends by io_uring.
    pub const RING: u64 = 4;
    /// Receives no byte, because it asks for none.
    pub const EMPTY: u64 = 5;
    /// Sends no byte after its end, or after a reset.
    pub const NOTHING_SENT: u64 = 6;
}

/// What a program could do, as its files say.
pub mod could {
    /// Its files call splice.
    pub const SPLICE: u64 = 1;
    /// Its files ask how much is unread.
    pub const UNREAD_SIZE: u64 = 2;
}

/// Flags of receiving calls, the same on every architecture.
pub mod receive_flag {
    /// `MSG_OOB`
    pub const URGENT: u32 = 0x1;
    /// `MSG_PEEK`
    pub const PEEK: u32 = 0x2;
    /// `MSG_DONTWAIT`, which the kernel adds for sockets that are non-blocking.
    pub const DO_NOT_WAIT: u32 = 0x40;
    /// `MSG_WAITALL`
    pub const WAIT_ALL: u32 = 0x100;
    /// `MSG_NOSIGNAL`
    pub const NO_SIGNAL: u32 = 0x4000;
    /// `MSG_WAITFORONE`
    pub const WAIT_FOR_ONE: u32 = 0x1_0000;
    /// `MSG_CMSG_CLOEXEC`
    pub const CLOSE_ON_EXEC: u32 = 0x4000_0000;
    /// Those on the list.
    pub const LISTED: [u32; 5] = [PEEK, DO_NOT_WAIT, NO_SIGNAL, WAIT_FOR_ONE, CLOSE_ON_EXEC];
}

/// Flags of sending calls.
pub mod send_flag {
    /// `MSG_OOB`
    pub const URGENT: u32 = 0x1;
    /// `MSG_DONTWAIT`
    pub const DO_NOT_WAIT: u32 = 0x40;
    /// `MSG_NOSIGNAL`
    pub const NO_SIGNAL: u32 = 0x4000;
    /// `MSG_MORE`
    pub const MORE: u32 = 0x8000;
    /// `MSG_ZEROCOPY`
    pub const ZERO_COPY: u32 = 0x400_0000;
    /// Those on the list.
    pub const LISTED: [u32; 3] = [DO_NOT_WAIT, NO_SIGNAL, MORE];
}

const fn all(flags: &[u32]) -> u32 {
    let (mut sum, mut index) = (0, 0);
    while index < flags.len() {
        sum |= flags[index];
        index += 1;
    }
    sum
}

/// `SOL_SOCKET`
pub const SOL_SOCKET: u32 = 1;
/// `IPPROTO_IP`
pub const IPPROTO_IP: u32 = 0;
/// `IPPROTO_TCP`
pub const IPPROTO_TCP: u32 = 6;
/// `IPPROTO_IPV6`
pub const IPPROTO_IPV6: u32 = 41;
/// `SO_RCVLOWAT`
pub const SO_RCVLOWAT: u32 = 18;
/// `SO_ATTACH_FILTER`
pub const SO_ATTACH_FILTER: u32 = 26;
/// `SO_TIMESTAMPING`, as programs with 64-bit time ask for it
pub const SO_TIMESTAMPING: u32 = 37;
/// `SO_PEEK_OFF`
pub const SO_PEEK_OFF: u32 = 42;
/// `SO_MAX_PACING_RATE`
pub const SO_MAX_PACING_RATE: u32 = 47;
/// `TCP_ULP`
pub const TCP_ULP: u32 = 31;
/// `FIONREAD`
pub const FIONREAD: u32 = 0x541b;

/// Options that may be set: level and number, on every architecture but those with numbers of their own
/// (Alpha, MIPS, PA-RISC, SPARC), where Patchbay does not run.
pub const SET_LISTED: [(u32, u32); 37] = [
    // SO_REUSEADDR, SO_BROADCAST, SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE, SO_OOBINLINE, SO_PRIORITY, SO_LINGER,
    // SO_REUSEPORT
    (SOL_SOCKET, 2),
    (SOL_SOCKET, 6),
    (SOL_SOCKET, 7),
    (SOL_SOCKET, 8),
    (SOL_SOCKET, 9),
    (SOL_SOCKET, 10),
    (SOL_SOCKET, 12),
    (SOL_SOCKET, 13),
    (SOL_SOCKET, 15),
    // SO_RCVTIMEO, SO_SNDTIMEO in both forms
    (SOL_SOCKET, 20),
    (SOL_SOCKET, 21),
    (SOL_SOCKET, 66),
    (SOL_SOCKET, 67),
    // IP_TOS, IP_TTL, IP_RECVERR, IP_FREEBIND, IP_BIND_ADDRESS_NO_PORT
    (IPPROTO_IP, 1),
    (IPPROTO_IP, 2),
    (IPPROTO_IP, 11),
    (IPPROTO_IP, 15),
    (IPPROTO_IP, 24),
    // TCP_NODELAY, TCP_MAXSEG, TCP_CORK, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_SYNCNT, TCP_LINGER2,
    // TCP_DEFER_ACCEPT, TCP_QUICKACK, TCP_CONGESTION, TCP_USER_TIMEOUT, TCP_FASTOPEN, TCP_NOTSENT_LOWAT
    (IPPROTO_TCP, 1),
    (IPPROTO_TCP, 2),
    (IPPROTO_TCP, 3),
    (IPPROTO_TCP, 4),
    (IPPROTO_TCP, 5),
    (IPPROTO_TCP, 6),
    (IPPROTO_TCP, 7),
    (IPPROTO_TCP, 8),
    (IPPROTO_TCP, 9),
    (IPPROTO_TCP, 12),
    (IPPROTO_TCP, 13),
    (IPPROTO_TCP, 18),
    (IPPROTO_TCP, 23),
    (IPPROTO_TCP, 25),
    // IPV6_UNICAST_HOPS, IPV6_RECVERR, IPV6_V6ONLY, IPV6_TCLASS, IPV6_FREEBIND
    (IPPROTO_IPV6, 16),
    (IPPROTO_IPV6, 25),
    (IPPROTO_IPV6, 26),
    (IPPROTO_IPV6, 67),
    (IPPROTO_IPV6, 78),
];

/// Options that may be asked for besides those that may be set.
pub const GET_LISTED: [(u32, u32); 9] = [
    // SO_TYPE, SO_ERROR, SO_ACCEPTCONN, SO_PROTOCOL, SO_DOMAIN, SO_COOKIE
    (SOL_SOCKET, 3),
    (SOL_SOCKET, 4),
    (SOL_SOCKET, 30),
    (SOL_SOCKET, 38),
    (SOL_SOCKET, 39),
    (SOL_SOCKET, 57),
    // SO_ORIGINAL_DST of connection tracking, for both families
    (IPPROTO_IP, 80),
    (IPPROTO_IPV6, 80),
    // TCP_INFO
    (IPPROTO_TCP, 11),
];

/// Options, by level and number, whose effect only TCP's own sockets have, from the moment they are set: SO_ATTACH_FILTER,
/// SO_TIMESTAMP, SO_TIMESTAMPNS and SO_TIMESTAMPING in both forms, SO_PEEK_OFF, SO_ATTACH_BPF, SO_TXTIME, TCP_ULP.
const SET_FOR_TCP: [(u32, u32); 11] = [
    (SOL_SOCKET, SO_ATTACH_FILTER),
    (SOL_SOCKET, 29),
    (SOL_SOCKET, 63),
    (SOL_SOCKET, 35),
    (SOL_SOCKET, 64),
    (SOL_SOCKET, SO_TIMESTAMPING),
    (SOL_SOCKET, 65),
    (SOL_SOCKET, SO_PEEK_OFF),
    (SOL_SOCKET, 50),
    (SOL_SOCKET, 61),
    (IPPROTO_TCP, TCP_ULP),
];

/// Options that may be set and not asked for: TCP_NOTSENT_LOWAT, which the data path sets itself.
pub const NOT_GOT: (u32, u32) = (IPPROTO_TCP, 25);

/// Requests of ioctl on the list: FIONBIO, FIOCLEX, FIONCLEX, and TCGETS, by which programs ask whether a
/// descriptor is a terminal.
pub const IOCTL_LISTED: [u32; 4] = [0x5421, 0x5451, 0x5450, 0x5401];

const fn has(list: &[(u32, u32)], level: u32, option: u32) -> bool {
    let mut index = 0;
    while index < list.len() {
        if list[index].0 == level && list[index].1 == option {
            return true;
        }
        index += 1;
    }
    false
}

impl Habit {
    /// None.
    pub const NONE: Self = Self(0);

    const fn new(kind: u64, detail: u64) -> Self {
        Self(kind << 56 | detail & (u64::MAX >> 8))
    }

    /// A receiving call's flags: none when all are on the list.
    #[inline(always)]
    pub const fn received_with(flags: u32) -> Self {
        let unlisted = flags & !all(&receive_flag::LISTED);
        if unlisted == 0 { Self::NONE } else { Self::new(kind::RECEIVE, unlisted as u64) }
    }

    /// A sending call's flags: none when all are on the list.
    #[inline(always)]
    pub const fn sent_with(flags: u32) -> Self {
        let unlisted = flags & !all(&send_flag::LISTED);
        if unlisted == 0 { Self::NONE } else { Self::new(kind::SEND, unlisted as u64) }
    }

    /// An option that is set: none when it is on the list.
    #[inline(always)]
    pub const fn set(level: u32, option: u32) -> Self {
        if has(&SET_LISTED, level, option) {
            Self::NONE
        } else {
            Self::new(kind::SET_OPTION, Self::option(level, option))
        }
    }

    /// An option that is asked for: none when it is on one of the lists.
    #[inline(always)]
    pub const fn got(level: u32, option: u32) -> Self {
        let settable = has(&SET_LISTED, level, option) && (level != NOT_GOT.0 || option != NOT_GOT.1);
        if settable || has(&GET_LISTED, level, option) {
            Self::NONE
        } else {
            Self::new(kind::GET_OPTION, Self::option(level, option))
        }
    }

    const fn option(level: u32, option: u32) -> u64 {
        ((level & 0xffff) << 16 | option & 0xffff) as u64
    }

    /// A request of ioctl: none when it is on the list.
    #[inline(always)]
    pub const fn ioctl(request: u32) -> Self {
        let mut index = 0;
        while index < IOCTL_LISTED.len() {
            if IOCTL_LISTED[index] == request {
                return Self::NONE;
            }
            index += 1;
        }
        Self::new(kind::IOCTL, request as u64)
    }

    /// A system call that receives or sends.
    #[inline(always)]
    pub const fn call(number: u32) -> Self {
        Self::new(kind::CALL, number as u64)
    }

    /// One of [`manner`].
    #[inline(always)]
    pub const fn manner(manner: u64) -> Self {
        Self::new(kind::MANNER, manner)
    }

    /// One of [`could`].
    pub const fn could(could: u64) -> Self {
        Self::new(kind::COULD, could)
    }

    /// One of [`kind`].
    pub const fn kind(self) -> u64 {
        self.0 >> 56
    }

    /// What exactly, by its kind.
    pub const fn detail(self) -> u64 {
        self.0 & (u64::MAX >> 8)
    }

    /// Whether it takes a session back to TCP even where a person wants redirection whatever is seen: what it asks for
    /// comes later, and TCP alone gives it.
    #[inline(always)]
    pub const fn needs_tcp(self) -> bool {
        let (level, option) = ((self.detail() >> 16) as u32, (self.detail() & 0xffff) as u32);
        self.kind() == kind::SET_OPTION && has(&SET_FOR_TCP, level, option)
    }

    /// Whether it can harm, where the self-test found some of [`tried`] harmless on this kernel.
    #[inline(always)]
    pub const fn harms(self, harmless: u32) -> bool {
        let needed = match self.kind() {
            kind::RECEIVE => Self::receive_bits(self.detail() as u32),
            kind::SEND => Self::send_bits(self.detail() as u32),
            kind::SET_OPTION if self.detail() == Self::option(SOL_SOCKET, SO_RCVLOWAT) => tried::MINIMUM,
            kind::IOCTL if self.detail() == FIONREAD as u64 => tried::UNREAD_SIZE,
            kind::MANNER if self.detail() == manner::BLOCKS => tried::BLOCKS,
            kind::COULD if self.detail() == could::SPLICE => tried::SPLICE,
            kind::COULD if self.detail() == could::UNREAD_SIZE => tried::UNREAD_SIZE,
            _ => 0,
        };
        needed == 0 || needed & !harmless != 0
    }

    const fn receive_bits(flags: u32) -> u32 {
        match flags {
            receive_flag::URGENT => tried::URGENT,
            receive_flag::WAIT_ALL => tried::WAIT_ALL,
            _ => 0,
        }
    }

    const fn send_bits(flags: u32) -> u32 {
        match flags {
            send_flag::URGENT => tried::URGENT,
            send_flag::ZERO_COPY => tried::ZERO_COPY,
            _ => 0,
        }
    }
}

/// Habits that the self-test tries, as bits: on some kernels they are harmless.
pub mod tried {
    /// Asks how much is unread (FIONREAD).
    pub const UNREAD_SIZE: u32 = 1;
    /// Moves bytes out of the socket with splice.
    pub const SPLICE: u32 = 2;
    /// Receives with MSG_WAITALL.
    pub const WAIT_ALL: u32 = 4;
    /// Asks for a minimum of bytes (SO_RCVLOWAT).
    pub const MINIMUM: u32 = 8;
    /// Sends or receives urgent data.
    pub const URGENT: u32 = 16;
    /// Sends with MSG_ZEROCOPY.
    pub const ZERO_COPY: u32 = 32;
    /// Blocks in receiving calls.
    pub const BLOCKS: u32 = 64;
}
