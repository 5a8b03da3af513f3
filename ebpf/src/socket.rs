//! A TCP socket as the kernel keeps it, read for every message: like memory where the kernel can check such
//! reads (`bpf_rdonly_cast`, Linux 6.2), else by a call for each value, which costs 20 times as much.

use core::arch::asm;

use aya_ebpf::helpers::bpf_probe_read_kernel;
use patchbay_ebpf_common::CAST_CALL;

use crate::kernel::{
    copied_seq_offset, msg_tot_len_offset, rcv_wnd_offset, rcvbuf_offset, rcvlowat_offset, rmem_alloc_offset,
    seen_as_memory, shutdown_offset, sk_psock_type, snd_nxt_offset, snd_una_offset, snd_wnd_offset,
    sndbuf_offset, tcp_sock_type, user_data_offset, write_seq_offset,
};

/// Flags that the kernel keeps in the low bits of `sk_user_data`.
const USER_DATA_FLAGS: u64 = 7;

/// A structure of the kernel at an address.
#[derive(Clone, Copy)]
struct Seen(u64);

impl Seen {
    #[inline(always)]
    fn new(address: u64, kind: u64) -> Self {
        if seen_as_memory() == 0 {
            return Self(address);
        }
        let seen;
        // SAFETY: a call of a kernel function that only gives its first argument another type. The agent puts
        // the function's number in before it loads the program.
        unsafe {
            asm!(
                ".8byte {call}",
                call = const CAST_CALL,
                inlateout("r1") address => _,
                inlateout("r2") kind => _,
                lateout("r0") seen,
                lateout("r3") _,
                lateout("r4") _,
                lateout("r5") _,
                options(nomem, nostack),
            );
        }
        Self(seen)
    }

    /// A value inside. Where nothing is there any more it is 0 or `None`, never a fault.
    #[inline(always)]
    fn read<T: Copy>(self, offset: u64) -> Option<T> {
        if seen_as_memory() == 0 {
            // SAFETY: the call checks the address itself. There is no other check, because the compiler would
            // take an address that is compared for a number.
            return unsafe { bpf_probe_read_kernel((self.0 + offset) as *const T) }.ok();
        }
        // SAFETY: the kernel checks the place when it loads the program, and catches bad addresses.
        Some(unsafe { core::ptr::read_volatile((self.0 + offset) as *const T) })
    }
}

/// A TCP socket.
#[derive(Clone, Copy)]
pub struct Socket(Seen);

impl Socket {
    /// The socket at an address, which must not be 0.
    #[inline(always)]
    pub fn at(address: u64) -> Self {
        Self(Seen::new(address, tcp_sock_type()))
    }

    /// A value inside, at its offset.
    #[inline(always)]
    pub fn read<T: Copy>(self, offset: u64) -> Option<T> {
        self.0.read(offset)
    }

    /// Whether nothing more is to be received: the other end's FIN or reset has come, or the program has said so.
    #[inline(always)]
    pub fn is_at_its_end(self) -> bool {
        /// `RCV_SHUTDOWN`
        const RECEIVING: u8 = 1;
        self.0.read::<u8>(shutdown_offset()).is_none_or(|shut| shut & RECEIVING != 0)
    }

    /// Whether nothing more is to be sent: the program has said so, or the connection was reset.
    #[inline(always)]
    pub fn has_stopped_sending(self) -> bool {
        /// `SEND_SHUTDOWN`
        const SENDING: u8 = 2;
        self.0.read::<u8>(shutdown_offset()).is_none_or(|shut| shut & SENDING != 0)
    }

    /// The next sequence number that it will write.
    #[inline(always)]
    pub fn write_sequence(self) -> Option<u32> {
        self.0.read(write_seq_offset())
    }

    /// The next sequence number that it will send.
    #[inline(always)]
    pub fn send_sequence(self) -> Option<u32> {
        self.0.read(snd_nxt_offset())
    }

    /// How many bytes it may send before the other end makes room.
    #[inline(always)]
    pub fn sendable(self) -> Option<u32> {
        let acknowledged: u32 = self.0.read(snd_una_offset())?;
        let window: u32 = self.0.read(snd_wnd_offset())?;
        let in_flight = self.send_sequence()?.wrapping_sub(acknowledged);
        Some(window.saturating_sub(in_flight))
    }

    /// The next sequence number that its reader will copy.
    #[inline(always)]
    pub fn copied_sequence(self) -> Option<u32> {
        self.0.read(copied_seq_offset())
    }

    /// Redirected bytes that its reader has not read yet.
    #[inline(always)]
    pub fn unread_redirected(self) -> Option<u32> {
        let offset = msg_tot_len_offset();
        if offset == 0 {
            return self.0.read(rmem_alloc_offset());
        }
        let part = self.0.read::<u64>(user_data_offset())? & !USER_DATA_FLAGS;
        if part == 0 {
            return None;
        }
        Seen::new(part, sk_psock_type()).read(offset)
    }

    /// Bytes that its reader asks for at least (SO_RCVLOWAT).
    #[inline(always)]
    pub fn minimum_asked(self) -> Option<i32> {
        self.0.read(rcvlowat_offset())
    }

    /// The size of its receive buffer, in bytes.
    #[inline(always)]
    pub fn receive_buffer(self) -> Option<u32> {
        self.0.read(rcvbuf_offset())
    }

    /// The size of its send buffer, in bytes.
    #[inline(always)]
    pub fn send_buffer(self) -> Option<u32> {
        self.0.read(sndbuf_offset())
    }

    /// How many bytes TCP has told the other end that it may send.
    #[inline(always)]
    pub fn receive_window(self) -> Option<u32> {
        self.0.read(rcv_wnd_offset())
    }
}
