//! What the core has for people, as lines of the log.

use patchbay_agent_core::{Notice, habit_names};
use tracing::{info, warn};

/// Writes a line.
pub fn log(notice: &Notice) {
    match notice {
        Notice::StaysOnTcp { endpoint, habit, disproved } => {
            let uses = habit_names::name(*habit);
            match disproved {
                Some(said) => warn!(%endpoint, uses, "{said}, and does: it stays on TCP"),
                None => {
                    let advice = habit_names::advice(*habit);
                    info!(%endpoint, uses, advice, "it stays on TCP");
                }
            }
        }
        Notice::BackToTcp { source, destination, reason } => {
            info!(%source, %destination, %reason, "back to TCP");
        }
        Notice::NotAcknowledged { instance, source, destination } => {
            warn!(%instance, %source, %destination, "it connected and did not acknowledge; the connection was ended");
        }
    }
}
