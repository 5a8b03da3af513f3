//! What agents that are about to register have told so far.

use std::collections::HashMap;

use ssmmp::Status;

use super::node::Connection;

/// What one agent may tell of its instances in parts before it registers, bytes; more is refused with 400.
const MAX_PARTS: usize = 512 * 1024;
/// What all agents may have told so, bytes; more is refused with 503, and comes again.
const MAX_PARTS_OF_ALL: usize = 128 * 1024 * 1024;

/// What agents that are about to register have told of their instances so far (docs/protocol.md).
#[derive(Debug, Default)]
pub(crate) struct Parts {
    of: HashMap<Connection, String>,
    bytes: usize,
}

impl Parts {
    pub(crate) fn keep(&mut self, connection: Connection, items: &str) -> Result<(), Status> {
        let told = self.of.get(&connection).map_or(0, String::len);
        if told + items.len() > MAX_PARTS {
            return Err(Status::BAD_REQUEST);
        }
        if self.bytes + items.len() > MAX_PARTS_OF_ALL {
            return Err(Status::UNAVAILABLE);
        }
        let kept = self.of.entry(connection).or_default();
        kept.push_str(items);
        kept.push('&');
        self.bytes += items.len() + 1;
        Ok(())
    }

    /// Whether an agent has told parts, and what.
    pub(crate) fn of(&self, connection: Connection) -> &str {
        self.of.get(&connection).map_or("", String::as_str)
    }

    pub(crate) fn take(&mut self, connection: Connection) -> String {
        let told = self.of.remove(&connection).unwrap_or_default();
        self.bytes -= told.len();
        told
    }
}
