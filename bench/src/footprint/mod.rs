//! What Patchbay itself costs: its programs, its memory, its processor time, and what connections pay
//! that are not its own.

mod binaries;
mod foreign;
pub mod idle;

pub use foreign::{ALTERNATIVES as FOREIGN, CASE as FOREIGN_CASE, ESTABLISHMENT};

use crate::case::{Case, Pace};

/// All cases.
pub fn cases(_pace: &Pace) -> Vec<Box<dyn Case>> {
    vec![Box::new(binaries::Binaries), Box::new(idle::Idle), Box::new(foreign::Foreign)]
}
