//! A running instance: when it listens, how it is ended, when it is gone, what it said last.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use ssmmp::{InstanceId, Status};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::{Main, Process, remove_cgroup};
use crate::core::Event;
use crate::socket_table;

/// How long an instance's sockets may take to listen.
const LISTEN_WITHIN: Duration = Duration::from_secs(20);
/// How often the socket table is read while an instance is starting.
const LISTEN_CHECK: Duration = Duration::from_millis(10);
/// Between the polite signal and the forced end.
pub const POLITE_TIME: Duration = Duration::from_secs(1);
/// Output lines that go with a failure.
const LAST_LINES: usize = 20;
/// Bytes at an output's end that are searched for them.
const LAST_BYTES: u64 = 4096;
/// An output file longer than this is cut once its instance is looked at, in bytes.
const MAX_OUTPUT_BYTES: u64 = 10 << 20;
/// How often output files are looked at.
const OUTPUT_CHECK: Duration = Duration::from_secs(10);

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
    // One that was adopted listens already.
    let mut listening = matches!(process.main, Main::Adopted(_));
    let mut next_look = begun + OUTPUT_CHECK;
    let mut failure = None;
    let reason = loop {
        let pause = if listening { OUTPUT_CHECK } else { LISTEN_CHECK };
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
            let _ = events.send(Event::Listening(id)).await;
        }
        if !listening && failure.is_none() && begun.elapsed() > LISTEN_WITHIN {
            failure = Some(format!("its sockets did not listen within {} s", LISTEN_WITHIN.as_secs()));
            process.kill();
        }
        if Instant::now() > next_look {
            next_look += OUTPUT_CHECK;
            process.cut_output();
        }
    };
    process.clean_up().await;
    let output = process.last_lines();
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
        if let Some(id) = self.main.id() {
            let group = nix::unistd::Pid::from_raw(id);
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGTERM);
        }
    }

    /// Ends everything in the cgroup (Linux 5.14).
    fn kill(&self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
    }

    /// Ends what the process left behind and removes its cgroup.
    async fn clean_up(&self) {
        remove_cgroup(&self.cgroup).await;
        let _ = fs::remove_file(&self.record);
    }

    fn last_lines(&self) -> Vec<String> {
        let read = || -> io::Result<String> {
            let mut file = File::open(&self.output)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LAST_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<String> =
            text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].to_vec()
    }

    /// Keeps one earlier file and cuts the present one; the process goes on writing at its end.
    fn cut_output(&self) {
        let too_long = fs::metadata(&self.output).is_ok_and(|found| found.len() > MAX_OUTPUT_BYTES);
        if too_long && fs::copy(&self.output, self.output.with_extension("log.1")).is_ok() {
            let _ = OpenOptions::new().write(true).open(&self.output).and_then(|file| file.set_len(0));
        }
    }
}
