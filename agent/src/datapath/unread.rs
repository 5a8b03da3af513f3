//! An end that was closed while redirected bytes were unread: the other end must see a reset, as TCP would send,
//! and no end. The kernel programs keep its FIN from being taken for a second (`ebpf/src/unread.rs`).

use std::collections::BTreeSet;

use patchbay_ebpf_common::Session;
use tracing::{debug, warn};

use super::middle_boxes::Packet;
use super::{namespaces, report};
use crate::socket_table;

/// Sends the reset from the closed end's network namespace, in a thread of its own: it waits for nothing.
pub(super) fn reset(session: &Session, from_source: bool) {
    let at = report::address;
    let (source, destination, namespace) = if from_source {
        let there = &session.tuple;
        let source = at(there.source, there.source_port);
        (source, at(there.destination, there.destination_port), there.namespace)
    } else {
        let source = at(session.accepted, session.accepted_port);
        let destination = at(session.accepted_from, session.accepted_from_port);
        (source, destination, session.destination_namespace)
    };
    let sequence = session.reset_sequence;
    let packet = Packet { source, destination, sequence, expected: 0, resets: true };
    let go = move || {
        namespaces::visit(BTreeSet::from([namespace]), |_| {
            if let Err(error) = packet.send() {
                debug!("a reset was not sent: {error}");
            }
        });
    };
    if let Err(error) = std::thread::Builder::new().name("reset".into()).spawn(go) {
        debug!("no thread for a reset: {error}");
    }
}

/// Ends a connection of which one end would read wrong bytes or none, in a thread of its own.
pub(super) fn break_off(session: &Session) {
    let there = session.tuple;
    let source = report::address(there.source, there.source_port);
    let destination = report::address(there.destination, there.destination_port);
    warn!(%source, %destination, "spliced out of a socket with redirected bytes unread: the connection is broken off");
    let go = move || {
        namespaces::visit(BTreeSet::from([there.namespace]), |_| {
            if let Err(error) = socket_table::destroy(source, destination) {
                warn!(%source, %destination, "the connection can't be broken off: {error}");
            }
        });
    };
    if let Err(error) = std::thread::Builder::new().name("break-off".into()).spawn(go) {
        warn!(%source, %destination, "the connection can't be broken off, no thread: {error}");
    }
}
