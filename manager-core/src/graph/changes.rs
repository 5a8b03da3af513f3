//! What differs between two graphs of an application.

use std::collections::BTreeMap;

use patchbay_api::{Action, Change};

use super::policy::Policy;
use super::{Graph, Service, State, Target};

impl Graph {
    /// What differs from an earlier graph of the same application, services first. `usual` is the policy
    /// where neither graph says anything.
    pub fn changes_since(&self, earlier: Option<&Self>, usual: &Policy) -> Vec<Change> {
        let empty = BTreeMap::new();
        let before = earlier.map_or(&empty, |graph| &graph.services);
        let mut changes = compare(before, &self.services, "service", Service::describe, |old, new| {
            new.changes_since(old, usual)
        });
        changes.extend(compare(
            &connections(before),
            &connections(&self.services),
            "connection",
            describe,
            retargeted,
        ));
        changes
    }
}

/// What was added to, changed in and removed from a map.
fn compare<T>(
    before: &BTreeMap<String, T>,
    now: &BTreeMap<String, T>,
    what: &str,
    describe: impl Fn(&T) -> String,
    differences: impl Fn(&T, &T) -> Vec<String>,
) -> Vec<Change> {
    let change = |action, name: &str, detail| Change { action, subject: format!("{what} {name}"), detail };
    let mut changes: Vec<Change> = now
        .iter()
        .filter_map(|(name, new)| match before.get(name) {
            None => Some(change(Action::Add, name, describe(new))),
            Some(old) => {
                let differences = differences(old, new);
                (!differences.is_empty()).then(|| change(Action::Change, name, differences.join(", ")))
            }
        })
        .collect();
    let gone = before.iter().filter(|(name, _)| !now.contains_key(*name));
    changes.extend(gone.map(|(name, old)| change(Action::Remove, name, describe(old))));
    changes
}

/// Abstract connections by their plug.
fn connections(services: &BTreeMap<String, Service>) -> BTreeMap<String, &Target> {
    services
        .iter()
        .flat_map(|(name, service)| {
            service.plugs.iter().map(move |(plug, target)| (format!("{name}.{plug}"), target))
        })
        .collect()
}

fn describe(target: &&Target) -> String {
    let balance = target.balance.map(|balance| format!(", balance {}", balance.as_str())).unwrap_or_default();
    let allowed = target.allowances();
    let allow = if allowed.is_empty() { String::new() } else { format!(", allow {allowed}") };
    let memory = if target.memory { "" } else { ", no memory" };
    let redirect = target.redirect.as_str();
    format!("→ {}.{}, redirect {redirect}{memory}{allow}{balance}", target.service, target.socket)
}

fn retargeted(old: &&Target, new: &&Target) -> Vec<String> {
    if old == new { Vec::new() } else { vec![format!("{} (was {})", describe(new), describe(old))] }
}

impl Service {
    fn describe(&self) -> String {
        format!("{}, {} to {} replicas", self.kind.as_str(), self.fewest(), self.most)
    }

    fn changes_since(&self, old: &Self, usual: &Policy) -> Vec<String> {
        let mut before = vec![
            ("kind", old.kind.as_str().to_owned()),
            ("program", old.program.clone()),
            ("replicas", format!("{} to {}", old.fewest(), old.most)),
            ("state", old.state.as_str().to_owned()),
        ];
        before.extend(usual.with(&old.policy).settings());
        let mut now = vec![
            ("kind", self.kind.as_str().to_owned()),
            ("program", self.program.clone()),
            ("replicas", format!("{} to {}", self.fewest(), self.most)),
            ("state", self.state.as_str().to_owned()),
        ];
        now.extend(usual.with(&self.policy).settings());
        let mut differences: Vec<String> = before
            .iter()
            .zip(&now)
            .filter(|((_, old), (_, new))| old != new)
            .map(|((name, old), (_, new))| format!("{name} {new} (was {old})"))
            .collect();
        if self.sockets != old.sockets {
            differences.push(format!("sockets {} (were {})", sockets(self), sockets(old)));
        }
        differences
    }
}

fn sockets(service: &Service) -> String {
    let sockets = service.sockets.iter().map(|(name, socket)| match socket.port {
        Some(port) => format!("{name}:{port} ({})", socket.protocol),
        None => format!("{name} ({})", socket.protocol),
    });
    sockets.collect::<Vec<_>>().join(" ")
}

impl State {
    /// The word in the graph file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Shared => "shared",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"app = "t"
[service.gate]
kind = "gateway"
sockets.http = { protocol = "http", port = 8080 }
plugs.back = { protocol = "p" }
[service.store]
kind = "baas"
sockets.api = { protocol = "p" }
[[connection]]
from = "gate.back"
to = "store.api"
"#;

    /// Replaces a piece of the graph and expects exactly these changes, as `action subject: detail`.
    #[track_caller]
    fn check(replace: &str, with: &str, expected: &[&str]) {
        let (before, _) = Graph::read(BEFORE).expect("good");
        let (now, _) = Graph::read(&BEFORE.replacen(replace, with, 1)).expect("good");
        let found: Vec<String> = now
            .changes_since(Some(&before), &Policy::default())
            .iter()
            .map(|change| format!("{:?} {}: {}", change.action, change.subject, change.detail))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn every_difference_is_said_with_what_it_was() {
        check("8080", "8080", &[]);
        check(
            "kind = \"baas\"",
            "kind = \"baas\"\nprogram = \"store-2\"\npolicy.idle = \"never\"",
            &["Change service store: program store-2 (was store), idle never (was 10m)"],
        );
        check(
            "8080 }",
            "8081 }\nreplicas = { max = 3 }",
            &[
                "Change service gate: replicas 1 to 3 (was 1 to 1), sockets http:8081 (http) (were http:8080 (http))",
            ],
        );
        check(
            "to = \"store.api\"",
            "to = \"store.api\"\nredirect = \"never\"\nbalance = \"two-choices\"",
            &[
                "Change connection gate.back: → store.api, redirect never, balance two-choices (was → store.api, redirect auto)",
            ],
        );
        check(
            "to = \"store.api\"",
            "to = \"store.api\"\nallow = [\"splice\"]",
            &[
                "Change connection gate.back: → store.api, redirect auto, allow splice (was → store.api, redirect auto)",
            ],
        );
        check(
            "app = \"t\"",
            "app = \"t\"\npolicy.stop_within = \"1m\"",
            &[
                "Change service gate: stop_within 1m (was 10s)",
                "Change service store: stop_within 1m (was 10s)",
            ],
        );
    }

    #[test]
    fn a_new_application_is_all_added() {
        let (graph, _) = Graph::read(BEFORE).expect("good");
        let changes = graph.changes_since(None, &Policy::default());
        let subjects: Vec<&str> = changes.iter().map(|change| change.subject.as_str()).collect();
        assert_eq!(subjects, ["service gate", "service store", "connection gate.back"]);
        assert!(changes.iter().all(|change| change.action == Action::Add));
    }
}
