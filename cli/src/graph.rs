//! `patchbay plan` and `patchbay apply`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use patchbay_api as api;

use crate::client::{Client, Failure};
use crate::output::Output;
use crate::parse::encoded;
use crate::tables;

/// Between two looks at an application that starts.
const LOOK: Duration = Duration::from_millis(250);
/// How `plan` ends when something would change.
const CHANGES: u8 = 2;

/// Shows what `apply` would change.
#[derive(Args)]
pub struct Plan {
    /// The graph file; `-` for the standard input
    graph: PathBuf,
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  patchbay apply social.toml --wait\n  patchbay plan social.toml; patchbay apply social.toml --seen 1f2e3d4c5b6a7988"
)]
pub struct Apply {
    /// The graph file; `-` for the standard input
    graph: PathBuf,
    /// Carry out the plan that has seen this, or nothing: `plan` tells it
    #[arg(long, value_name = "SEEN")]
    seen: Option<String>,
    /// Wait until whatever has a minimum runs as this graph says, and nothing of an earlier one does; fail when that takes
    /// longer, 60 s unless said, and say why
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "60s", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
}

impl Plan {
    pub fn run(&self, client: &Client, output: Output) -> Result<ExitCode, Failure> {
        let plan = client.send_graph("POST", "/v1/plan", &self.graph)?;
        output.show(&plan, |plan| tables::planned(plan, &self.graph))?;
        let is_so = plan.changes.is_empty() && plan.steps.is_empty();
        Ok(if is_so { ExitCode::SUCCESS } else { ExitCode::from(CHANGES) })
    }
}

impl Apply {
    pub fn run(&self, client: &Client, output: Output) -> Result<(), Failure> {
        let seen = self.seen.as_ref().map(|seen| format!("?seen={seen}")).unwrap_or_default();
        let plan = client.send_graph("PUT", &format!("/v1/apps{seen}"), &self.graph)?;
        output.show(&plan, |plan| tables::applied(plan, &self.graph))?;
        match self.wait {
            Some(within) => wait(client, &plan.app, within),
            None => Ok(()),
        }
    }
}

/// Waits until an application runs; tells what is waited for when that changes.
fn wait(client: &Client, name: &str, within: Duration) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut told = String::new();
    loop {
        let apps: Vec<api::App> = client.get("/v1/apps")?;
        let app = apps.iter().find(|app| app.name == name);
        let Some(app) = app.filter(|app| app.state != "stopped") else {
            return Err(Failure::Said(format!("{name} was stopped meanwhile")));
        };
        let path = format!("/v1/instances?ended=false&app={}", encoded(name));
        let instances = client.pages(&path, |instance: &api::Instance| instance.id)?;
        let missing: Vec<String> =
            app.services.iter().filter_map(|service| missing(service, &instances)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let text = missing.join("; ");
        if begun.elapsed() >= within {
            let seconds = within.as_secs();
            return Err(Failure::Said(format!("{name} does not run after {seconds} s: {text}")));
        }
        if text != told {
            eprintln!("waiting for {}", api::visible(&text));
            told = text;
        }
        std::thread::sleep(LOOK);
    }
}

/// What a service misses to run as its graph says: those that will be replaced don't count.
fn missing(service: &api::Service, instances: &[api::Instance]) -> Option<String> {
    let least = service.replicas.0 as usize;
    let earlier = instances
        .iter()
        .filter(|instance| instance.service == service.name && instance.leaving.is_some())
        .filter(|instance| matches!(instance.state.as_str(), "starting" | "running"));
    let (earlier, running) = (earlier.count(), service.running);
    let lacks = match (running < least, earlier) {
        (false, 0) => return None,
        (true, 0) => format!("{running} of {least} run"),
        (false, earlier) => format!("{earlier} of {running} that run are still to be replaced"),
        (true, earlier) => format!("{running} of {least} run, {earlier} of them are still to be replaced"),
    };
    let problem = match tables::problem(service) {
        problem if problem.is_empty() => problem,
        problem => format!(" ({problem})"),
    };
    Some(format!("{}: {lacks}{problem}", service.name))
}

/// The warnings of a graph with their places.
pub fn warnings(plan: &api::Plan, file: &std::path::Path) -> String {
    let lines = plan.warnings.iter().map(|warning| {
        let help = warning.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        format!(
            "\nwarning: {}:{}:{}: {}{help}",
            file.display(),
            warning.line,
            warning.column,
            warning.message
        )
    });
    lines.collect()
}

/// Says how to carry out a plan as it was seen.
pub fn next_step(plan: &api::Plan, file: &std::path::Path) -> String {
    format!("\ncarry out exactly this: patchbay apply {} --seen {}", file.display(), plan.seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rollout whose new version can't start has as many running as before: of the earlier version.
    #[test]
    fn what_runs_of_an_earlier_version_is_not_what_was_applied() {
        let service = |running: usize, problem: Option<&str>| api::Service {
            name: "greeter".into(),
            kind: "regular".into(),
            running,
            replicas: (2, 3),
            program: "broken".into(),
            scaled: None,
            problem: problem.map(str::to_owned),
            retry_ms: None,
        };
        let instance = |id: u64, state: &str, leaving: Option<&str>| -> api::Instance {
            let told = serde_json::json!({
                "id": id, "app": "hello", "service": "greeter", "node": "a", "state": state, "leaving": leaving,
                "sockets": [], "sessions": 0, "restarts": 0, "created_ms": 1
            });
            serde_json::from_value(told).expect("an instance")
        };
        let old = |id| instance(id, "running", Some("the graph says `broken`"));
        let said =
            missing(&service(2, Some("exit status 1")), &[old(1), old(2)]).expect("nothing of it runs");
        assert!(said.contains("2 of 2") && said.contains("exit status 1"), "{said}");
        assert!(missing(&service(3, None), &[old(1), instance(2, "running", None)]).is_some());
        assert!(missing(&service(1, None), &[instance(2, "running", None)]).is_some());
        let done =
            [instance(2, "running", None), instance(3, "running", None), instance(1, "ended", Some("x"))];
        assert_eq!(missing(&service(2, None), &done), None);
    }
}
