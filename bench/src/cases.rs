//! All cases. A new one is added here.

use crate::case::{Case, Pace};
use crate::{control_plane, footprint, matrix, programs};

/// The cases of a pace.
pub fn all(pace: &Pace) -> Vec<Box<dyn Case>> {
    let mut all: Vec<Box<dyn Case>> = Vec::new();
    all.extend(matrix::cases(pace));
    all.extend(programs::cases(pace));
    all.extend(footprint::cases(pace));
    all.extend(control_plane::cases(pace));
    all
}
