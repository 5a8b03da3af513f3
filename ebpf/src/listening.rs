//! Without declarations: which connections stay inside the scope, known from who listens in it.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::programs::SockOpsContext;
use patchbay_ebpf_common::{AddressBytes, Declaration, Listening, ListeningKey, Tuple};

use crate::established::{AF_INET, AF_INET6, is_loopback, local_ip6, mapped};
use crate::maps::{LISTENING, SETTINGS};

/// Any IPv4 address, mapped into IPv6.
const ANY_V4: AddressBytes = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];

/// Remembers a socket of the scope that begins to listen.
#[inline(always)]
pub fn begun(ctx: &SockOpsContext) {
    let Some(settings) = SETTINGS.get(0) else { return };
    if settings.scope == 0 {
        return;
    }
    let address = match ctx.family() {
        AF_INET => mapped(ctx.local_ip4()),
        AF_INET6 => local_ip6(ctx),
        _ => return,
    };
    // SAFETY: the helper only reads the context.
    let namespace = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let key = ListeningKey { namespace, address, port: ctx.local_port(), padding: 0 };
    let value = Listening { refusal: settings.scope_refusal, mode: settings.scope_mode };
    // What is already known of the port stays: it may have been learned.
    let _ = LISTENING.insert(&key, &value, 1);
}

/// The declaration that a scope makes for a connection inside one network namespace.
#[inline(always)]
pub fn in_scope(ctx: &SockOpsContext, tuple: &Tuple) -> Option<Declaration> {
    let settings = SETTINGS.get(0)?;
    if settings.scope == 0 || !(is_loopback(&tuple.destination) || tuple.source == tuple.destination) {
        return None;
    }
    // SAFETY: the helper only reads the context.
    let namespace = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let mut key =
        ListeningKey { namespace, address: tuple.destination, port: tuple.destination_port, padding: 0 };
    let mut found = look_up(&key);
    if found.is_none() {
        key.address = ANY_V4;
        found = look_up(&key);
    }
    if found.is_none() {
        key.address = [0; 16];
        found = look_up(&key);
    }
    let listening = found?;
    Some(Declaration {
        destination_cgroup: 0,
        source_instance: 0,
        destination_instance: 0,
        refusal: listening.refusal,
        mode: listening.mode,
    })
}

#[inline(always)]
fn look_up(key: &ListeningKey) -> Option<Listening> {
    // SAFETY: the value is copied out at once; the agent replaces it whole.
    (unsafe { LISTENING.get(key) }).copied()
}
