//! What can happen to the parties of a cluster: killed, frozen, cut off.

use std::fs;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use patchbay_api as api;

use crate::{Cluster, cgroup, network};

/// An instance that exists on a node.
#[derive(Debug, Clone)]
pub struct RealInstance {
    /// The node's name.
    pub node: String,
    /// The entry of the node's repository that it was executed from.
    pub program: String,
    /// Its id.
    pub id: u64,
}

/// A party whose processes can be signalled.
#[derive(Debug, Clone)]
pub enum Party {
    /// The Manager.
    Manager,
    /// A node's agent, by the node's place in the plan.
    Agent(usize),
    /// An instance.
    Instance(RealInstance),
}

impl From<&api::Instance> for Party {
    fn from(instance: &api::Instance) -> Self {
        let program = instance.service.clone();
        Self::Instance(RealInstance { node: instance.node.clone(), program, id: instance.id })
    }
}

impl Cluster {
    /// The process ids of a party; none when it does not run.
    pub fn processes(&self, party: &Party) -> Vec<i32> {
        match party {
            Party::Manager => self.manager.iter().map(|child| child.id().cast_signed()).collect(),
            Party::Agent(node) => self.agents[*node].iter().map(|child| child.id().cast_signed()).collect(),
            Party::Instance(instance) => {
                let found = self.real_instances();
                let Some(real) = found.iter().find(|real| real.id == instance.id) else { return Vec::new() };
                let name = format!("{}-{}", real.program, real.id);
                let members = cgroup::path(&self.plan.name)
                    .map(|cgroup| cgroup.join(&real.node).join("instances").join(name))
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

    /// Waits until an agent has ended by itself.
    ///
    /// # Errors
    /// It has not in time, or not successfully.
    pub fn ended(&mut self, node: usize, within: std::time::Duration) -> Result<()> {
        let Some(mut agent) = self.agents[node].take() else { return Ok(()) };
        let begun = std::time::Instant::now();
        loop {
            match agent.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => anyhow::bail!("the agent ended with {status}\n{}", self.logs()),
                None if begun.elapsed() > within => {
                    let said = self.logs();
                    self.agents[node] = Some(agent);
                    anyhow::bail!("the agent has not ended in {} s\n{said}", within.as_secs());
                }
                None => std::thread::sleep(std::time::Duration::from_millis(20)),
            }
        }
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
            Party::Instance(_) => None,
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

    /// Every instance that has a cgroup, whatever the Manager believes.
    pub fn real_instances(&self) -> Vec<RealInstance> {
        let mut found = Vec::new();
        for (node, _) in &self.plan.nodes {
            let folder = cgroup::path(&self.plan.name).map(|path| path.join(node).join("instances"));
            let entries = folder.and_then(|folder| Ok(fs::read_dir(folder)?)).into_iter().flatten().flatten();
            let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            found.extend(folders.filter_map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                let (program, id) = name.rsplit_once('-')?;
                Some(RealInstance { node: node.clone(), program: program.into(), id: id.parse().ok()? })
            }));
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
