//! What happens to the agent.

use std::net::SocketAddr;
use std::time::Duration;

use ssmmp::{Envelope, InstanceId, Name, Status};

use super::{Lead, Redirects, Start, Waiting};
use crate::repository::Repository;
use crate::session_report::{Cause, SessionReport};

/// What happens to the agent.
#[derive(Debug)]
pub enum Event {
    /// The Manager's connection stands, not registered yet.
    ManagerUp,
    /// The Manager's connection is gone.
    ManagerLost,
    /// A message from the Manager.
    FromManager(Envelope),
    /// The answer to a message of the Manager that could not be understood.
    Refusal(Envelope),
    /// A message from an instance, which the kernel says it is.
    FromInstance(InstanceId, Envelope),
    /// All sockets of an instance listen.
    Listening(InstanceId),
    /// An instance of an earlier agent exists; whether it has listened, its sessions of which it is the source,
    /// and where its plugs lead.
    Adopted(Start, bool, Vec<SessionReport>, Vec<(Name, Lead)>),
    /// An adapted instance's connection to a plug's own address waits at the agent.
    PlugWaits(InstanceId, Name, Waiting),
    /// It has ended, or waited too long.
    PlugGaveUp(InstanceId, Name, Waiting),
    /// A connection of [`Effect::HandPlug`](super::Effect::HandPlug) is joined: the agent's own end towards the destination, and the destination.
    PlugJoined(InstanceId, SocketAddr, SocketAddr),
    /// The destination of [`Effect::HandPlug`](super::Effect::HandPlug) could not be reached; the last number is that effect's `tries`.
    PlugFailed(InstanceId, Name, Waiting, SocketAddr, u8),
    /// A joined connection has ended.
    PlugLeft(SessionReport, Status),
    /// An instance could not be started.
    StartFailed(InstanceId, Status, String, Vec<String>),
    /// An instance's process has ended, with its last output.
    Exited(InstanceId, String, Vec<String>),
    /// A declared session was established.
    Established(SessionReport),
    /// A declared session has ended.
    Closed(SessionReport, Cause),
    /// A program of a session did something that behaves differently once it is redirected.
    Habit(SessionReport),
    /// A session is on its way out of the map.
    Leaving(SessionReport),
    /// The time of [`Core::next_timeout`](super::Core::next_timeout) has come.
    Tick,
    /// What was seen so far of sessions that go on.
    Observed(Vec<SessionReport>),
    /// The agent is to end, after this time at the latest.
    End(Duration),
    /// The repository was read again.
    Reload(Repository),
    /// What the node can do about redirection is known better now.
    Tested(Redirects),
}
