//! The core's clock is handed in.

/// Milliseconds since 1970.
pub type Millis = u64;
