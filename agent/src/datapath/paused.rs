//! Sessions, or a whole node, that a person wants on TCP for a while: through what a running agent pinned.

use std::path::Path;

use aya::maps::{Array, Map, MapData};
use aya::programs::RawTracePoint;
use patchbay_ebpf_common::{self as common, operation};

use super::leaving::run_control;
use super::load::describe;
use super::{Datapath, Error, SessionReport, Unavailable, pins};

impl Datapath {
    /// Sends further messages of a session over TCP, or not any more, as [`Switch::session`] does.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn pause_session(&mut self, session: &SessionReport, paused: bool) -> Result<(), Error> {
        self.control(operation::PAUSE, session.key, u64::from(paused)).map(drop)
    }

    /// Sends further messages of all sessions over TCP, or not any more, as [`Switch::node`] does.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn pause_node(&mut self, paused: bool) -> Result<(), Error> {
        let map = self.programs.map_mut("PAUSED").ok_or_else(|| Error::Missing("no map PAUSED".into()))?;
        let mut node = Array::<_, u32>::try_from(map)?;
        Ok(node.set(0, u32::from(paused), 0)?)
    }
}

/// Switches redirection of further messages. What was redirected before is read first, so that nothing is lost or
/// reordered; a direction comes back when everything that went over TCP has been read, and its reader can't be
/// waiting there.
pub struct Switch {
    control: RawTracePoint,
    node: Array<MapData, u32>,
}

impl Switch {
    /// Opens what an agent pinned.
    ///
    /// # Errors
    /// No agent pinned its programs there.
    pub fn open(pins: &Path) -> Result<Self, Unavailable> {
        let fail = |error: &dyn std::error::Error| {
            Unavailable(format!("no agent's programs at {}: {}", pins.display(), describe(error)))
        };
        let pins = pins::of_layout(pins, common::LAYOUT);
        let control = RawTracePoint::from_pin(pins.join(pins::PROGRAM)).map_err(|error| fail(&error))?;
        let map = MapData::from_pin(pins.join("PAUSED")).map_err(|error| fail(&error))?;
        let node = Array::try_from(Map::Array(map)).map_err(|error| fail(&error))?;
        Ok(Self { control, node })
    }

    /// Switches one session. Returns whether it still exists.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn session(&self, session: &SessionReport, on: bool) -> Result<bool, Error> {
        let answer = run_control(&self.control, operation::PAUSE, session.key, u64::from(!on))?;
        Ok(answer != operation::UNKNOWN)
    }

    /// Switches the node: all sessions, also those that will be made, whatever is said of a single one. It holds
    /// until it is switched on again, or the agent is detached.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn node(&mut self, on: bool) -> Result<(), Error> {
        Ok(self.node.set(0, u32::from(!on), 0)?)
    }
}
