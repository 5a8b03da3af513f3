//! What is read from the kernel's own structures. The offsets come from the running kernel's BTF and
//! are set by the agent at load time.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::bpf_get_current_task;
use patchbay_ebpf_common::ProgramName;

macro_rules! offsets {
    ($( $(#[$doc:meta])* $name:ident $reader:ident; )*) => { $(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        static $name: u32 = 0;

        #[inline(always)]
        pub(crate) fn $reader() -> u64 {
            // SAFETY: a valid static; volatile, because the agent replaces its value at load time.
            u64::from(unsafe { core::ptr::read_volatile(&raw const $name) })
        }
    )* };
}

offsets! {
    /// `tcp_sock.write_seq`
    OFFSET_WRITE_SEQ write_seq_offset;
    /// `tcp_sock.copied_seq`
    OFFSET_COPIED_SEQ copied_seq_offset;
    /// `tcp_sock.snd_nxt`
    OFFSET_SND_NXT snd_nxt_offset;
    /// `tcp_sock.snd_una`
    OFFSET_SND_UNA snd_una_offset;
    /// `tcp_sock.snd_wnd`
    OFFSET_SND_WND snd_wnd_offset;
    /// `tcp_sock.window_clamp`
    OFFSET_WINDOW_CLAMP window_clamp_offset;
    /// `tcp_sock.is_mptcp`; 0 where the kernel has no multipath TCP.
    OFFSET_IS_MPTCP is_mptcp_offset;
    /// `tcp_sock.repair`, its byte
    OFFSET_REPAIR repair_offset;
    /// `tcp_sock.repair`, its bit in the byte
    BIT_REPAIR repair_bit;
    /// `tcp_sock.rcv_nxt`
    OFFSET_RCV_NXT rcv_nxt_offset;
    /// `tcp_sock.fastopen_rsk`
    OFFSET_FAST_OPEN fast_open_offset;
    /// `sock.sk_err`
    OFFSET_ERROR error_offset;
    /// `sock.sk_flags`
    OFFSET_FLAGS flags_offset;
    /// `sock.sk_user_data`
    OFFSET_USER_DATA user_data_offset;
    /// `sk_psock.msg_tot_len`; 0 where the kernel has none.
    OFFSET_MSG_TOT_LEN msg_tot_len_offset;
    /// `sock.sk_backlog.rmem_alloc`
    OFFSET_RMEM_ALLOC rmem_alloc_offset;
    /// `sock.sk_rcvlowat`
    OFFSET_RCVLOWAT rcvlowat_offset;
    /// `sock.sk_rcvbuf`
    OFFSET_RCVBUF rcvbuf_offset;
    /// `sock.sk_sndbuf`
    OFFSET_SNDBUF sndbuf_offset;
    /// `sock.sk_prot`
    OFFSET_PROTOCOL protocol_offset;
    /// `proto.memory_pressure`
    OFFSET_MEMORY_PRESSURE memory_pressure_offset;
    /// `proto.memory_allocated`
    OFFSET_MEMORY_ALLOCATED memory_allocated_offset;
    /// `proto.sysctl_mem`
    OFFSET_MEMORY_LIMITS memory_limits_offset;
    /// `sock.sk_net`
    OFFSET_NETWORK network_offset;
    /// `net.ipv4`
    OFFSET_NETWORK_IPV4 network_ipv4_offset;
    /// `netns_ipv4.sysctl_tcp_rmem`
    OFFSET_TCP_RMEM tcp_rmem_offset;
    /// `tcp_sock.rcv_wnd`
    OFFSET_RCV_WND rcv_wnd_offset;
    /// `sock.sk_userlocks`, its byte
    OFFSET_USERLOCKS userlocks_offset;
    /// `sock.sk_userlocks`, its first bit in the byte
    BIT_USERLOCKS userlocks_bit;
    /// `tcp_sock.nonagle`, its byte
    OFFSET_NONAGLE nonagle_offset;
    /// `tcp_sock.nonagle`, its first bit in the byte
    BIT_NONAGLE nonagle_bit;
    /// `sock.sk_socket`
    OFFSET_SOCKET socket_offset;
    /// `socket.file`
    OFFSET_FILE file_offset;
    /// `file.f_flags`
    OFFSET_FILE_FLAGS file_flags_offset;
    /// `sock.sk_cgrp_data.cgroup`
    OFFSET_CGROUP cgroup_offset;
    /// `cgroup.kn`
    OFFSET_KERNFS_NODE kernfs_node_offset;
    /// `kernfs_node.id`
    OFFSET_KERNFS_ID kernfs_id_offset;
    /// `task_struct.files`
    OFFSET_FILES files_offset;
    /// `task_struct.group_leader`
    OFFSET_GROUP_LEADER group_leader_offset;
    /// `task_struct.comm`
    OFFSET_COMM comm_offset;
    /// `task_struct.tgid`
    OFFSET_PROCESS process_offset;
    /// `task_struct.mm`
    OFFSET_MEMORY memory_offset;
    /// `mm_struct.exe_file`
    OFFSET_EXECUTABLE executable_offset;
    /// `mm_struct.arg_start`
    OFFSET_ARGUMENTS arguments_offset;
    /// `mm_struct.arg_end`
    OFFSET_ARGUMENTS_END arguments_end_offset;
    /// `file.f_inode`
    OFFSET_INODE inode_offset;
    /// `inode.i_ino`
    OFFSET_INODE_NUMBER inode_number_offset;
    /// `inode.i_sb`
    OFFSET_FILE_SYSTEM file_system_offset;
    /// `super_block.s_dev`
    OFFSET_DEVICE device_offset;
    /// `files_struct.fdt`
    OFFSET_FILE_TABLE file_table_offset;
    /// `fdtable.fd`
    OFFSET_DESCRIPTORS descriptors_offset;
    /// `fdtable.max_fds`
    OFFSET_DESCRIPTOR_COUNT descriptor_count_offset;
    /// `file.private_data`
    OFFSET_PRIVATE_DATA private_data_offset;
    /// `socket.sk`
    OFFSET_SOCK sock_offset;
    /// First argument of a system call in `pt_regs`
    OFFSET_FIRST_ARGUMENT first_argument_offset;
    /// Second argument of a system call in `pt_regs`
    OFFSET_SECOND_ARGUMENT second_argument_offset;
    /// Third argument of a system call in `pt_regs`
    OFFSET_THIRD_ARGUMENT third_argument_offset;
    /// 1 where the kernel has `bpf_rdonly_cast` (Linux 6.2), so that its structures can be read like memory.
    SEEN_AS_MEMORY seen_as_memory;
    /// Number of the type `struct tcp_sock` for it
    TYPE_TCP_SOCK tcp_sock_type;
    /// Number of the type `struct sk_psock` for it
    TYPE_SK_PSOCK sk_psock_type;
    /// Fourth argument of a system call in `pt_regs`
    OFFSET_FOURTH_ARGUMENT fourth_argument_offset;
    /// The system call's number in `pt_regs`
    OFFSET_CALL_NUMBER call_number_offset;
    /// `task_struct.flags`
    OFFSET_TASK_FLAGS task_flags_offset;
    /// `task_struct.__state`
    OFFSET_TASK_STATE task_state_offset;
    /// `task_struct.utime`
    OFFSET_USER_TIME user_time_offset;
    /// `sock.sk_shutdown`
    OFFSET_SHUTDOWN shutdown_offset;
    /// `sock.sk_filter`
    OFFSET_FILTER filter_offset;
    /// `inet_connection_sock.icsk_ulp_ops`
    OFFSET_UPPER_LAYER upper_layer_offset;
    /// `sock.sk_peek_off`
    OFFSET_PEEK_OFFSET peek_offset_offset;
    /// `sock.sk_max_pacing_rate`
    OFFSET_PACING_RATE pacing_rate_offset;
    /// `sock.sk_tsflags`
    OFFSET_TIME_STAMPS time_stamps_offset;
}

/// `SOCK_RCVBUF_LOCK`
const RECEIVE_BUFFER_LOCK: u64 = 2;
/// `SOCK_DONE`, as a bit of `sk_flags`.
const DONE: u64 = 1 << 1;
/// The third of three numbers of 4 bytes.
const LARGEST: u64 = 8;
/// `O_NONBLOCK`, the same on every architecture that this runs on.
const NONBLOCK: u32 = 0o4000;

/// Reads a value; a bad address gives `None`, never a fault.
#[inline(always)]
fn read<T>(base: u64, offset: u64) -> Option<T> {
    if base == 0 {
        return None;
    }
    // SAFETY: bpf_probe_read_kernel checks the address itself.
    unsafe { bpf_probe_read_kernel((base + offset) as *const T) }.ok()
}

/// Whether the socket is a subflow of multipath TCP.
#[inline(always)]
pub fn is_multipath(socket: u64) -> bool {
    let offset = is_mptcp_offset();
    offset != 0 && read::<u8>(socket, offset) != Some(0)
}

/// How large TCP may let the receive buffer grow for what it has promised to take, in bytes; 0 when it may
/// not grow: the program set its size (SO_RCVBUF), or TCP holds more memory than the first value of
/// `tcp_mem` (`tcp_clamp_window`, Linux 6.1 to 6.18).
#[inline(always)]
pub fn receive_buffer_limit(socket: u64) -> Option<u32> {
    let locks: u8 = read(socket, userlocks_offset())?;
    if u64::from(locks) >> userlocks_bit() & RECEIVE_BUFFER_LOCK != 0 {
        return Some(0);
    }
    let protocol: u64 = read(socket, protocol_offset())?;
    let allocated: i64 = read(read(protocol, memory_allocated_offset())?, 0)?;
    let limit: i64 = read(read(protocol, memory_limits_offset())?, 0)?;
    if allocated >= limit {
        return Some(0);
    }
    let network: u64 = read(socket, network_offset())?;
    let largest: i32 = read(network, network_ipv4_offset() + tcp_rmem_offset() + LARGEST)?;
    Some(largest as u32)
}

/// Whether TCP may merge what a program writes in small pieces: it has not set TCP_NODELAY.
#[inline(always)]
pub fn merges_writes(socket: u64) -> bool {
    const NAGLE_OFF: u64 = 1;
    read::<u8>(socket, nonagle_offset()).is_none_or(|bits| u64::from(bits) >> nonagle_bit() & NAGLE_OFF == 0)
}

/// How much a socket may ever promise to take, in bytes; 0 when it can't be read.
#[inline(always)]
pub fn window_limit(socket: u64) -> u32 {
    read(socket, window_clamp_offset()).unwrap_or(0)
}

/// Where the kernel keeps whether TCP as a whole is short of memory: it stays there while the kernel runs.
#[inline(always)]
pub fn memory_pressure(socket: u64) -> u64 {
    read::<u64>(socket, protocol_offset())
        .and_then(|protocol| read(protocol, memory_pressure_offset()))
        .unwrap_or(0)
}

/// Whether TCP as a whole is short of memory (`tcp_mem`), by [`memory_pressure`].
#[inline(always)]
pub fn is_short_of_memory(memory_pressure: u64) -> bool {
    read::<u64>(memory_pressure, 0) != Some(0)
}

/// Whether reads on the socket never block. False also while nobody has accepted it.
#[inline(always)]
pub fn is_nonblocking(socket: u64) -> bool {
    let flags = read::<u64>(socket, socket_offset())
        .and_then(|socket| read::<u64>(socket, file_offset()))
        .and_then(|file| read::<u32>(file, file_flags_offset()));
    matches!(flags, Some(flags) if flags & NONBLOCK != 0)
}

/// The id of the cgroup that the socket was made in.
#[inline(always)]
pub fn cgroup_id(socket: u64) -> Option<u64> {
    let cgroup = read::<u64>(socket, cgroup_offset())?;
    let node = read::<u64>(cgroup, kernfs_node_offset())?;
    read(node, kernfs_id_offset())
}

/// Whether the socket is being restored (TCP_REPAIR): its connection was made nowhere.
#[inline(always)]
pub fn is_restored(socket: u64) -> bool {
    read::<u8>(socket, repair_offset()).is_none_or(|bits| u64::from(bits) >> repair_bit() & 1 != 0)
}

/// The next sequence number that the socket will send.
#[inline(always)]
pub fn next_to_send(socket: u64) -> Option<u32> {
    read(socket, snd_nxt_offset())
}

/// The next sequence number that the socket expects.
#[inline(always)]
pub fn next_expected(socket: u64) -> Option<u32> {
    read(socket, rcv_nxt_offset())
}

/// Whether the socket was accepted with its connection request (TCP Fast Open).
#[inline(always)]
pub fn is_fast_open(socket: u64) -> bool {
    read::<u64>(socket, fast_open_offset()).is_some_and(|request| request != 0)
}

/// The socket's error that its program has not been told, or 0.
#[inline(always)]
pub fn socket_error(socket: u64) -> Option<i32> {
    read(socket, error_offset())
}

/// Whether the other end's FIN has come.
#[inline(always)]
pub fn has_seen_end(socket: u64) -> bool {
    read::<u64>(socket, flags_offset()).is_some_and(|flags| flags & DONE != 0)
}

/// The name of a task's program: that of its first thread.
#[inline(always)]
pub fn program_name(task: u64) -> Option<ProgramName> {
    read(read(task, group_leader_offset())?, comm_offset())
}

/// A task's process.
#[inline(always)]
pub fn process(task: u64) -> Option<u32> {
    read(task, process_offset())
}

/// What a thread is doing (`TASK_…` of the kernel), and how long it has been outside the kernel, in the kernel's unit;
/// nothing for a thread of the kernel's own.
#[inline(always)]
pub fn activity(task: u64) -> Option<(u32, u64)> {
    if read::<u64>(task, memory_offset())? == 0 {
        return None;
    }
    Some((read(task, task_state_offset())?, read(task, user_time_offset())?))
}

/// The device and the inode of the file that a task executes.
#[inline(always)]
pub fn executable(task: u64) -> Option<(u32, u64)> {
    let file: u64 = read(read(task, memory_offset())?, executable_offset())?;
    let inode: u64 = read(file, inode_offset())?;
    let file_system: u64 = read(inode, file_system_offset())?;
    Some((read(file_system, device_offset())?, read(inode, inode_number_offset())?))
}

/// Where a task has its arguments, and where they end.
#[inline(always)]
pub fn arguments_of(task: u64) -> Option<(u64, u64)> {
    let memory: u64 = read(task, memory_offset())?;
    Some((read(memory, arguments_offset())?, read(memory, arguments_end_offset())?))
}

/// The kernel address of the socket behind a descriptor of the running task. For a descriptor of another
/// kind it is some other number, which is no known socket's.
#[inline(always)]
pub fn socket_of(descriptor: u64) -> Option<u64> {
    // SAFETY: the helper has no arguments.
    let task = unsafe { bpf_get_current_task() };
    let files = read::<u64>(task, files_offset())?;
    let table = read::<u64>(files, file_table_offset())?;
    let count = read::<u32>(table, descriptor_count_offset())?;
    if descriptor >= u64::from(count) {
        return None;
    }
    let descriptors = read::<u64>(table, descriptors_offset())?;
    let file = read::<u64>(descriptors, 8 * descriptor)?;
    let socket = read::<u64>(file, private_data_offset())?;
    read(socket, sock_offset())
}
