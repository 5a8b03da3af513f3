//! Every message of a socket in the map: redirect it, or let it go over TCP, and count it.

use aya_ebpf::bindings::BPF_F_INGRESS;
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_msg_apply_bytes};
use aya_ebpf::programs::SkMsgContext;
use patchbay_ebpf_common::{Direction, Reason, Session, Settings, entry, event, mode, path, state};

use crate::maps::{KNOWN_SESSIONS, MEMBERS, PAUSED, SETTINGS, SOCKETS, number_of, tell};
use crate::socket::Socket;
use crate::{kernel, shown, stopping};

/// `bpf_msg_redirect_hash` found the target.
const FOUND: i64 = 1;

/// Messages in one direction after which its traffic is judged.
const WINDOW_MESSAGES: u32 = 256;
/// A window with fewer messages from the other end than this is a stream.
const STREAM_ANSWERS: u64 = 16;
/// A stream of messages below this size is faster over TCP where TCP merges them, in bytes on average (measured).
/// Where it may not (TCP_NODELAY), each is a packet, and redirection is faster.
const SMALL_BYTES: u64 = 8_192;
/// A window of which this part of its bytes, or more, went over TCP shows that being in the map costs more than it
/// brings (measured): one in so many.
const MIXED_PART: u64 = 4;
/// Such windows in a row after which a direction that outruns its reader is better off outside the map.
const OUTRUN_WINDOWS: u32 = 16;
/// How often a sender looks whether its reader has made room or caught up, before it goes over TCP: about 10
/// microseconds. A steady stream seldom comes back from there, so it is worth a moment. Each look costs the
/// kernel time once more when it checks the program.
const LOOKS: u32 = 32;
/// Messages that do not wait for the reader after one has waited in vain: a message that waits keeps its
/// socket from sending what TCP still has of it.
const HURRIED: u32 = 64;
/// A reader is worth waiting for when so few bytes over TCP are unread.
const NEARLY_DRAINED_BYTES: u32 = 64 << 10;

/// What is decided about a message.
#[derive(Clone, Copy)]
struct Verdict {
    /// 0 to redirect, or why not.
    obstacle: u32,
    /// The first so many bytes of it; the rest is decided about next.
    bytes: u32,
}

/// Decides about one message and counts it.
#[inline(always)]
pub fn message(ctx: &SkMsgContext) {
    // SAFETY: the context is valid while the program runs.
    let socket = number_of(unsafe { (*ctx.msg).__bindgen_anon_3.sk });
    // SAFETY: the value is copied out at once.
    let Some(member) = (unsafe { MEMBERS.get(&socket) }).copied() else { return };
    let Some(session) = KNOWN_SESSIONS.get_ptr_mut(&member.session) else { return };
    // SAFETY: the map's entry stays valid while the program runs; a direction is written under its
    // sender's socket lock only.
    let session = unsafe { &mut *session };
    let from_source = member.side == 0;
    let (own, peer, cookies) = if from_source {
        let cookies = [session.source_cookie, session.destination_cookie];
        (session.source_socket, session.destination_socket, cookies)
    } else {
        let cookies = [session.destination_cookie, session.source_cookie];
        (session.destination_socket, session.source_socket, cookies)
    };
    if own != socket {
        return;
    }
    let size = ctx.size();
    let verdict = decide(session, socket, peer, size, from_source);
    let mut obstacle = send(ctx, socket, cookies, verdict, size);
    let direction = session.sent_by(from_source);
    // The rest of a message keeps the target of its first part, unless it was given another.
    let is_rest = direction.rest != 0 && direction.rest == size;
    if is_rest && !is_passing(obstacle) {
        obstacle = 0;
    }
    direction.rest = if obstacle == 0 { size - verdict.bytes } else { 0 };
    count(direction, Socket::at(socket), u64::from(verdict.bytes), obstacle);
    if direction.window_messages >= WINDOW_MESSAGES {
        let judged = judge(session, socket, from_source);
        if judged != 0 && session.mode == mode::AUTO && session.leave == 0 {
            session.leave = judged;
            tell(event::LEAVING, 0, session);
        }
    }
    if session.trace != 0 {
        shown::message(ctx, session, member.side, if obstacle == 0 { path::KERNEL } else { path::TCP });
    }
}

/// Makes the kernel do what was decided; returns 0 when it redirects, or why not.
///
/// Once a target is set, passing means redirecting to it, for the rest of the message too: everything was checked
/// before. A target found here has been in the map since before the checks, so its address was valid.
#[inline(always)]
fn send(ctx: &SkMsgContext, socket: u64, [own, peer]: [u64; 2], verdict: Verdict, size: u32) -> u32 {
    let part = if verdict.bytes < size { verdict.bytes } else { 0 };
    // SAFETY: the context is valid while the program runs. 0 means all; what was said of an earlier part stays.
    unsafe { bpf_msg_apply_bytes(ctx.msg, part) };
    if verdict.obstacle == 0 {
        let found = SOCKETS.redirect_msg(ctx, peer, u64::from(BPF_F_INGRESS)) == FOUND;
        return if found { 0 } else { Reason::PeerGone as u32 };
    }
    // A message that passes and finds TCP full leaves its verdict behind: the kernel would send the next message
    // over TCP without asking (`tcp_bpf_send_verdict`, Linux 6.1 to 6.18), and so on for ever. Redirected to its
    // own socket's sending side it goes over TCP all the same, and leaves nothing behind. Not on the way out of
    // the map, where the kernel would refuse.
    if is_passing(verdict.obstacle) && kernel::is_nonblocking(socket) {
        SOCKETS.redirect_msg(ctx, own, 0);
    }
    verdict.obstacle
}

/// Whether it is only for the moment that messages go over TCP.
#[inline(always)]
fn is_passing(obstacle: u32) -> bool {
    obstacle == Reason::NotDrained as u32 || obstacle == Reason::OverBudget as u32
}

/// Whether the traffic of a whole window is of a kind that TCP carries better: the reason to leave, or 0.
/// The other end's counters are read here only: its processor writes them all the time.
#[inline(always)]
fn judge(session: &mut Session, socket: u64, from_source: bool) -> u32 {
    let [there, back] = &mut session.directions;
    let (direction, other) = if from_source { (there, back) } else { (back, there) };
    let answered = other.kernel_messages + other.tcp_messages;
    let answers = answered - direction.window_answered;
    let (bytes, tcp) = (direction.window_bytes, direction.window_tcp);
    direction.window_answered = answered;
    direction.window_messages = 0;
    direction.window_bytes = 0;
    direction.window_tcp = 0;
    if session.entry == entry::SETTLING {
        // It goes over TCP for another reason.
        return 0;
    }
    direction.outrun = if u64::from(tcp) * MIXED_PART < bytes { 0 } else { direction.outrun + 1 };
    let is_small = bytes < u64::from(WINDOW_MESSAGES) * SMALL_BYTES;
    if answers < STREAM_ANSWERS && is_small && kernel::merges_writes(socket) {
        return Reason::SmallWrites as u32;
    }
    if direction.outrun < OUTRUN_WINDOWS { 0 } else { Reason::OutrunsReader as u32 }
}

/// Decides about a message, or its first part.
///
/// What is over the budget goes over TCP to stop the sender, so TCP gets only its end: enough to fill the window
/// and [`stopping::UNSENT_BYTES`].
#[inline(always)]
fn decide(session: &mut Session, socket: u64, peer: u64, size: u32, from_source: bool) -> Verdict {
    let obstacle = obstacle(session, socket, peer, size, from_source);
    let all = Verdict { obstacle, bytes: size };
    // Splitting a message loses bytes in kernels before Linux 6.2, which have no such reads.
    if obstacle != Reason::OverBudget as u32
        || kernel::seen_as_memory() == 0
        || !kernel::is_nonblocking(socket)
    {
        return all;
    }
    let window = Socket::at(socket).sendable().unwrap_or(0);
    let first = size.saturating_sub(window.saturating_add(stopping::UNSENT_BYTES));
    if first == 0 || !is_bearable(Socket::at(peer), first) {
        return all;
    }
    Verdict { obstacle: 0, bytes: first }
}

/// Whether a part of a message may go over the budget: what TCP needs for itself stays free.
#[inline(always)]
fn is_bearable(there: Socket, bytes: u32) -> bool {
    match (there.unread_redirected(), there.receive_buffer(), there.send_buffer()) {
        (Some(unread), Some(receive), Some(send)) => {
            unread.saturating_add(bytes) <= receive.saturating_add(send / 2)
        }
        _ => false,
    }
}

/// Why the message must go over TCP, or 0.
#[inline(always)]
fn obstacle(session: &mut Session, socket: u64, peer: u64, size: u32, from_source: bool) -> u32 {
    let Some(settings) = SETTINGS.get(0) else { return Reason::SwitchedOff as u32 };
    let node_paused = PAUSED.get(0).is_some_and(|paused| *paused != 0);
    if settings.redirect == 0 || node_paused || session.paused != 0 {
        return Reason::SwitchedOff as u32;
    }
    if session.leave != 0 {
        return session.leave;
    }
    if session.state & state::PAIRED == 0 {
        return Reason::Unpaired as u32;
    }
    // A call that knows nothing of the map may still take what comes over TCP.
    if session.entry == entry::SETTLING {
        return Reason::NotDrained as u32;
    }
    // The drained rule: all that went over TCP has been read, so nothing can be overtaken.
    let there = Socket::at(peer);
    let direction = session.sent_by(from_source);
    let went_tcp = direction.went_tcp != 0;
    if !is_drained(Socket::at(socket), there, size, direction) {
        return Reason::NotDrained as u32;
    }
    if !matches!(there.minimum_asked(), Some(..=1)) {
        return Reason::MinimumAsked as u32;
    }
    // TCP resets a connection whose other end takes no more.
    if there.is_at_its_end() {
        return Reason::PeerGone as u32;
    }
    // A reader that blocks may be waiting inside native TCP for the rest of what it asked for; it
    // would never see redirected bytes.
    if went_tcp && !kernel::is_nonblocking(peer) {
        return Reason::BlockingReader as u32;
    }
    if is_over_budget(settings, [socket, peer], there, size) {
        wait_for_room(there, size);
        if is_over_budget(settings, [socket, peer], there, size) {
            return Reason::OverBudget as u32;
        }
    }
    // A redirected send would fail with ENOMEM where TCP waits (seen, Linux 6.18).
    if kernel::is_short_of_memory(session.memory_pressure) {
        return Reason::ShortOfMemory as u32;
    }
    0
}

/// Redirection has no backpressure of its own; over the budget TCP's window stops the sender.
///
/// Unread redirected bytes count into the receiver's `sk_rmem_alloc` (Linux 6.13, and earlier ones by their
/// stable releases), so they take the place that TCP has promised to the sender. What then does not fit is
/// dropped and comes only with a retransmission, whose timer has doubled for as long as the reader paused
/// (seen, Linux 6.18). So the promised window keeps its place, unless TCP may let the buffer grow for it.
///
/// TCP also drops what arrives while the reader holds the socket and this passes twice the receive buffer,
/// half the send buffer and 64 KiB: a reset dropped there leaves the reader waiting for ever (seen, Linux
/// 6.18). One receive buffer and the 64 KiB are left to TCP's own bytes.
#[inline(always)]
fn is_over_budget(settings: &Settings, [socket, peer]: [u64; 2], there: Socket, size: u32) -> bool {
    let (Some(unread), Some(receive), Some(send), Some(window)) =
        (there.unread_redirected(), there.receive_buffer(), there.send_buffer(), there.receive_window())
    else {
        return true;
    };
    let wanted = unread.saturating_add(size);
    // A quarter more than the window, for what the kernel keeps with each packet.
    let promised = window.saturating_add(window / 4);
    if wanted.saturating_add(promised) <= receive {
        return false;
    }
    match kernel::receive_buffer_limit(peer) {
        Some(limit) if wanted.saturating_add(promised) <= limit => {}
        _ => return true,
    }
    let room = receive.saturating_add(send / 2);
    let allowed = match settings.in_flight_budget {
        0 => receive,
        budget => budget,
    };
    // A blocking sender gets all the room: once it has waited in TCP, its own blocking read may be woken
    // by the space that becomes free, and return EAGAIN.
    let budget = if allowed > room || !kernel::is_nonblocking(socket) { room } else { allowed };
    // A reader that has nothing unread may always get one message, however large.
    unread != 0 && wanted > budget
}

/// Whether the reader has read all that went over TCP. A large message waits for it, if it is about to.
#[inline(always)]
fn is_drained(socket: Socket, peer: Socket, size: u32, direction: &mut Direction) -> bool {
    let Some(written) = socket.write_sequence() else { return false };
    let mut looks = 0;
    while looks < LOOKS {
        let Some(copied) = peer.copied_sequence() else { return false };
        let unread = written.wrapping_sub(copied);
        if unread == 0 {
            return true;
        }
        if unread > NEARLY_DRAINED_BYTES || u64::from(size) < SMALL_BYTES {
            return false;
        }
        // What is unsent stays so while the sender waits here.
        if socket.send_sequence() != Some(written) {
            return false;
        }
        if direction.hurried > 0 {
            direction.hurried -= 1;
            return false;
        }
        looks += 1;
        pause();
    }
    direction.hurried = HURRIED;
    false
}

/// About 300 nanoseconds.
#[inline(always)]
fn pause() {
    for _ in 0..8 {
        // SAFETY: the helper has no arguments.
        unsafe { bpf_ktime_get_ns() };
    }
}

/// Looks until the reader has taken as much as is to be sent, for [`LOOKS`] at most.
#[inline(always)]
fn wait_for_room(peer: Socket, size: u32) {
    let Some(before) = peer.unread_redirected() else { return };
    let mut looks = 0;
    while looks < LOOKS {
        match peer.unread_redirected() {
            Some(unread) if unread.saturating_add(size) > before => looks += 1,
            _ => return,
        }
        pause();
    }
}

#[inline(always)]
fn count(direction: &mut Direction, socket: Socket, size: u64, obstacle: u32) {
    // What TCP took up to now. Not the sizes of messages: the kernel takes back what does not fit into the
    // socket's buffer, and does not ask about the message after that (seen, Linux 6.18).
    if let Some(written) = socket.write_sequence() {
        let new = written.wrapping_sub(direction.written);
        direction.tcp_bytes += u64::from(new);
        direction.written = written;
        direction.window_tcp = direction.window_tcp.saturating_add(new);
        direction.window_bytes += u64::from(new);
    }
    let now = if obstacle == 0 { path::KERNEL } else { path::TCP };
    if direction.path != 0 && direction.path != now {
        direction.switches += 1;
    }
    direction.path = now;
    direction.reason = obstacle;
    // SAFETY: the helper has no arguments.
    direction.last_activity = unsafe { bpf_ktime_get_coarse_ns() };
    direction.window_messages += 1;
    if obstacle == 0 {
        direction.window_bytes += size;
        // All over TCP was read and its reader waits nowhere there. Until the next byte over TCP nobody can begin to:
        // a reading call that finds nothing waits for both kinds of bytes.
        direction.went_tcp = 0;
        direction.kernel_bytes += size;
        direction.kernel_messages += 1;
    } else {
        direction.tcp_messages += 1;
        direction.went_tcp = 1;
    }
}
