//! Agents that wait to take the place of a connected one.

use std::collections::HashMap;

use ssmmp::{Address, Envelope};

use super::node::Connection;

/// By the address that they want.
pub(crate) type Candidates = HashMap<Address, Candidate>;

/// An agent that waits for the answer of the one before it.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) connection: Connection,
    pub(crate) registration: Envelope,
}
