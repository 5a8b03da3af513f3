//! A running instance: when it listens, how it is ended, when it is gone, what it said last.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use ssmmp::{InstanceId, Status};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{Process, members, remove_cgroup};
use crate::core::Event;
use crate::socket_table;

/// How long an instance's sockets may take to listen.
const LISTEN_WITHIN: Duration = Duration::from_secs(20);
/// How often the socket table is read while an instance is starting.
const LISTEN_CHECK: Duration = Duration::from_millis(10);
/// Between two looks for processes that left an instance that has ended.
const STRAYS_CHECK: Duration = Duration::from_millis(100);
/// Between the polite signal and the forced end.
pub const POLITE_TIME: Duration = Duration::from_secs(1);
/// How often a running instance is looked at: whether its output has a keeper, and where its process is.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Watches an instance until it ends; tells when it listens and when it is gone.
pub async fn watch(
    mut process: Process,
    id: InstanceId,
    cgroup: u64,
    ports: Vec<u16>,
    events: mpsc::Sender<Event>,
    mut end: mpsc::Receiver<Duration>,
) {
    let begun = Instant::now();
    let mut listening = process.listens;
    let mut next_look = begun + LOOK_EVERY;
    let mut failure = None;
    let reason = loop {
        let pause = if listening { LOOK_EVERY } else { LISTEN_CHECK };
        tokio::select! {
            reason = process.main.wait() => break reason,
            Some(polite) = end.recv() => {
                process.terminate();
                let mut until = Instant::now() + polite;
                let ended = loop {
                    tokio::select! {
                        reason = process.main.wait() => break Some(reason),
                        // Whoever asks again may be in more of a hurry.
                        Some(polite) = end.recv() => until = until.min(Instant::now() + polite),
                        () = tokio::time::sleep_until(until) => break None,
                    }
                };
                match ended {
                    Some(reason) => break reason,
                    None => process.kill(),
                }
            }
            () = sleep(pause) => {}
        }
        if !listening && listens(cgroup, &ports) {
            listening = true;
            process.note_listening();
            let _ = events.send(Event::Listening(id)).await;
        }
        if !listening && failure.is_none() && begun.elapsed() > LISTEN_WITHIN {
            failure = Some(format!("its sockets did not listen within {} s", LISTEN_WITHIN.as_secs()));
            process.kill();
        }
        if Instant::now() > next_look {
            next_look += LOOK_EVERY;
            process.look(id);
        }
    };
    process.clean_up().await;
    let output = process.output.last_lines();
    info!(instance = %id, "ended: {reason}");
    let event = match failure {
        Some(failure) => Event::StartFailed(id, Status::NO_ANSWER, failure, output),
        None => Event::Exited(id, reason, output),
    };
    let _ = events.send(event).await;
}

pub(super) fn listens(cgroup: u64, ports: &[u16]) -> bool {
    socket_table::listening().is_ok_and(|found| {
        ports
            .iter()
            .all(|port| found.iter().any(|socket| socket.at.port() == *port && socket.cgroup == cgroup))
    })
}

pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "ended".into(),
    }
}

impl Process {
    fn terminate(&self) {
        let group = nix::unistd::Pid::from_raw(self.id);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGTERM);
    }

    /// Ends everything in the cgroup (Linux 5.14), and the main process wherever it is.
    fn kill(&self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        if self.record.is_root() {
            members::end(&[self.id]);
        }
    }

    /// A restart of the agent does not end it any more for not listening.
    fn note_listening(&mut self) {
        self.record.note_listening();
        // What is not written is found out again.
        let _ = self.record.write(&super::record_file(&self.folder));
    }

    /// Looks after what may have happened to it: its output's keeper was killed, or it has left its cgroup.
    fn look(&mut self, id: InstanceId) {
        if let Err(error) = self.output.ensure_keeper() {
            warn!(instance = %id, "its output is not kept: {error}");
        }
        if self.record.is_root() && !members::is_in(&self.cgroup, self.id) {
            self.left += 1;
            if self.left.is_power_of_two() {
                warn!(instance = %id, process = self.id, times = self.left, "it left its cgroup and is put back");
            }
            if let Err(error) = members::put_back(&self.cgroup, self.id) {
                warn!(instance = %id, process = self.id, "it can't be put back into its cgroup: {error}");
            }
        }
    }

    /// Ends what the process left behind, wherever it is, and removes its cgroup. Returns when nothing lives.
    async fn clean_up(&self) {
        remove_cgroup(&self.cgroup).await;
        let mut looks: u32 = 0;
        while self.record.is_root() {
            let strays = members::strays(self.id, &self.folder);
            if strays.is_empty() {
                break;
            }
            looks += 1;
            if looks.is_power_of_two() {
                warn!(processes = ?strays, looks, "they left their instance's cgroup and are ended with it");
            }
            members::end(&strays);
            sleep(STRAYS_CHECK).await;
        }
        self.output.finish().await;
        let _ = fs::remove_file(super::record_file(&self.folder));
    }
}
