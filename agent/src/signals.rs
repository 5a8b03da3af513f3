//! Signals of a running agent: one for each thing that people do to it (docs/operating.md).

use std::time::Duration;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::node::Control;

/// How long instances may take when the machine goes down.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(5);

/// What `--help` says of them.
pub const HELP: &str = "Signals of a running agent:\n  \
    SIGTERM  stop: the Manager starts elsewhere what is needed, all instances end, nothing is left \
    (again: at once)\n  \
    SIGPWR   the machine goes down: the same within 5 seconds\n  \
    SIGQUIT  restart: the agent ends, its instances and sessions go on, the next agent takes them over\n  \
    SIGHUP   the repository file and the certificates are read again\n  \
    SIGUSR1, SIGUSR2  redirection off for further messages, on again\n\
    An upgrade is `run` of the new version with --take-over: the old one hands over once the new one is ready.";

/// Passes signals on until the node has ended.
///
/// # Errors
/// They can't be caught.
pub fn watch(controls: mpsc::Sender<Control>, stop_within: Duration) -> Result<impl Future<Output = ()>> {
    let mut off = signal(SignalKind::user_defined1())?;
    let mut on = signal(SignalKind::user_defined2())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut power = signal(SignalKind::from_raw(libc::SIGPWR))?;
    let mut hand_over = signal(SignalKind::quit())?;
    let mut reload = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            let control = tokio::select! {
                _ = off.recv() => Control::Redirect(false),
                _ = on.recv() => Control::Redirect(true),
                _ = hand_over.recv() => Control::HandOver,
                _ = reload.recv() => Control::Reload,
                _ = terminate.recv() => Control::End(stop_within),
                _ = interrupt.recv() => Control::End(stop_within),
                _ = power.recv() => Control::End(SHUTDOWN_WITHIN),
            };
            if controls.send(control).await.is_err() {
                return;
            }
        }
    })
}
