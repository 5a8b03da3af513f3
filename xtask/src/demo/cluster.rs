//! The demo's two nodes.

use std::fs;

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};
use patchbay_testbed::Plan;

use super::folder;
use crate::workspace;

/// Two nodes: files are kept on the second one, everything else can run on both.
pub fn plan() -> Result<Plan> {
    let repository = fs::read_to_string(workspace().join("examples/social/repository.toml"))?;
    let on_a = without(&repository, "file-store");
    Ok(Plan {
        name: "patchbay-demo".into(),
        folder: folder(),
        programs: workspace().join("target/release"),
        nodes: vec![("a".into(), on_a), ("b".into(), repository)],
        manager_flags: Vec::new(),
        agent_flags: Vec::new(),
    })
}

/// A repository without one of its services.
pub fn without(repository: &str, service: &str) -> String {
    let begin = format!("[service.{service}]");
    repository.split("\n\n").filter(|entry| !entry.contains(&begin)).collect::<Vec<_>>().join("\n\n")
}

/// Ctrl-C and SIGTERM leave nothing of a plan behind.
pub fn clean_on_signals(plan: &Plan) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let plan = plan.clone();
    std::thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            eprintln!("==> {signal}: cleaning up");
            if let Err(error) = plan.clean() {
                eprintln!("error: {error:#}; the next run tries again");
            }
            std::process::exit(128 + signal as i32);
        }
    });
    Ok(())
}
