//! What people are told of by the agent's log.

use std::borrow::Cow;
use std::net::SocketAddr;

use patchbay_ebpf_common::Habit;
use ssmmp::InstanceId;

use crate::profiles::Endpoint;

/// Something that people are told of.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// A plug or socket stays on TCP from now on.
    StaysOnTcp {
        /// Which.
        endpoint: Endpoint,
        /// What its program was seen to do.
        habit: Habit,
        /// What a person had said of it, if that is now known to be wrong.
        disproved: Option<&'static str>,
    },
    /// A session is on its way out of the map.
    BackToTcp {
        /// Its source.
        source: SocketAddr,
        /// Its destination, as the source has it.
        destination: SocketAddr,
        /// Why.
        reason: Cow<'static, str>,
    },
    /// A native program connected and did not acknowledge; the connection was ended.
    NotAcknowledged {
        /// The instance.
        instance: InstanceId,
        /// The connection's end here.
        source: SocketAddr,
        /// Its other end.
        destination: SocketAddr,
    },
}
