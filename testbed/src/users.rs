//! Users of an application: threads in the hub's network namespace.

use std::fs::File;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use crate::Plan;

impl Plan {
    /// Moves the calling thread into the hub's network: its connections begin there from now on.
    ///
    /// # Errors
    /// The network is not there, or the process is not root.
    pub fn enter_hub(&self) -> Result<()> {
        let file = self.hub_namespace();
        let namespace = File::open(&file).with_context(|| format!("{}", file.display()))?;
        setns(namespace, CloneFlags::CLONE_NEWNET).context("entering the hub's network")
    }
}
