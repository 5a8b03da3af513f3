//! Where the two ends of a connection are.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::programs::SockOpsContext;
use patchbay_ebpf_common::{AddressBytes, Tuple};

use crate::maps::number_of;

/// IPv4.
const AF_INET: u32 = 2;
/// IPv6.
const AF_INET6: u32 = 10;

/// The kernel address of the context's socket, 0 when it has none.
#[inline(always)]
pub fn socket(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context is valid while the program runs.
    number_of(unsafe { (*ctx.ops).__bindgen_anon_2.sk })
}

/// The connection as its source has it.
#[inline(always)]
pub fn tuple(ctx: &SockOpsContext) -> Option<Tuple> {
    Some(Tuple {
        source: local(ctx)?,
        destination: remote(ctx)?,
        source_port: ctx.local_port(),
        destination_port: u32::from_be(ctx.remote_port()),
        namespace: namespace(ctx),
    })
}

/// The context's own address.
#[inline(always)]
pub fn local(ctx: &SockOpsContext) -> Option<AddressBytes> {
    match ctx.family() {
        AF_INET => Some(mapped(ctx.local_ip4())),
        AF_INET6 => Some(local_ip6(ctx)),
        _ => None,
    }
}

/// The address of the context's other end.
#[inline(always)]
pub fn remote(ctx: &SockOpsContext) -> Option<AddressBytes> {
    match ctx.family() {
        AF_INET => Some(mapped(ctx.remote_ip4())),
        AF_INET6 => Some(remote_ip6(ctx)),
        _ => None,
    }
}

/// The cookie of the network namespace of the context's socket.
#[inline(always)]
pub fn namespace(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the helper only reads the context.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn mapped(address: u32) -> AddressBytes {
    let [a, b, c, d] = address.to_ne_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The verifier takes loads of 4 bytes only; volatile keeps the compiler from joining them.
macro_rules! ip6 {
    ($name:ident, $field:ident) => {
        #[inline(always)]
        fn $name(ctx: &SockOpsContext) -> AddressBytes {
            let mut bytes = [0; 16];
            let mut word = 0;
            while word < 4 {
                // SAFETY: the context is valid while the program runs.
                let value = unsafe { core::ptr::read_volatile(&raw const (*ctx.ops).$field[word]) };
                let [a, b, c, d] = value.to_ne_bytes();
                bytes[4 * word] = a;
                bytes[4 * word + 1] = b;
                bytes[4 * word + 2] = c;
                bytes[4 * word + 3] = d;
                word += 1;
            }
            bytes
        }
    };
}
ip6!(local_ip6, local_ip6);
ip6!(remote_ip6, remote_ip6);
