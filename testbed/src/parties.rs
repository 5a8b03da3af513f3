//! What can happen to the parties of a cluster: killed, frozen, cut off.

use std::fs;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use patchbay_api as api;

use crate::{Cluster, cgroup, network};

/// A party whose processes can be signalled.
#[derive(Debug, Clone)]
pub enum Party {
    /// The Manager.
    Manager,
    /// A node's agent, by the node's place in the plan.
    Agent(usize),
    /// An instance: its node's name, and `service-id`.
    Instance(String, String),
}

impl From<&api::Instance> for Party {
    fn from(instance: &api::Instance) -> Self {
        Self::Instance(instance.node.clone(), format!("{}-{}", instance.service, instance.id))
    }
}

impl Cluster {
    /// The process ids of a party; none when it does not run.
    pub fn processes(&self, party: &Party) -> Vec<i32> {
        match party {
            Party::Manager => self.manager.iter().map(|child| child.id().cast_signed()).collect(),
            Party::Agent(node) => self.agents[*node].iter().map(|child| child.id().cast_signed()).collect(),
            Party::Instance(node, name) => {
                let members = cgroup::path(&self.plan.name)
                    .map(|cgroup| cgroup.join(node).join("instances").join(name))
                    .and_then(|cgroup| Ok(fs::read_to_string(cgroup.join("cgroup.procs"))?));
                members.unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
            }
        }
    }

    /// Sends a signal to all processes of a party.
    ///
    /// # Errors
    /// A process could not be signalled for another reason than that it has ended.
    pub fn signal(&self, party: &Party, signal: Signal) -> Result<()> {
        for process in self.processes(party) {
            match kill(Pid::from_raw(process), signal) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("{signal} for {party:?}")),
            }
        }
        Ok(())
    }

    /// `kill -9` for a party.
    ///
    /// # Errors
    /// As [`Self::signal`].
    pub fn kill(&mut self, party: &Party) -> Result<()> {
        self.signal(party, Signal::SIGKILL)?;
        let child = match party {
            Party::Manager => self.manager.take(),
            Party::Agent(node) => self.agents[*node].take(),
            Party::Instance(..) => None,
        };
        if let Some(mut child) = child {
            child.wait()?;
        }
        Ok(())
    }

    /// `kill -9` for all processes of a node: its agent and everything that runs there.
    ///
    /// # Errors
    /// They can't be ended.
    pub fn kill_node(&mut self, node: usize) -> Result<()> {
        self.kill(&Party::Agent(node))?;
        let name = &self.plan.nodes[node].0;
        cgroup::kill(&cgroup::path(&self.plan.name)?.join(name))
    }

    /// Every instance that has a cgroup, whatever the Manager believes: its node, and `service-id`.
    pub fn real_instances(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (node, _) in &self.plan.nodes {
            let folder = cgroup::path(&self.plan.name).map(|path| path.join(node).join("instances"));
            let entries = folder.and_then(|folder| Ok(fs::read_dir(folder)?)).into_iter().flatten().flatten();
            let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            found.extend(folders.map(|e| (node.clone(), e.file_name().to_string_lossy().into_owned())));
        }
        found
    }

    /// Takes a node's network link down.
    ///
    /// # Errors
    /// The link can't be changed.
    pub fn cut_off(&self, node: usize) -> Result<()> {
        network::set_link(&self.plan, &self.plan.nodes[node].0, "down")
    }

    /// Takes a node's network link up.
    ///
    /// # Errors
    /// The link can't be changed.
    pub fn join_again(&self, node: usize) -> Result<()> {
        network::set_link(&self.plan, &self.plan.nodes[node].0, "up")
    }
}
