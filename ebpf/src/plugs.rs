//! Leads what a program connects to at a plug's own address to the destination that the Manager has chosen.
//!
//! Attached to the cgroups of instances with such plugs, nowhere above them. A connection for which there is no
//! destination goes on to the plug's own address, where the agent listens (docs/plugs.md).
//! Needs Linux 5.8: `getpeername` hooks, sockets' storage and the namespace's cookie here.
#![no_std]
#![no_main]

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_F_CURRENT_NETNS, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::bpf_get_current_cgroup_id;
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie, bpf_ktime_get_boot_ns, bpf_sk_release,
    bpf_skc_lookup_tcp,
};
use aya_ebpf::macros::{btf_map, cgroup_sock_addr, map};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::SockAddrContext;
use patchbay_ebpf_common::AddressBytes;
use patchbay_ebpf_common::plug::{Connected, PlugKey, PlugTarget};

/// Plugs of all instances, unless the agent sets another size.
const PLUGS: u32 = 16_384;
/// Depths of cgroups that are looked at for an instance above the one that connects.
const LEVELS: i32 = 12;
const IPPROTO_TCP: u32 = 6;
/// The hooks' answer: let the call go on.
const ALLOW: i32 = 1;
/// The first twelve bytes of an IPv4 address mapped into IPv6.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
const LOOPBACK_V6: AddressBytes = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Where plugs lead now.
#[map]
static TARGETS: HashMap<PlugKey, PlugTarget> = HashMap::with_max_entries(PLUGS, 0);

/// What a socket's program connected to.
#[btf_map]
static CONNECTED: SkStorage<Connected> = SkStorage::new();

/// A program connects over IPv4.
#[cgroup_sock_addr(connect4)]
pub fn patchbay_connect4(ctx: SockAddrContext) -> i32 {
    let named = mapped(address4(&ctx));
    let bound = mapped(source4(&ctx));
    let unbound = bound[12..] == [0; 4];
    let Some(target) = target(&ctx, &named) else { return ALLOW };
    // An IPv4 socket reaches no IPv6 destination.
    if target.address[..12] != MAPPED || !reaches(unbound, &bound, &target) {
        return ALLOW;
    }
    if keep(&ctx, &named, &target) {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*ctx.sock_addr).user_ip4 = u32::from_ne_bytes(quarter(&target.address, 12)) };
        set_port(&ctx, network_port(&target));
    }
    ALLOW
}

/// A program connects over IPv6, or over IPv4 with an IPv6 socket.
#[cgroup_sock_addr(connect6)]
pub fn patchbay_connect6(ctx: SockAddrContext) -> i32 {
    let named = address6(&ctx);
    let bound = source6(&ctx);
    let unbound = bound == [0; 16];
    let Some(target) = target(&ctx, &named) else { return ALLOW };
    let crosses = is_v4(&bound) != is_v4(&target.address);
    if !reaches(unbound, &bound, &target) || (!unbound && crosses) {
        return ALLOW;
    }
    if keep(&ctx, &named, &target) {
        set_address6(&ctx, &target.address);
        set_port(&ctx, network_port(&target));
    }
    ALLOW
}

/// A program asks where its IPv4 socket is connected.
#[cgroup_sock_addr(getpeername4)]
pub fn patchbay_getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(connected) = connected(&ctx, &mapped(address4(&ctx))) {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*ctx.sock_addr).user_ip4 = u32::from_ne_bytes(quarter(&connected.named, 12)) };
        set_port(&ctx, connected.named_port);
    }
    ALLOW
}

/// A program asks where its IPv6 socket is connected.
#[cgroup_sock_addr(getpeername6)]
pub fn patchbay_getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(connected) = connected(&ctx, &address6(&ctx)) {
        set_address6(&ctx, &connected.named);
        set_port(&ctx, connected.named_port);
    }
    ALLOW
}

/// Where the named address leads, if it is a plug's of the instance that connects.
#[inline(always)]
fn target(ctx: &SockAddrContext, named: &AddressBytes) -> Option<PlugTarget> {
    // SAFETY: the context is valid while the program runs.
    let (protocol, port) = unsafe { ((*ctx.sock_addr).protocol, (*ctx.sock_addr).user_port) };
    let is_loopback = (is_v4(named) && named[12] == 127) || *named == LOOPBACK_V6;
    if protocol != IPPROTO_TCP || !is_loopback {
        return None;
    }
    // SAFETY: the helper only reads the context.
    let namespace = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let mut key = PlugKey {
        // SAFETY: the helper has no arguments.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        namespace,
        address: *named,
        port: u32::from(u16::from_be(port as u16)),
        padding: 0,
    };
    let mut found = look_up(&key);
    // A program may make cgroups of its own below its instance's.
    let mut level = 1;
    while found.is_none() && level <= LEVELS {
        // SAFETY: the helper takes a number; it answers 0 where there is no such ancestor.
        key.cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if key.cgroup == 0 {
            return None;
        }
        found = look_up(&key);
        level += 1;
    }
    // SAFETY: the helper has no arguments.
    let target = found.filter(|target| target.until > unsafe { bpf_ktime_get_boot_ns() })?;
    (target.here == 0 || listens(ctx, &target)).then_some(target)
}

/// Whether a socket listens at the target: its instance may have died a moment ago, and the agent not know yet.
#[inline(always)]
fn listens(ctx: &SockAddrContext, target: &PlugTarget) -> bool {
    // SAFETY: any bytes are a tuple.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = if is_v4(&target.address) {
        tuple.__bindgen_anon_1.ipv4.daddr = u32::from_ne_bytes(quarter(&target.address, 12));
        tuple.__bindgen_anon_1.ipv4.dport = (target.port as u16).to_be();
        size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>()
    } else {
        let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
            saddr: [0; 4],
            daddr: [
                u32::from_ne_bytes(quarter(&target.address, 0)),
                u32::from_ne_bytes(quarter(&target.address, 4)),
                u32::from_ne_bytes(quarter(&target.address, 8)),
                u32::from_ne_bytes(quarter(&target.address, 12)),
            ],
            sport: 0,
            dport: (target.port as u16).to_be(),
        };
        tuple.__bindgen_anon_1.ipv6 = ipv6;
        size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>()
    };
    // SAFETY: the tuple is of the given size, and the namespace that of the context's socket.
    let found = unsafe {
        bpf_skc_lookup_tcp(ctx.as_ptr(), &raw mut tuple, size as u32, BPF_F_CURRENT_NETNS as u64, 0)
    };
    if found.is_null() {
        return false;
    }
    // SAFETY: the lookup has taken a reference, which is given back.
    unsafe { bpf_sk_release(found.cast()) };
    true
}

#[inline(always)]
fn look_up(key: &PlugKey) -> Option<PlugTarget> {
    // SAFETY: the value is copied out at once; the agent replaces it whole.
    (unsafe { TARGETS.get(key) }).copied()
}

/// Whether a socket can reach the target from the address that its program bound it to.
#[inline(always)]
fn reaches(unbound: bool, bound: &AddressBytes, target: &PlugTarget) -> bool {
    let on_loopback =
        |address: &AddressBytes| (is_v4(address) && address[12] == 127) || *address == LOOPBACK_V6;
    unbound || !on_loopback(bound) || on_loopback(&target.address)
}

/// Notes with the socket what its program named; false when the kernel has no memory for it.
#[inline(always)]
fn keep(ctx: &SockAddrContext, named: &AddressBytes, target: &PlugTarget) -> bool {
    // SAFETY: the context is valid while the program runs.
    let named_port = unsafe { (*ctx.sock_addr).user_port };
    let mut connected =
        Connected { named: *named, got: target.address, named_port, got_port: network_port(target) };
    // SAFETY: the context's socket is valid while the program runs.
    let kept = unsafe { CONNECTED.get_or_insert_ptr_mut(ctx, Some(&mut connected)) };
    if kept.is_null() {
        return false;
    }
    // SAFETY: not null, and the socket is in a call of its program's own.
    unsafe { *kept = connected };
    true
}

/// What the socket's program named, if the socket is still connected to what it got for it.
#[inline(always)]
fn connected(ctx: &SockAddrContext, peer: &AddressBytes) -> Option<Connected> {
    // SAFETY: the context's socket is valid while the program runs.
    let kept = unsafe { CONNECTED.get_ptr_mut(ctx) };
    if kept.is_null() {
        return None;
    }
    // SAFETY: not null; it is written before the socket is connected only.
    let kept = unsafe { *kept };
    // SAFETY: the context is valid while the program runs.
    let port = unsafe { (*ctx.sock_addr).user_port };
    (kept.got == *peer && kept.got_port == port).then_some(kept)
}

#[inline(always)]
fn set_port(ctx: &SockAddrContext, port: u32) {
    // SAFETY: the context is valid while the program runs.
    unsafe { core::ptr::write_volatile(&raw mut (*ctx.sock_addr).user_port, port) };
}

/// A target's port as it stands in a socket address.
#[inline(always)]
fn network_port(target: &PlugTarget) -> u32 {
    u32::from((target.port as u16).to_be())
}

#[inline(always)]
fn is_v4(address: &AddressBytes) -> bool {
    address[..12] == MAPPED
}

#[inline(always)]
fn mapped(address: u32) -> AddressBytes {
    let [a, b, c, d] = address.to_ne_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// Four bytes of an address.
#[inline(always)]
fn quarter(address: &AddressBytes, at: usize) -> [u8; 4] {
    [address[at], address[at + 1], address[at + 2], address[at + 3]]
}

#[inline(always)]
fn address4(ctx: &SockAddrContext) -> u32 {
    // SAFETY: the context is valid while the program runs.
    unsafe { core::ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip4) }
}

/// The address that the socket is bound to.
#[inline(always)]
fn source4(ctx: &SockAddrContext) -> u32 {
    // SAFETY: the context and its socket are valid while the program runs.
    unsafe { core::ptr::read_volatile(&raw const (*(*ctx.sock_addr).__bindgen_anon_1.sk).src_ip4) }
}

/// The verifier takes loads and stores of 4 bytes only; volatile keeps the compiler from joining them.
macro_rules! words {
    ($word:ident => $read:expr) => {{
        let mut bytes = [0; 16];
        let mut $word = 0;
        while $word < 4 {
            // SAFETY: the context and its socket are valid while the program runs.
            let [a, b, c, d] = u32::to_ne_bytes(unsafe { $read });
            bytes[4 * $word] = a;
            bytes[4 * $word + 1] = b;
            bytes[4 * $word + 2] = c;
            bytes[4 * $word + 3] = d;
            $word += 1;
        }
        bytes
    }};
}

#[inline(always)]
fn address6(ctx: &SockAddrContext) -> AddressBytes {
    words!(word => core::ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip6[word]))
}

/// The address that the socket is bound to.
#[inline(always)]
fn source6(ctx: &SockAddrContext) -> AddressBytes {
    words!(word => core::ptr::read_volatile(
        &raw const (*(*ctx.sock_addr).__bindgen_anon_1.sk).src_ip6[word]
    ))
}

#[inline(always)]
fn set_address6(ctx: &SockAddrContext, address: &AddressBytes) {
    let mut word = 0;
    while word < 4 {
        let value = u32::from_ne_bytes(quarter(address, 4 * word));
        // SAFETY: the context is valid while the program runs.
        unsafe { core::ptr::write_volatile(&raw mut (*ctx.sock_addr).user_ip6[word], value) };
        word += 1;
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
