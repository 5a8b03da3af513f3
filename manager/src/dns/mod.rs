//! DNS for gateways (W1 to W3): users resolve `GATEWAY.APP.ZONE` to one running instance.
//!
//! The name is an alias of one instance's canonical name `ID.GATEWAY.APP.ZONE`, another one at every query,
//! with a short time to live. Names come when an instance runs and go when it is being shut down or has
//! ended. Nothing else is answered: other zones are refused.

mod answer;
mod names;
mod server;

#[cfg(test)]
mod tests;

pub use answer::{Answer, answer};
pub use names::{Names, Zone};
pub use server::Listeners;
