//! Decisions, each a pure function over a small view of the state; the rest of the core carries them out.

pub mod choice;
pub mod placement;
pub mod restarts;
pub mod scaling;

use crate::graph::policy::Near;

/// Whether something near may still be preferred with this load, when elsewhere there is one with the
/// least load.
fn near_is_fair(near: Near, load: u32, least_elsewhere: Option<u32>) -> bool {
    let Some(least) = least_elsewhere else { return true };
    let weighted = (u64::from(least) + 1) * u64::from(near.weight);
    u64::from(load) < weighted && load.saturating_sub(least) <= near.imbalance
}
