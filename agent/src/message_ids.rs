//! The agent's own message ids begin behind those of the agents before it on its node: what is used is written to the
//! state folder in blocks, before the first of a block is sent.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use patchbay_agent_core::{FIRST_MESSAGE, LAST_MESSAGE};
use tracing::warn;

use crate::private;

/// Ids of each second since 1970 where nothing is written down.
const IDS_A_SECOND: u64 = 10;

fn file(state: &Path) -> PathBuf {
    state.join("message-ids")
}

/// The first id that no agent before this one has used; by the clock where none has left word.
pub fn first(state: &Path) -> u64 {
    let left = std::fs::read_to_string(file(state)).ok().and_then(|text| text.trim().parse().ok());
    left.filter(|id| (FIRST_MESSAGE..=LAST_MESSAGE).contains(id)).unwrap_or_else(|| {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        FIRST_MESSAGE + since_1970.saturating_mul(IDS_A_SECOND) % (LAST_MESSAGE - FIRST_MESSAGE)
    })
}

/// Leaves word for the next agent that all ids below this one are used.
pub fn reserve(state: &Path, next: u64) {
    if let Err(error) = private::write(&file(state), &format!("{next}\n")) {
        let file = file(state);
        warn!(file = %file.display(), "the next agent here may use message ids of this one again: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_goes_on_behind_what_the_one_before_it_reserved() {
        let state = tempfile::tempdir().expect("a folder");
        let first_of_all = first(state.path());
        assert!((FIRST_MESSAGE..LAST_MESSAGE).contains(&first_of_all));
        reserve(state.path(), FIRST_MESSAGE + 70_000);
        assert_eq!(first(state.path()), FIRST_MESSAGE + 70_000);
        for damaged in ["", "x", "7", "99999999999"] {
            std::fs::write(file(state.path()), damaged).expect("written");
            assert!((FIRST_MESSAGE..LAST_MESSAGE).contains(&first(state.path())), "{damaged}");
        }
    }
}
