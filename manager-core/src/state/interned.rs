//! Texts that many sessions share are kept once.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::session::Edge;

/// Different texts kept to be shared; when there are more, those that no session has any more go, and
/// when all are in use a new text stands alone.
const MOST: usize = 4_096;

/// Shared texts and abstract connections.
#[derive(Debug, Default)]
pub(crate) struct Interned {
    edges: BTreeSet<Arc<Edge>>,
    texts: BTreeSet<Arc<str>>,
}

impl Interned {
    /// The shared form of an abstract connection.
    pub(crate) fn edge(&mut self, edge: impl Into<Arc<Edge>>) -> Arc<Edge> {
        shared(&mut self.edges, edge.into())
    }

    /// The shared form of a text.
    pub(crate) fn text(&mut self, text: impl Into<Arc<str>>) -> Arc<str> {
        shared(&mut self.texts, text.into())
    }
}

fn shared<T: ?Sized + Ord>(kept: &mut BTreeSet<Arc<T>>, new: Arc<T>) -> Arc<T> {
    if let Some(found) = kept.get(&new) {
        return found.clone();
    }
    if kept.len() >= MOST {
        kept.retain(|one| Arc::strong_count(one) > 1);
    }
    if kept.len() < MOST {
        kept.insert(new.clone());
    }
    new
}
