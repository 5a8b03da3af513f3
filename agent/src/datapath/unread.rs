//! An end that was closed while redirected bytes were unread: the other end must see a reset, as TCP would send,
//! and no end. The kernel programs keep its FIN from being taken for a second (`ebpf/src/unread.rs`).

use std::collections::BTreeSet;

use patchbay_ebpf_common::Session;
use tracing::debug;

use super::middle_boxes::Packet;
use super::{namespaces, report};

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
