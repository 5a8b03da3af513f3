//! What operators do to the control plane: stop, hand over, and start twice by mistake.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use crate::{Cluster, Party};

/// How long a Manager may take to end when it is told to.
const MANAGER_ENDS_WITHIN: Duration = Duration::from_secs(10);
/// How long an agent that can't be may take to say so.
const REFUSED_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

impl Cluster {
    /// Has the Manager end in order (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// It does not end in time, or not successfully.
    pub fn stop_manager(&mut self) -> Result<()> {
        self.signal(&Party::Manager, Signal::SIGTERM)?;
        let Some(mut manager) = self.manager.take() else { return Ok(()) };
        let begun = Instant::now();
        loop {
            match manager.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the Manager was told to end and ended with {status}"),
                None if begun.elapsed() > MANAGER_ENDS_WITHIN => {
                    self.manager = Some(manager);
                    bail!("the Manager was told to end and has not in {} s", MANAGER_ENDS_WITHIN.as_secs());
                }
                None => std::thread::sleep(LOOK),
            }
        }
    }

    /// Whether an agent that was told to end has.
    ///
    /// # Errors
    /// It has ended, and not successfully.
    pub fn has_ended(&mut self, node: usize) -> Result<bool> {
        let Some(agent) = &mut self.agents[node] else { return Ok(true) };
        let Some(status) = agent.try_wait()? else { return Ok(false) };
        self.agents[node] = None;
        let name = &self.plan.nodes[node].0;
        if status.success() {
            Ok(true)
        } else {
            bail!("the agent of {name} was told to end and ended with {status}")
        }
    }

    /// Starts an agent that takes over from the node's running one.
    ///
    /// # Errors
    /// Its program can't be started.
    pub fn replace_agent(&mut self, node: usize) -> Result<()> {
        let (name, mut arguments) = self.agent_arguments(node);
        arguments.push("--take-over".into());
        let next = self.spawn(&name, "patchbay-agent", &format!("agent-{name}"), &arguments)?;
        self.earlier[node] = self.agents[node].replace(next);
        Ok(())
    }

    /// Whether the agent that was replaced has handed over.
    ///
    /// # Errors
    /// One of both has ended that should not have.
    pub fn has_handed_over(&mut self, node: usize) -> Result<bool> {
        let name = self.plan.nodes[node].0.clone();
        if let Some(next) = &mut self.agents[node]
            && let Some(status) = next.try_wait()?
        {
            self.agents[node] = self.earlier[node].take();
            bail!("the agent of {name} that was to take over ended with {status}");
        }
        let Some(earlier) = &mut self.earlier[node] else { return Ok(true) };
        let Some(status) = earlier.try_wait()? else { return Ok(false) };
        self.earlier[node] = None;
        if status.success() {
            Ok(true)
        } else {
            bail!("the agent of {name} that handed over ended with {status}")
        }
    }

    /// Starts a second agent for a node by mistake; it has to refuse and to name the first one.
    ///
    /// # Errors
    /// It does not refuse, or says something else.
    pub fn start_second_agent(&mut self, node: usize) -> Result<()> {
        let Some(first) = self.processes(&Party::Agent(node)).first().copied() else { return Ok(()) };
        let (name, arguments) = self.agent_arguments(node);
        let log = format!("second-{name}");
        let file = self.plan.folder.join(format!("{log}.log"));
        let _ = std::fs::remove_file(&file);
        let mut second = self.spawn(&name, "patchbay-agent", &log, &arguments)?;
        let begun = Instant::now();
        let status = loop {
            match second.try_wait()? {
                Some(status) => break status,
                None if begun.elapsed() > REFUSED_WITHIN => {
                    second.kill()?;
                    second.wait()?;
                    bail!("a second agent of {name} was not refused");
                }
                None => std::thread::sleep(LOOK),
            }
        };
        let said = std::fs::read_to_string(&file).unwrap_or_default();
        if status.success() || !said.contains(&format!("process {first}:")) {
            bail!("a second agent of {name} ended with {status} and did not name process {first}:\n{said}");
        }
        Ok(())
    }
}
