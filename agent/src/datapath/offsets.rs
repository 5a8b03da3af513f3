//! The offsets that the kernel programs need, taken from the running kernel.

use std::fs;
use std::path::Path;

use super::Unavailable;
use super::btf::Btf;

/// Where the kernel describes itself.
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Lets programs read the kernel's structures like memory (Linux 6.2).
const CAST: &str = "bpf_rdonly_cast";

/// System calls that each of the programs' lists has room for.
const CALLS: usize = 8;

/// One offset: the programs' variable, the structure, the member, and whether the programs can do
/// without.
const WANTED: &[(&str, &str, &str, Need)] = &[
    ("OFFSET_WRITE_SEQ", "tcp_sock", "write_seq", Need::Always),
    ("OFFSET_COPIED_SEQ", "tcp_sock", "copied_seq", Need::Always),
    ("OFFSET_SND_NXT", "tcp_sock", "snd_nxt", Need::Always),
    ("OFFSET_SND_UNA", "tcp_sock", "snd_una", Need::Always),
    ("OFFSET_SND_WND", "tcp_sock", "snd_wnd", Need::Always),
    ("OFFSET_WINDOW_CLAMP", "tcp_sock", "window_clamp", Need::Always),
    ("OFFSET_IS_MPTCP", "tcp_sock", "is_mptcp", Need::IfPresent),
    ("OFFSET_RCV_NXT", "tcp_sock", "rcv_nxt", Need::Always),
    ("OFFSET_FAST_OPEN", "tcp_sock", "fastopen_rsk", Need::Always),
    ("OFFSET_ERROR", "sock", "sk_err", Need::Always),
    ("OFFSET_FLAGS", "sock", "__sk_common.skc_flags", Need::Always),
    ("OFFSET_PROCESS", "task_struct", "tgid", Need::Always),
    ("OFFSET_MEMORY", "task_struct", "mm", Need::Always),
    ("OFFSET_EXECUTABLE", "mm_struct", "exe_file", Need::Always),
    ("OFFSET_ARGUMENTS", "mm_struct", "arg_start", Need::Always),
    ("OFFSET_ARGUMENTS_END", "mm_struct", "arg_end", Need::Always),
    ("OFFSET_INODE", "file", "f_inode", Need::Always),
    ("OFFSET_INODE_NUMBER", "inode", "i_ino", Need::Always),
    ("OFFSET_FILE_SYSTEM", "inode", "i_sb", Need::Always),
    ("OFFSET_DEVICE", "super_block", "s_dev", Need::Always),
    ("OFFSET_USER_DATA", "sock", "sk_user_data", Need::Always),
    ("OFFSET_MSG_TOT_LEN", "sk_psock", "msg_tot_len", Need::IfPresent),
    ("OFFSET_RMEM_ALLOC", "sock", "sk_backlog.rmem_alloc", Need::Always),
    ("OFFSET_RCVLOWAT", "sock", "sk_rcvlowat", Need::Always),
    ("OFFSET_RCVBUF", "sock", "sk_rcvbuf", Need::Always),
    ("OFFSET_SNDBUF", "sock", "sk_sndbuf", Need::Always),
    ("OFFSET_PROTOCOL", "sock", "__sk_common.skc_prot", Need::Always),
    ("OFFSET_MEMORY_PRESSURE", "proto", "memory_pressure", Need::Always),
    ("OFFSET_MEMORY_ALLOCATED", "proto", "memory_allocated", Need::Always),
    ("OFFSET_MEMORY_LIMITS", "proto", "sysctl_mem", Need::Always),
    ("OFFSET_NETWORK", "sock", "__sk_common.skc_net", Need::Always),
    ("OFFSET_NETWORK_IPV4", "net", "ipv4", Need::Always),
    ("OFFSET_TCP_RMEM", "netns_ipv4", "sysctl_tcp_rmem", Need::Always),
    ("OFFSET_RCV_WND", "tcp_sock", "rcv_wnd", Need::Always),
    ("OFFSET_SOCKET", "sock", "sk_socket", Need::Always),
    ("OFFSET_FILE", "socket", "file", Need::Always),
    ("OFFSET_FILE_FLAGS", "file", "f_flags", Need::Always),
    ("OFFSET_CGROUP", "sock", "sk_cgrp_data.cgroup", Need::Always),
    ("OFFSET_KERNFS_NODE", "cgroup", "kn", Need::Always),
    ("OFFSET_KERNFS_ID", "kernfs_node", "id", Need::Always),
    ("OFFSET_FILES", "task_struct", "files", Need::Always),
    ("OFFSET_GROUP_LEADER", "task_struct", "group_leader", Need::Always),
    ("OFFSET_COMM", "task_struct", "comm", Need::Always),
    ("OFFSET_FILE_TABLE", "files_struct", "fdt", Need::Always),
    ("OFFSET_DESCRIPTORS", "fdtable", "fd", Need::Always),
    ("OFFSET_DESCRIPTOR_COUNT", "fdtable", "max_fds", Need::Always),
    ("OFFSET_PRIVATE_DATA", "file", "private_data", Need::Always),
    ("OFFSET_SOCK", "socket", "sk", Need::Always),
    ("OFFSET_TASK_FLAGS", "task_struct", "flags", Need::Always),
    ("OFFSET_TASK_STATE", "task_struct", "__state", Need::Always),
    ("OFFSET_USER_TIME", "task_struct", "utime", Need::Always),
    ("OFFSET_SHUTDOWN", "sock", "sk_shutdown", Need::Always),
    ("OFFSET_FILTER", "sock", "sk_filter", Need::Always),
    ("OFFSET_UPPER_LAYER", "inet_connection_sock", "icsk_ulp_ops", Need::Always),
    ("OFFSET_PEEK_OFFSET", "sock", "sk_peek_off", Need::Always),
    ("OFFSET_PACING_RATE", "sock", "sk_max_pacing_rate", Need::Always),
    ("OFFSET_TIME_STAMPS", "sock", "sk_tsflags", Need::Always),
];

#[derive(PartialEq)]
enum Need {
    Always,
    IfPresent,
}

/// What the programs are told of the running kernel.
pub struct Kernel {
    /// Their variables and the values.
    pub variables: Vec<(&'static str, u32)>,
    /// Their lists of system calls.
    pub calls: [(&'static str, [u32; CALLS]); 4],
    /// The number of the function `bpf_rdonly_cast`; 0 where there is none (before Linux 6.2).
    pub cast: u32,
}

/// Reads the running kernel's description of itself, with the function `bpf_rdonly_cast` if it is wanted.
///
/// # Errors
/// Names what the kernel lacks.
pub fn read(wants_cast: bool) -> Result<Kernel, Unavailable> {
    let bytes = fs::read(Path::new(KERNEL_BTF)).map_err(|error| {
        Unavailable(format!(
            "{KERNEL_BTF} can't be read ({error}): the kernel must be built with CONFIG_DEBUG_INFO_BTF"
        ))
    })?;
    let btf = Btf::new(&bytes).ok_or_else(|| Unavailable(format!("{KERNEL_BTF} holds no BTF")))?;
    let found: Result<Vec<_>, _> = WANTED
        .iter()
        .map(|(variable, structure, member, need)| match btf.offset(structure, member) {
            Some(offset) => Ok((*variable, offset)),
            None if *need == Need::IfPresent => Ok((*variable, 0)),
            None => Err(Unavailable(format!("this kernel has no {structure}.{member}"))),
        })
        .collect();
    let mut found = found?;
    let locks = btf.bits("sock", "sk_userlocks");
    let locks = locks.ok_or_else(|| Unavailable("this kernel has no sock.sk_userlocks".into()))?;
    found.extend([("OFFSET_USERLOCKS", locks / 8), ("BIT_USERLOCKS", locks % 8)]);
    let repair = btf.bits("tcp_sock", "repair");
    let repair = repair.ok_or_else(|| Unavailable("this kernel has no tcp_sock.repair".into()))?;
    found.extend([("OFFSET_REPAIR", repair / 8), ("BIT_REPAIR", repair % 8)]);
    let merges = btf.bits("tcp_sock", "nonagle");
    let merges = merges.ok_or_else(|| Unavailable("this kernel has no tcp_sock.nonagle".into()))?;
    found.extend([("OFFSET_NONAGLE", merges / 8), ("BIT_NONAGLE", merges % 8)]);
    found.extend(registers(&btf)?);
    let seen = match (btf.function(CAST), btf.structure("tcp_sock"), btf.structure("sk_psock")) {
        (Some(cast), Some(tcp_sock), Some(sk_psock)) if wants_cast => [cast, 1, tcp_sock, sk_psock],
        _ => [0; 4],
    };
    found.extend(
        ["SEEN_AS_MEMORY", "TYPE_TCP_SOCK", "TYPE_SK_PSOCK"].into_iter().zip(seen[1..].iter().copied()),
    );
    Ok(Kernel { variables: found, calls: system_calls(), cast: seen[0] })
}

/// Where a system call's number and its first four arguments are.
fn registers(btf: &Btf<'_>) -> Result<[(&'static str, u32); 5], Unavailable> {
    let of = |register| btf.offset("pt_regs", register);
    let x86 = || Some([of("di")?, of("si")?, of("dx")?, of("r10")?, of("orig_ax")?]);
    let others = || {
        let first = of("regs")?;
        Some([first, first + 8, first + 16, first + 24, of("syscallno")?])
    };
    let [first, second, third, fourth, number] = x86()
        .or_else(others)
        .ok_or_else(|| Unavailable("this kernel's registers are not known to Patchbay".into()))?;
    Ok([
        ("OFFSET_FIRST_ARGUMENT", first),
        ("OFFSET_SECOND_ARGUMENT", second),
        ("OFFSET_THIRD_ARGUMENT", third),
        ("OFFSET_FOURTH_ARGUMENT", fourth),
        ("OFFSET_CALL_NUMBER", number),
    ])
}

/// The system calls by which programs receive and send, those that only send, and those with flags of their own, of which
/// `sendmsg` must be the first.
fn system_calls() -> [(&'static str, [u32; CALLS]); 4] {
    let list = |numbers: &[libc::c_long]| {
        let mut list = [u32::MAX; CALLS];
        for (place, number) in list.iter_mut().zip(numbers) {
            *place = u32::try_from(*number).unwrap_or(u32::MAX);
        }
        list
    };
    [
        ("CALLS_RECEIVING", list(&RECEIVING_CALLS)),
        ("CALLS_SENDING", list(&SENDING_CALLS)),
        ("CALLS_THAT_ONLY_SEND", list(&SENDING_CALLS[..5])),
        ("CALLS_WITH_FLAGS", list(&[libc::SYS_sendmsg, libc::SYS_sendto, libc::SYS_sendmmsg])),
    ]
}

/// Calls by which programs may receive; the first must be `recvfrom`.
pub const RECEIVING_CALLS: [libc::c_long; 5] =
    [libc::SYS_recvfrom, libc::SYS_read, libc::SYS_readv, libc::SYS_recvmsg, libc::SYS_recvmmsg];
/// Calls by which programs may send; the first two must be `write` and `sendto`, the last two take bytes from a file or a
/// pipe.
pub const SENDING_CALLS: [libc::c_long; 7] = [
    libc::SYS_write,
    libc::SYS_sendto,
    libc::SYS_writev,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendfile,
    libc::SYS_splice,
];
