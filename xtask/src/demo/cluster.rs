//! The demo's two nodes.

use std::fs;

use anyhow::Result;
use patchbay_testbed::Plan;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

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
    // Handled, not blocked: what is blocked here would be blocked in every program that is started.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let plan = plan.clone();
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            eprintln!("==> signal {signal}: cleaning up");
            if let Err(error) = plan.clean() {
                eprintln!("error: {error:#}; the next run tries again");
            }
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}
