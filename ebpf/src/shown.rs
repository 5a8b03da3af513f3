//! Messages of a session that somebody looks at: tcpdump sees nothing of redirected bytes.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::programs::SkMsgContext;
use patchbay_ebpf_common::{SHOWN_BYTES, Session, Shown};

use crate::maps::SHOWN;

/// Shows a message, its first bytes too if they are asked for.
#[inline(always)]
pub fn message(ctx: &SkMsgContext, session: &Session, side: u32, path: u32) {
    let Some(mut entry) = SHOWN.reserve::<Shown>(0) else { return };
    let shown = entry.as_mut_ptr();
    let wanted = session.trace - 1;
    // SAFETY: the reserved memory is of the record's size and ours until it is submitted; a message's
    // bytes are read inside its bounds.
    unsafe {
        (*shown).session = session.key;
        (*shown).time = bpf_ktime_get_boot_ns();
        (*shown).size = ctx.size();
        (*shown).side = side;
        (*shown).path = path;
        let (data, end) = (ctx.data(), ctx.data_end());
        let mut length = (end - data) as u32;
        if length > wanted {
            length = wanted;
        }
        if length > SHOWN_BYTES as u32 {
            length = SHOWN_BYTES as u32;
        }
        (*shown).bytes = [0; SHOWN_BYTES];
        if bpf_probe_read_kernel((&raw mut (*shown).bytes).cast(), length, data as *const c_void) != 0 {
            length = 0;
        }
        (*shown).length = length;
    }
    entry.submit(0);
}
