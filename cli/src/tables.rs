//! How people see the Manager's answers.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comfy_table::{ContentArrangement, Table, presets};
use patchbay_api as api;

use crate::graph;

pub fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    let before = table.row_count();
    for row in rows {
        table.add_row(row);
    }
    if table.row_count() == before {
        return "(none)".into();
    }
    table.to_string().lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

pub fn planned(plan: &api::Plan, file: &Path) -> String {
    let warnings = graph::warnings(plan, file);
    if plan.changes.is_empty() && plan.steps.is_empty() {
        return format!("{} is so already; nothing would change{warnings}", plan.app);
    }
    format!("{} would change:\n{}{warnings}{}", plan.app, changes(plan), graph::next_step(plan, file))
}

pub fn applied(plan: &api::Plan, file: &Path) -> String {
    let warnings = graph::warnings(plan, file);
    if plan.changes.is_empty() && plan.steps.is_empty() {
        return format!("{} was so already; nothing changed{warnings}", plan.app);
    }
    format!("{} applied:\n{}{warnings}", plan.app, changes(plan))
}

fn changes(plan: &api::Plan) -> String {
    let lines = plan.changes.iter().map(|change| {
        let sign = match change.action {
            api::Action::Add => '+',
            api::Action::Change => '~',
            api::Action::Remove => '-',
        };
        format!("  {sign} {}: {}", change.subject, change.detail)
    });
    let steps = plan.steps.iter().map(|step| format!("  {step}"));
    let mut lines: Vec<String> = lines.collect();
    if !plan.steps.is_empty() {
        lines.push("then:".into());
        lines.extend(steps);
    }
    lines.join("\n")
}

pub fn apps(apps: &[api::App]) -> String {
    let rows = apps.iter().flat_map(|app| {
        app.services.iter().map(|service| {
            vec![
                app.name.clone(),
                app.state.clone(),
                service.name.clone(),
                service.kind.clone(),
                match service.scaled {
                    Some(scaled) => format!("{} of {scaled} (scaled)", service.running),
                    None => format!("{} of {}..{}", service.running, service.replicas.0, service.replicas.1),
                },
                service.program.clone(),
                problem(service),
            ]
        })
    });
    table(&["APP", "STATE", "SERVICE", "KIND", "RUNNING", "PROGRAM", "PROBLEM"], rows)
}

/// Why a service does not run, and when it is tried again.
pub fn problem(service: &api::Service) -> String {
    let problem = service.problem.clone().unwrap_or_default();
    match service.retry_ms.filter(|at| *at > now()) {
        Some(at) => {
            format!("{problem}; next try in {}", lasted(now(), Some(at))).trim_start_matches("; ").to_owned()
        }
        None => problem,
    }
}

pub fn nodes(nodes: &[api::Node]) -> String {
    let rows = nodes.iter().map(|node| {
        vec![
            node.name.clone(),
            node.address.clone(),
            format!("{}{} {}", node.state, if node.draining { ", draining" } else { "" }, age(node.since_ms)),
            node.instances.to_string(),
            node.redirection.clone(),
            node.services.join(" "),
        ]
    });
    table(&["NODE", "ADDRESS", "STATE", "INSTANCES", "REDIRECTION", "SERVICES"], rows)
}

pub fn instances(instances: &[api::Instance]) -> String {
    let rows = instances.iter().map(|instance| {
        let ports: Vec<String> =
            instance.sockets.iter().map(|(name, port)| format!("{name}:{port}")).collect();
        let mut note = instance.reason.clone().or_else(|| instance.leaving.clone()).unwrap_or_default();
        if instance.overloaded {
            note = format!("overloaded {note}").trim_end().to_owned();
        }
        if let Some(unlimited) = &instance.unlimited {
            note = [note.as_str(), unlimited].join("; ").trim_start_matches("; ").to_owned();
        }
        for line in &instance.output {
            note.push_str(&format!("\n| {line}"));
        }
        vec![
            instance.id.to_string(),
            format!("{}/{}", instance.app, instance.service),
            instance.node.clone(),
            instance.state.clone(),
            ports.join(" "),
            instance.sessions.to_string(),
            lasted(instance.created_ms, instance.ended_ms),
            note,
        ]
    });
    table(&["ID", "SERVICE", "NODE", "STATE", "SOCKETS", "SESSIONS", "AGE", "NOTE"], rows)
}

pub fn sessions(sessions: &[api::Session]) -> String {
    table(&SESSIONS, sessions.iter().map(session_row))
}

/// With what each carried in a second since it was shown last.
pub fn session_rates(sessions: &[api::Session], rates: &HashMap<u64, f64>) -> String {
    let rows = sessions.iter().map(|session| {
        let mut row = session_row(session);
        row.push(
            rates.get(&session.id).map_or_else(|| "-".into(), |rate| format!("{}/s", bytes(*rate as u64))),
        );
        row
    });
    table(&[&SESSIONS[..], &["RATE"]].concat(), rows)
}

const SESSIONS: [&str; 10] =
    ["ID", "SOURCE.PLUG", "DESTINATION.SOCKET", "NODES", "PATH", "MEMORY", "KERNEL", "TCP", "STATE", "AGE"];

fn session_row(session: &api::Session) -> Vec<String> {
    let end = |end: &api::End| format!("{}/{}.{}", end.service, end.instance, end.name);
    let path = match &session.reason {
        Some(reason) => format!("{} ({reason})", session.path),
        None => session.path.clone(),
    };
    let memory = session.sent.memory_bytes + session.received.memory_bytes;
    let kernel = session.sent.kernel_bytes + session.received.kernel_bytes;
    let tcp = session.sent.tcp_bytes + session.received.tcp_bytes;
    vec![
        session.id.to_string(),
        end(&session.source),
        end(&session.destination),
        format!("{} → {}", session.source.node, session.destination.node),
        path,
        bytes(memory),
        bytes(kernel),
        bytes(tcp),
        session.state.clone(),
        lasted(session.opened_ms, session.closed_ms),
    ]
}

/// Two lines for each session, one for each direction.
pub fn session_details(sessions: &[api::Session]) -> String {
    let rows = sessions.iter().flat_map(|session| {
        let end = |end: &api::End| format!("{}/{}.{}", end.service, end.instance, end.name);
        let (source, destination) = (end(&session.source), end(&session.destination));
        let ends = [format!("{source} → {destination}"), format!("{destination} → {source}")];
        let details = session.details.as_ref();
        let last = details.and_then(|details| details.last_activity_ms);
        std::array::from_fn::<_, 2, _>(|way| {
            let traffic = [session.sent, session.received][way];
            let of = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
            vec![
                if way == 0 { session.id.to_string() } else { String::new() },
                ends[way].clone(),
                details.map_or_else(|| "-".to_owned(), |details| details.paths[way].clone()),
                format!("{} in {}", bytes(traffic.memory_bytes), traffic.memory_messages),
                format!("{} in {}", bytes(traffic.kernel_bytes), traffic.kernel_messages),
                format!("{} in {}", bytes(traffic.tcp_bytes), traffic.tcp_messages),
                of(details.map(|details| details.switches[way])),
                details.map_or_else(|| "-".into(), |details| bytes(details.in_flight_bytes[way].into())),
                if way == 0 { lasted(session.opened_ms, session.closed_ms) } else { String::new() },
                if way == 0 { last.map_or_else(|| "-".to_owned(), age) } else { String::new() },
            ]
        })
    });
    table(
        &[
            "ID",
            "DIRECTION",
            "LATEST PATH",
            "MEMORY",
            "KERNEL",
            "TCP",
            "SWITCHES",
            "IN FLIGHT",
            "AGE",
            "QUIET FOR",
        ],
        rows,
    )
}

pub fn done(done: &api::Done) -> String {
    format!("begun: {}", done.text)
}

pub fn status(status: &api::ManagerStatus) -> String {
    let api::ManagerStatus { version, nodes, apps, instances, sessions, .. } = status;
    format!("Manager {version}: {apps} apps, {nodes} nodes, {instances} instances, {sessions} open sessions")
}

/// Above events.
pub const EVENTS: &str = "NUMBER  TIME (UTC)                KIND               SUBJECT: WHAT HAPPENED";

pub fn event(event: &api::Event) -> String {
    format!(
        "{:>6}  {}  {:<17}  {}: {}",
        event.sequence,
        moment(event.at_ms),
        event.kind,
        event.subject,
        event.text
    )
}

/// A point in time, UTC.
pub fn moment(at_ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at_ms)).to_string()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Time since then, short.
fn age(then_ms: u64) -> String {
    lasted(then_ms, None)
}

/// Time from then until the end, or until now for what goes on, short.
fn lasted(then_ms: u64, end_ms: Option<u64>) -> String {
    match end_ms.unwrap_or_else(now).saturating_sub(then_ms) / 1000 {
        seconds @ 0..=119 => format!("{seconds}s"),
        seconds @ 120..=7199 => format!("{}m", seconds / 60),
        seconds @ 7200..=172_799 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_readable() {
        assert_eq!((bytes(0).as_str(), bytes(1023).as_str()), ("0 B", "1023 B"));
        assert_eq!((bytes(1536).as_str(), bytes(64 << 20).as_str()), ("1.5 KiB", "64.0 MiB"));
    }

    #[test]
    fn what_has_ended_grows_no_older() {
        assert_eq!(lasted(1_000, Some(8_000)), "7s");
        assert_eq!(lasted(0, Some(3 * 3_600_000)), "3h");
    }

    #[test]
    fn a_limit_that_is_not_applied_stands_beside_its_instance() {
        let instance = serde_json::json!({
            "id": 7, "app": "shop", "service": "store", "node": "a", "state": "running", "sockets": [],
            "sessions": 0, "restarts": 0, "created_ms": 1, "overloaded": true, "unlimited": "limit not applied",
        });
        let instance: api::Instance = serde_json::from_value(instance).expect("an instance");
        assert!(instances(&[instance]).trim_end().ends_with("overloaded; limit not applied"));
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(nodes(&[]), "(none)");
    }
}
