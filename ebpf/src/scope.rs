//! Without declarations: both ends of a connection are in the scope when the programs see both.
//!
//! The programs run for sockets of the scope's cgroup only. Whoever connects may be going anywhere, so its
//! session is tentative: it is one when an accepting end of the scope has the same connection's name, whatever
//! translates addresses between them. Destinations that were found outside are not tried again for a while.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::programs::SockOpsContext;
use patchbay_ebpf_common::{
    ACCEPTS, Declaration, DestinationKey, Mark, Program, Reason, Settings, SourceKey, Treatment, Tuple,
    counter,
};

use crate::maps::{CONTAINERS, OUTSIDE, SETTINGS, SOURCES, count, delete_socket};
use crate::marks;

/// How long a destination counts as outside, in nanoseconds.
const OUTSIDE_FOR: u64 = 10_000_000_000;

/// A socket begins to listen. Called in its program's own call.
#[inline(always)]
pub fn listening(ctx: &SockOpsContext) {
    drop_leftovers(ctx);
    if !is_scope() {
        return;
    }
    count(counter::LISTENED);
    if let Some(mark) = marks::of_or_new(ctx) {
        marks::note_program(mark);
    }
}

/// A socket begins to connect. Called in its program's own call.
#[inline(always)]
pub fn connecting(ctx: &SockOpsContext) {
    drop_leftovers(ctx);
    if is_scope()
        && let Some(mark) = marks::of_or_new(ctx)
    {
        marks::note_program(mark);
    }
}

/// What an earlier connection of this socket left unread goes, as TCP throws it away when it is disconnected. The
/// socket never enters the map again: a message that was decided for its earlier connection may still be on its
/// way to it, for as long as its sender is not running, and is refused because the socket is not in the map.
#[inline(always)]
fn drop_leftovers(ctx: &SockOpsContext) {
    if let Some(mark) = marks::of(ctx)
        && mark.entered != 0
    {
        delete_socket(mark.entered);
    }
}

#[inline(always)]
pub fn is_scope() -> bool {
    SETTINGS.get(0).is_some_and(|settings| settings.scope != 0)
}

/// The declaration that a scope makes for a connection that may stay inside it.
#[inline(always)]
pub fn declaration(tuple: &Tuple, mark: &Mark, cgroup: u64) -> Option<Declaration> {
    let settings = SETTINGS.get(0)?;
    if settings.scope == 0 || is_outside(&destination(tuple)) {
        return None;
    }
    let treatment = treatment(settings, cgroup, &mark.program, group(settings, tuple.destination_port));
    Some(Declaration {
        destination_cgroup: 0,
        // Without instances the ends are told apart by their cgroups.
        source_instance: cgroup,
        destination_instance: 0,
        refusal: treatment.refusal,
        mode: treatment.mode,
        about: treatment.about,
    })
}

/// What is said of the program whose listening socket accepts a connection of the scope.
#[inline(always)]
pub fn accepting(cgroup: u64, program: &Program, port: u32) -> Option<Treatment> {
    let settings = SETTINGS.get(0)?;
    if settings.scope == 0 {
        return None;
    }
    Some(treatment(settings, cgroup, program, group(settings, port) | ACCEPTS))
}

/// What happens to sessions of a program in a cgroup. Single programs are spoken of only where they are observed.
#[inline(always)]
fn treatment(settings: &Settings, cgroup: u64, program: &Program, port: u32) -> Treatment {
    // SAFETY: the value is copied out at once; the agent replaces it whole.
    let usual = (unsafe { CONTAINERS.get(&cgroup) }).copied().unwrap_or(Treatment {
        refusal: settings.scope_refusal,
        mode: settings.scope_mode,
        about: 0,
    });
    if usual.refusal != Reason::Learning as u32 {
        return usual;
    }
    said_of(program, port).unwrap_or(usual)
}

/// Ports that the system chooses say nothing: they are all one.
#[inline(always)]
fn group(settings: &Settings, port: u32) -> u32 {
    let (first, last) = (settings.chosen_ports & 0xffff, settings.chosen_ports >> 16);
    if port >= first && port <= last { 0 } else { port }
}

/// What is said of a program with a port, the most special first.
#[inline(always)]
fn said_of(program: &Program, port: u32) -> Option<Treatment> {
    let Program { name, inode, arguments, device, .. } = *program;
    let mut key = SourceKey { name, inode, arguments, device, port };
    let mut tries = 0;
    while tries < 3 {
        if tries == 1 {
            key.arguments = 0;
        }
        if tries == 2 {
            (key.inode, key.device) = (0, 0);
        }
        // SAFETY: the value is copied out at once; the agent replaces it whole.
        if let Some(known) = (unsafe { SOURCES.get(&key) }).copied() {
            return Some(known);
        }
        tries += 1;
    }
    None
}

/// The destination of a connection, as its source has it.
#[inline(always)]
pub fn destination(tuple: &Tuple) -> DestinationKey {
    DestinationKey {
        namespace: tuple.namespace,
        address: tuple.destination,
        port: tuple.destination_port,
        padding: 0,
    }
}

/// Remembers that nobody of the scope accepted a connection to the destination.
#[inline(always)]
pub fn found_outside(destination: &DestinationKey) {
    let _ = OUTSIDE.insert(destination, &(boot_time() + OUTSIDE_FOR), 0);
}

/// Somebody of the scope accepts connections there.
#[inline(always)]
pub fn found_inside(destination: &DestinationKey) {
    let _ = OUTSIDE.remove(destination);
}

#[inline(always)]
fn is_outside(destination: &DestinationKey) -> bool {
    // SAFETY: the value is copied out at once.
    (unsafe { OUTSIDE.get(destination) }).copied().is_some_and(|until| boot_time() < until)
}

#[inline(always)]
fn boot_time() -> u64 {
    // SAFETY: the helper has no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}
