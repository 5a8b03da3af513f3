//! Without declarations: which connections stay inside the scope, known from who listens in it.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::programs::SockOpsContext;
use patchbay_ebpf_common::{
    AddressBytes, Declaration, Listening, ListeningKey, ProgramName, SourceKey, Tuple,
};

use crate::established::{AF_INET, AF_INET6, is_loopback, local_ip6, mapped, socket};
use crate::kernel;
use crate::maps::{CONNECTING, LISTENING, SETTINGS, SOURCES};

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

/// Remembers which program a connecting socket of the scope has. Called in that program's own call.
#[inline(always)]
pub fn connecting(ctx: &SockOpsContext) {
    if SETTINGS.get(0).is_none_or(|settings| settings.scope == 0) {
        return;
    }
    if let Some(program) = kernel::program() {
        let _ = CONNECTING.insert(&socket(ctx), &program, 0);
    }
}

/// The declaration that a scope makes for a connection inside one network namespace, and the program that
/// connected; all zero when it is not known.
#[inline(always)]
pub fn in_scope(ctx: &SockOpsContext, tuple: &Tuple) -> Option<(Declaration, ProgramName)> {
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
    let mut decided = found?;
    let socket = socket(ctx);
    // SAFETY: the value is copied out at once.
    let program = (unsafe { CONNECTING.get(&socket) }).copied().unwrap_or_default();
    let _ = CONNECTING.remove(&socket);
    let source = SourceKey { program, port: tuple.destination_port, padding: 0 };
    // SAFETY: the value is copied out at once; the agent replaces it whole.
    if let Some(known) = (unsafe { SOURCES.get(&source) }).copied() {
        decided = known;
    }
    let declaration = Declaration {
        destination_cgroup: 0,
        source_instance: 0,
        destination_instance: 0,
        refusal: decided.refusal,
        mode: decided.mode,
    };
    Some((declaration, program))
}

#[inline(always)]
fn look_up(key: &ListeningKey) -> Option<Listening> {
    // SAFETY: the value is copied out at once; the agent replaces it whole.
    (unsafe { LISTENING.get(key) }).copied()
}
