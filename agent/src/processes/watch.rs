//! A running instance: when it listens, how it is ended, when it is gone, what it said last.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use patchbay_agent_core::{Event, Start};
use ssmmp::{InstanceId, Status};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{Process, members, remove_cgroup};
use crate::socket_table::{self, Listening};

/// How long an instance's sockets may take to listen.
const LISTEN_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks at the socket table while an instance is starting: at least, at most, and the part of the time that
/// has passed between these.
const LISTEN_CHECK: Duration = Duration::from_millis(10);
const LONGEST_LISTEN_CHECK: Duration = Duration::from_millis(250);
const LISTEN_CHECK_PART: u32 = 8;
/// Between two looks for processes that left an instance that has ended.
const STRAYS_CHECK: Duration = Duration::from_millis(100);
/// Between the polite signal and the forced end.
pub const POLITE_TIME: Duration = Duration::from_secs(1);
/// How often a running instance is looked at: whether its output has a keeper, and where its process is.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Watches an instance until it ends; tells when it listens and when it is gone.
pub async fn watch(
    mut process: Process,
    start: Start,
    cgroup: u64,
    events: mpsc::Sender<Event>,
    mut end: mpsc::Receiver<Duration>,
) {
    let id = start.id;
    let begun = Instant::now();
    let mut listening = process.listens;
    let mut next_look = begun + LOOK_EVERY;
    let mut failure = None;
    let reason = loop {
        let pause = if listening { LOOK_EVERY } else { until_next_check(begun.elapsed()) };
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
        if !listening && failure.is_none() {
            let silent = silent(cgroup, &start);
            if silent.is_empty() {
                listening = true;
                process.note_listening();
                let _ = events.send(Event::Listening(id)).await;
            } else if begun.elapsed() > LISTEN_WITHIN {
                failure = Some(nothing_listens(&silent));
                process.kill();
            }
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

/// An instance's sockets at which it does not listen, each with its place.
pub(super) fn silent(cgroup: u64, start: &Start) -> Vec<String> {
    // What can't be looked at counts as silent.
    let found = socket_table::listening().unwrap_or_default();
    let sockets = start.sockets.0.iter().filter_map(|socket| {
        let at_port = |listening: &&Listening| listening.at.port() == socket.port.0;
        if found.iter().filter(at_port).any(|listening| listening.cgroup == cgroup) {
            return None;
        }
        let at = SocketAddr::new(start.address.0, socket.port.0);
        let taken =
            if found.iter().any(|other| at_port(&other)) { ", where another process does" } else { "" };
        Some(format!("{at} (socket {}{taken})", socket.socket))
    });
    sockets.collect()
}

/// What is told of an instance whose sockets did not listen in time.
fn nothing_listens(silent: &[String]) -> String {
    format!("it runs but nothing listens at {} after {} s", silent.join(", "), LISTEN_WITHIN.as_secs())
}

/// How long to wait for the next look at the socket table: longer and longer, in proportion to what has passed.
fn until_next_check(passed: Duration) -> Duration {
    (passed / LISTEN_CHECK_PART).clamp(LISTEN_CHECK, LONGEST_LISTEN_CHECK)
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use ssmmp::{Name, SocketConfiguration};

    use super::*;

    #[test]
    fn a_slow_start_costs_a_bounded_number_of_looks_and_is_seen_soon_after_it_listens() {
        let (mut passed, mut looks) = (Duration::ZERO, 0);
        while passed < LISTEN_WITHIN {
            let pause = until_next_check(passed);
            assert!(pause <= LISTEN_CHECK.max(passed / LISTEN_CHECK_PART));
            passed += pause;
            looks += 1;
        }
        assert!((80..=120).contains(&looks), "{looks}");
    }

    #[test]
    fn sockets_at_which_nothing_listens_are_named_with_their_place() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        let found = socket_table::listening().expect("readable");
        let cgroup = found.iter().find(|l| l.at.port() == port).expect("it listens").cgroup;
        let mut start = Start::of(Name::new("a").expect("a name"), InstanceId(1));
        start.address = "127.0.0.1".parse::<std::net::IpAddr>().expect("an address").into();
        start.sockets = SocketConfiguration::parse(&format!("in, {port} & out, 9")).expect("good");
        assert_eq!(silent(cgroup, &start), ["127.0.0.1:9 (socket out)"]);
        let other = format!("127.0.0.1:{port} (socket in, where another process does)");
        assert_eq!(silent(cgroup + 1, &start), [&*other, "127.0.0.1:9 (socket out)"]);
        let told = nothing_listens(&silent(cgroup, &start));
        assert_eq!(told, "it runs but nothing listens at 127.0.0.1:9 (socket out) after 20 s");
    }
}
