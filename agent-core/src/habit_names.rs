//! Habits in words: which call with which flag or option, and what a person may do about it.

use patchbay_ebpf_common::Habit;
use patchbay_ebpf_common::habit::{self, could, kind, manner};

/// Flags of receiving and sending calls, as `socket.h` names them.
const FLAGS: [(u32, &str); 17] = [
    (0x1, "MSG_OOB"),
    (0x2, "MSG_PEEK"),
    (0x4, "MSG_DONTROUTE"),
    (0x20, "MSG_TRUNC"),
    (0x40, "MSG_DONTWAIT"),
    (0x80, "MSG_EOR"),
    (0x100, "MSG_WAITALL"),
    (0x800, "MSG_CONFIRM"),
    (0x2000, "MSG_ERRQUEUE"),
    (0x4000, "MSG_NOSIGNAL"),
    (0x8000, "MSG_MORE"),
    (0x1_0000, "MSG_WAITFORONE"),
    (0x4_0000, "MSG_BATCH"),
    (0x400_0000, "MSG_ZEROCOPY"),
    (0x2000_0000, "MSG_FASTOPEN"),
    (0x4000_0000, "MSG_CMSG_CLOEXEC"),
    (0x8000_0000, "MSG_CMSG_COMPAT"),
];

/// Options by level and number.
const OPTIONS: [(u32, u32, &str); 88] = [
    (1, 1, "SO_DEBUG"),
    (1, 2, "SO_REUSEADDR"),
    (1, 3, "SO_TYPE"),
    (1, 4, "SO_ERROR"),
    (1, 5, "SO_DONTROUTE"),
    (1, 6, "SO_BROADCAST"),
    (1, 7, "SO_SNDBUF"),
    (1, 8, "SO_RCVBUF"),
    (1, 9, "SO_KEEPALIVE"),
    (1, 10, "SO_OOBINLINE"),
    (1, 12, "SO_PRIORITY"),
    (1, 13, "SO_LINGER"),
    (1, 15, "SO_REUSEPORT"),
    (1, 17, "SO_PEERCRED"),
    (1, 18, "SO_RCVLOWAT"),
    (1, 19, "SO_SNDLOWAT"),
    (1, 20, "SO_RCVTIMEO"),
    (1, 21, "SO_SNDTIMEO"),
    (1, 25, "SO_BINDTODEVICE"),
    (1, 26, "SO_ATTACH_FILTER"),
    (1, 27, "SO_DETACH_FILTER"),
    (1, 29, "SO_TIMESTAMP"),
    (1, 30, "SO_ACCEPTCONN"),
    (1, 32, "SO_SNDBUFFORCE"),
    (1, 33, "SO_RCVBUFFORCE"),
    (1, 35, "SO_TIMESTAMPNS"),
    (1, 36, "SO_MARK"),
    (1, 37, "SO_TIMESTAMPING"),
    (1, 38, "SO_PROTOCOL"),
    (1, 39, "SO_DOMAIN"),
    (1, 42, "SO_PEEK_OFF"),
    (1, 46, "SO_BUSY_POLL"),
    (1, 47, "SO_MAX_PACING_RATE"),
    (1, 49, "SO_INCOMING_CPU"),
    (1, 50, "SO_ATTACH_BPF"),
    (1, 51, "SO_ATTACH_REUSEPORT_CBPF"),
    (1, 52, "SO_ATTACH_REUSEPORT_EBPF"),
    (1, 55, "SO_MEMINFO"),
    (1, 56, "SO_INCOMING_NAPI_ID"),
    (1, 57, "SO_COOKIE"),
    (1, 60, "SO_ZEROCOPY"),
    (1, 61, "SO_TXTIME"),
    (1, 65, "SO_TIMESTAMPING"),
    (1, 66, "SO_RCVTIMEO"),
    (1, 67, "SO_SNDTIMEO"),
    (1, 69, "SO_PREFER_BUSY_POLL"),
    (0, 1, "IP_TOS"),
    (0, 2, "IP_TTL"),
    (0, 11, "IP_RECVERR"),
    (0, 15, "IP_FREEBIND"),
    (0, 19, "IP_TRANSPARENT"),
    (0, 24, "IP_BIND_ADDRESS_NO_PORT"),
    (0, 80, "SO_ORIGINAL_DST"),
    (6, 1, "TCP_NODELAY"),
    (6, 2, "TCP_MAXSEG"),
    (6, 3, "TCP_CORK"),
    (6, 4, "TCP_KEEPIDLE"),
    (6, 5, "TCP_KEEPINTVL"),
    (6, 6, "TCP_KEEPCNT"),
    (6, 7, "TCP_SYNCNT"),
    (6, 8, "TCP_LINGER2"),
    (6, 9, "TCP_DEFER_ACCEPT"),
    (6, 10, "TCP_WINDOW_CLAMP"),
    (6, 11, "TCP_INFO"),
    (6, 12, "TCP_QUICKACK"),
    (6, 13, "TCP_CONGESTION"),
    (6, 14, "TCP_MD5SIG"),
    (6, 18, "TCP_USER_TIMEOUT"),
    (6, 19, "TCP_REPAIR"),
    (6, 20, "TCP_REPAIR_QUEUE"),
    (6, 23, "TCP_FASTOPEN"),
    (6, 24, "TCP_TIMESTAMP"),
    (6, 25, "TCP_NOTSENT_LOWAT"),
    (6, 26, "TCP_CC_INFO"),
    (6, 27, "TCP_SAVE_SYN"),
    (6, 28, "TCP_SAVED_SYN"),
    (6, 30, "TCP_FASTOPEN_CONNECT"),
    (6, 31, "TCP_ULP"),
    (6, 35, "TCP_ZEROCOPY_RECEIVE"),
    (6, 36, "TCP_INQ"),
    (6, 37, "TCP_TX_DELAY"),
    (6, 38, "TCP_AO_ADD_KEY"),
    (41, 16, "IPV6_UNICAST_HOPS"),
    (41, 25, "IPV6_RECVERR"),
    (41, 26, "IPV6_V6ONLY"),
    (41, 67, "IPV6_TCLASS"),
    (41, 78, "IPV6_FREEBIND"),
    (41, 80, "SO_ORIGINAL_DST"),
];

/// Requests of ioctl.
const REQUESTS: [(u32, &str); 8] = [
    (0x5401, "TCGETS"),
    (0x5411, "SIOCOUTQ"),
    (0x541b, "FIONREAD"),
    (0x5421, "FIONBIO"),
    (0x5450, "FIONCLEX"),
    (0x5451, "FIOCLEX"),
    (0x8905, "SIOCATMARK"),
    (0x894b, "SIOCOUTQNSD"),
];

/// System calls that move bytes.
const CALLS: [(libc::c_long, &str); 16] = [
    (libc::SYS_read, "read"),
    (libc::SYS_readv, "readv"),
    (libc::SYS_preadv2, "preadv2"),
    (libc::SYS_recvfrom, "recv"),
    (libc::SYS_recvmsg, "recvmsg"),
    (libc::SYS_recvmmsg, "recvmmsg"),
    (libc::SYS_write, "write"),
    (libc::SYS_writev, "writev"),
    (libc::SYS_pwritev2, "pwritev2"),
    (libc::SYS_sendto, "send"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_sendmmsg, "sendmmsg"),
    (libc::SYS_sendfile, "sendfile from a socket"),
    (libc::SYS_splice, "splice"),
    (libc::SYS_tee, "tee"),
    (libc::SYS_io_uring_enter, "io_uring"),
];

/// What a program does, without separators of the protocol.
pub fn name(habit: Habit) -> String {
    let detail = habit.detail();
    let [level, option] = [detail >> 16, detail & 0xffff].map(|part| part as u32);
    match habit.kind() {
        kind::RECEIVE => format!("recv with {}", flags(detail as u32)),
        kind::SEND => format!("send with {}", flags(detail as u32)),
        kind::SET_OPTION => format!("setsockopt {}", option_name(level, option)),
        kind::GET_OPTION => format!("getsockopt {}", option_name(level, option)),
        kind::IOCTL => {
            let known = REQUESTS.iter().find(|(number, _)| u64::from(*number) == detail);
            known.map_or_else(|| format!("ioctl {detail:#x}"), |(_, name)| format!("ioctl {name}"))
        }
        kind::CALL => {
            let known = CALLS.iter().find(|(number, _)| u64::try_from(*number) == Ok(detail));
            known.map_or_else(|| format!("system call {detail}"), |(_, name)| (*name).to_owned())
        }
        kind::MANNER if detail == manner::BLOCKS => "blocking reads".into(),
        kind::MANNER if detail == manner::UNSEEN => "reads that no call shows".into(),
        kind::MANNER if detail == manner::CONTROL_DATA => "sendmsg with control data".into(),
        kind::MANNER if detail == manner::RING => "io_uring".into(),
        kind::MANNER if detail == manner::EMPTY => "recv of 0 bytes".into(),
        kind::MANNER if detail == manner::NOTHING_SENT => "send of 0 bytes after the end".into(),
        kind::COULD if detail == could::SPLICE => "splice (its files call it)".into(),
        kind::COULD if detail == could::UNREAD_SIZE => "ioctl FIONREAD (its files call it)".into(),
        other => format!("habit {other}.{detail}"),
    }
}

fn flags(flags: u32) -> String {
    let known = FLAGS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| (*name).to_owned());
    let unknown = flags & !FLAGS.iter().fold(0, |all, (bit, _)| all | bit);
    let unknown = (unknown != 0).then(|| format!("{unknown:#x}"));
    known.chain(unknown).collect::<Vec<_>>().join("|")
}

fn option_name(level: u32, option: u32) -> String {
    OPTIONS
        .iter()
        .find(|(at, number, _)| (*at, *number) == (level, option))
        .map_or_else(|| format!("{option} of level {level}"), |(.., name)| (*name).to_owned())
}

/// What a person may do about it.
pub fn advice(habit: Habit) -> &'static str {
    match (habit.kind(), habit.detail()) {
        (kind::MANNER, manner::BLOCKS) => {
            "a blocking read may return EAGAIN once redirected; make the socket non-blocking, or say `always` \
             if the program tries again"
        }
        (kind::MANNER, manner::UNSEEN) => {
            "bytes were read by something that Patchbay does not see; it stays on TCP"
        }
        (kind::COULD, could::SPLICE) => {
            "it may never do it, but once redirected it could not be answered rightly; if it never splices out of a \
             socket, allow `splice`"
        }
        (kind::IOCTL, request) if request == u64::from(habit::FIONREAD) => {
            "the answer would leave out bytes that came over TCP; it stays on TCP"
        }
        _ => "it is not known to be answered as by TCP; say `always` only if the program can do without it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn habits_have_names_that_say_which_call_with_what() {
        for (habit, expected) in [
            (Habit::received_with(0x20 | 0x40), "recv with MSG_TRUNC"),
            (Habit::received_with(0x120), "recv with MSG_TRUNC|MSG_WAITALL"),
            (Habit::sent_with(0x1000_0000), "send with 0x10000000"),
            (Habit::set(1, 42), "setsockopt SO_PEEK_OFF"),
            (Habit::set(6, 999), "setsockopt 999 of level 6"),
            (Habit::got(6, 35), "getsockopt TCP_ZEROCOPY_RECEIVE"),
            (Habit::ioctl(0x541b), "ioctl FIONREAD"),
            (Habit::call(libc::SYS_splice as u32), "splice"),
            (Habit::call(9_999), "system call 9999"),
            (Habit::manner(manner::BLOCKS), "blocking reads"),
        ] {
            assert_eq!(name(habit), expected);
            assert!(!name(habit).contains(", ") && !name(habit).contains(" & "), "a separator");
        }
    }

    #[test]
    fn what_is_on_the_list_is_no_habit() {
        assert_eq!(Habit::received_with(0x42), Habit::NONE);
        assert_eq!(Habit::set(6, 1), Habit::NONE);
        assert_eq!(Habit::got(1, 4), Habit::NONE);
        assert_eq!(Habit::ioctl(0x5421), Habit::NONE);
        // Every option that may be set is named.
        for (level, option) in habit::SET_LISTED.into_iter().chain(habit::GET_LISTED) {
            assert!(OPTIONS.iter().any(|(at, number, _)| (*at, *number) == (level, option)));
        }
    }
}
