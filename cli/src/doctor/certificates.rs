//! Certificates: those of the Managers and agents that run here, and those that the Manager sees.

use std::path::Path;
use std::time::SystemTime;

use patchbay_api as api;
use patchbay_trust::{Expected, load, shown_time};

use super::running::Running;
use super::{Finding, State, finding};
use crate::client::Client;

/// A certificate that ends within so many seconds is to be renewed.
const SOON: i64 = 14 * 24 * 3_600;
const DAY: i64 = 24 * 3_600;
const RENEW: &str = "renew it with `patchbay certs renew`, bring it here, and have it read again (SIGHUP)";

/// The folders that running Managers and agents name.
pub fn on_disk(managers: &[Running], agents: &[Running]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for folder in managers.iter().filter_map(|manager| manager.path("--certificates")) {
        findings.push(look("node: the Manager's certificate", &folder, Expected::Manager));
    }
    for agent in agents {
        let Some(folder) = agent.path("--certificates") else { continue };
        let host = || nix::unistd::gethostname().ok()?.into_string().ok();
        let Some(node) = agent.text("--node").or_else(host) else { continue };
        findings.push(look(&format!("node: certificate of {node}"), &folder, Expected::Node(&node)));
    }
    findings
}

fn look(what: &str, folder: &Path, expected: Expected<'_>) -> Finding {
    let now = SystemTime::now();
    match load(folder, expected, now) {
        Ok(identity) => {
            let left = identity.about.seconds_left(now);
            let state = if left < SOON { State::Degraded } else { State::Fine };
            let until = shown_time(identity.about.until);
            finding(what, state, format!("valid until {until} ({} days)", left / DAY), RENEW)
        }
        Err(problem) => {
            let found = format!("{}: {}", problem.file.display(), problem.what);
            finding(what, State::Broken, found, &problem.remedy)
        }
    }
}

/// What the Manager sees: its own as it was read last, and what connected agents have shown.
pub fn of_manager(client: &Client) -> Vec<Finding> {
    // The other questions have said what is wrong with the Manager.
    let shown: Vec<api::Certificate> = client.get("/v1/certificates").unwrap_or_default();
    shown.iter().filter_map(of_one).collect()
}

/// The Manager's always; a node's when it is to be renewed.
fn of_one(one: &api::Certificate) -> Option<Finding> {
    let is_own = one.role == "manager";
    let what = if is_own {
        "Manager: certificate".to_owned()
    } else {
        format!("{} {}: certificate", one.role, one.name)
    };
    let (state, found) = match one.seconds_left {
        left if left < 0 => (State::Broken, format!("it ended {} days ago", -left / DAY)),
        left if left < SOON => (State::Degraded, format!("it ends in {} days", left / DAY)),
        left => (State::Fine, format!("valid for {} days", left / DAY)),
    };
    (is_own || state != State::Fine).then(|| finding(&what, state, found, RENEW))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_ends_is_told_before_and_after_and_a_nodes_only_then() {
        let one = |role: &str, days: i64| api::Certificate {
            name: "a".into(),
            role: role.into(),
            serial: "01".into(),
            until_ms: 0,
            seconds_left: days * DAY,
        };
        let state = |role, days| of_one(&one(role, days)).map(|finding| finding.state);
        assert_eq!(state("manager", 30), Some(State::Fine));
        assert_eq!(state("node", 30), None);
        assert_eq!(state("node", 3), Some(State::Degraded));
        assert_eq!(state("node", -1), Some(State::Broken));
        let nowhere = look("x", Path::new("/nowhere"), Expected::Manager);
        assert!(nowhere.state == State::Broken && nowhere.remedy.is_some_and(|text| text.contains("CA")));
    }
}
