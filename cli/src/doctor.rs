//! `patchbay doctor`: looks at this machine and at the Manager, and says of each thing that is not as it should be
//! what to do about it.

mod certificates;
mod files;
mod ports;
mod running;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use patchbay_api as api;
use serde::{Deserialize, Serialize};

use crate::client::{Client, Failure};
use crate::output::Output;
use running::Running;

/// What `--help` says of the exit code.
pub const HELP: &str = "Ends with 0 when nothing is broken, though something may be degraded, with 1 when something is. As root it \
                        sees more of this machine.\n\nExample:\n  patchbay doctor || patchbay --output json doctor > report.json";

/// The oldest kernel that agents run on.
const KERNEL: (u32, u32) = (6, 1);
/// Where agents and the Manager keep what they keep, unless told otherwise.
const STATE: &str = "/var/lib/patchbay";
/// Free space below which outputs and databases may soon stop, MiB: few, and next to none.
const FEW_MIB: u64 = 1_024;
const NO_MIB: u64 = 64;
/// Free inodes below which new files may soon fail.
const FEW_INODES: u64 = 10_000;
/// Descriptors that an agent or Manager of some size needs.
const DESCRIPTORS: u64 = 4_096;
/// Clocks that are further apart make times of logs and events hard to compare, milliseconds.
const APART_MS: u64 = 1_000;
/// Nodes without an agent that are shown one by one.
const MOST_AWAY: usize = 8;
/// Ports that the Manager gives to sockets, which nothing else should get by chance.
const SOCKET_PORTS: std::ops::RangeInclusive<u32> = 54_000..=55_556;

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Fine,
    /// It works, with less than it could.
    Degraded,
    /// It does not work.
    Broken,
}

/// What was looked at, how it is, and what to do.
#[derive(Debug, Serialize, Deserialize)]
struct Finding {
    what: String,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// Looks at everything; fails when something is broken.
pub fn run(client: &Client, output: Output) -> Result<ExitCode, Failure> {
    let mut findings = of_machine();
    findings.extend(of_manager(client));
    output.list(&findings, table)?;
    let is_broken = findings.iter().any(|finding| finding.state == State::Broken);
    Ok(if is_broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn table(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let state = match finding.state {
            State::Fine => "fine",
            State::Degraded => "DEGRADED",
            State::Broken => "BROKEN",
        };
        let _ = writeln!(text, "{state:<9} {:<22} {}", finding.what, finding.found);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "{:<9} {:<22} → {remedy}", "", "");
        }
    }
    let of = |state| findings.iter().filter(|finding| finding.state == state).count();
    let _ = write!(text, "\n{} broken, {} degraded", of(State::Broken), of(State::Degraded));
    text
}

fn finding(what: &str, state: State, found: impl Into<String>, remedy: &str) -> Finding {
    let remedy = (state != State::Fine).then(|| remedy.to_owned());
    Finding { what: what.into(), state, found: found.into(), remedy }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn of_machine() -> Vec<Finding> {
    let release = read("/proc/sys/kernel/osrelease");
    let state =
        if version(&release).is_some_and(|found| found >= KERNEL) { State::Fine } else { State::Broken };
    let mut findings = vec![finding(
        "node: kernel",
        state,
        release,
        &format!("agents need Linux {}.{} or later", KERNEL.0, KERNEL.1),
    )];
    let has_btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    let (state, found) = if has_btf { (State::Fine, "there") } else { (State::Degraded, "absent") };
    let remedy = "sessions stay on TCP: use a kernel built with CONFIG_DEBUG_INFO_BTF";
    findings.push(finding("node: BTF", state, found, remedy));
    findings.push(cgroup());
    let mounts = read("/proc/self/mounts");
    let bpf = mounts.lines().find(|line| line.split(' ').nth(2) == Some("bpf"));
    let (state, found) = match bpf {
        Some(line) => (State::Fine, line.split(' ').nth(1).unwrap_or_default().to_owned()),
        None => (State::Degraded, "not mounted".to_owned()),
    };
    findings.push(finding(
        "node: BPF file system",
        state,
        found,
        "an agent mounts one of its own; or `mount -t bpf bpf /sys/fs/bpf`",
    ));
    findings.push(reserved(&read("/proc/sys/net/ipv4/ip_local_reserved_ports")));
    findings.extend(ports::find());
    let (managers, agents) = (running::of("patchbay-manager"), running::of("patchbay-agent"));
    findings.extend(files::find(&managers, &agents));
    findings.extend(certificates::on_disk(&managers, &agents));
    findings.extend(places(&managers, &agents).iter().filter_map(|place| disk(place)));
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let state = if soft >= DESCRIPTORS { State::Fine } else { State::Degraded };
        let remedy = "LimitNOFILE= in the units of agent and Manager";
        findings.push(finding("node: descriptors", state, format!("{soft} of a process"), remedy));
    }
    findings
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

fn cgroup() -> Finding {
    let mounts = read("/proc/self/mounts");
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let Some(mount) = mount.and_then(|line| line.split(' ').nth(1)) else {
        return finding(
            "node: cgroup v2",
            State::Broken,
            "not mounted",
            "`mount -t cgroup2 none /sys/fs/cgroup`",
        );
    };
    let controllers = read(&format!("{mount}/cgroup.controllers"));
    let wanted = ["cpu", "memory", "pids"];
    let missing: Vec<&str> =
        wanted.into_iter().filter(|name| !controllers.split(' ').any(|known| known == *name)).collect();
    let (state, found) = match missing.is_empty() {
        true => (State::Fine, mount.to_owned()),
        false => (State::Degraded, format!("{mount}, without {}", missing.join(", "))),
    };
    let remedy =
        "limits of these are not applied: boot with cgroup_no_v1=all (systemd.unified_cgroup_hierarchy=1)";
    finding("node: cgroup v2", state, found, remedy)
}

/// Whether sockets' ports are kept from plugs that get theirs by chance.
fn reserved(list: &str) -> Finding {
    let ranges: Vec<(u32, u32)> = list
        .split(',')
        .filter_map(|range| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            Some((from.trim().parse().ok()?, to.trim().parse().ok()?))
        })
        .collect();
    let is_kept = |port: &u32| ranges.iter().any(|(from, to)| (from..=to).contains(&port));
    let state = if SOCKET_PORTS.clone().all(|port| is_kept(&port)) { State::Fine } else { State::Degraded };
    let found = if list.is_empty() { "none" } else { list };
    finding(
        "node: reserved ports",
        state,
        found,
        "an agent reserves 54000-55556 when it starts (net.ipv4.ip_local_reserved_ports)",
    )
}

/// Where Manager and agents of this machine write.
fn places(managers: &[Running], agents: &[Running]) -> Vec<PathBuf> {
    let databases = managers.iter().filter_map(|manager| Some(manager.path("--database")?.parent()?.into()));
    let states = agents.iter().filter_map(|agent| agent.path("--state-dir"));
    let mut places: Vec<PathBuf> = databases.chain(states).chain([STATE.into()]).collect();
    places.sort();
    places.dedup();
    places
}

fn disk(place: &Path) -> Option<Finding> {
    let place = place.ancestors().find(|path| path.exists())?;
    let about = statvfs(place).ok()?;
    let mib = about.blocks_available() * about.fragment_size() / (1 << 20);
    let (inodes, all) = (about.files_available(), about.files());
    // Some file systems count no inodes.
    let few_inodes = all > 0 && inodes < FEW_INODES;
    let state = match mib {
        _ if mib < NO_MIB || (all > 0 && inodes == 0) => State::Broken,
        _ if mib < FEW_MIB || few_inodes => State::Degraded,
        _ => State::Fine,
    };
    let found = format!("{mib} MiB and {inodes} inodes free at {}", place.display());
    Some(finding("node: disk", state, found, "make room: outputs and the database stop when it is full"))
}

fn of_manager(client: &Client) -> Vec<Finding> {
    let status = match client.get::<api::ManagerStatus>("/v1/status") {
        Ok(status) => status,
        Err(failure) => {
            // What it says has the remedy in it.
            return vec![finding(
                "Manager",
                State::Broken,
                failure.to_string().replace('\n', " "),
                "see its log",
            )];
        }
    };
    let own = env!("CARGO_PKG_VERSION");
    let state = if status.version == own { State::Fine } else { State::Degraded };
    let mut findings = vec![finding(
        "Manager",
        state,
        format!("{}, its database can be written, {} open sessions", status.version, status.sessions),
        &format!("this command is of version {own}: use one of the Manager's"),
    )];
    findings.extend(clocks(&status, now_ms()));
    match client.get::<Vec<api::Node>>("/v1/nodes") {
        Ok(nodes) if nodes.is_empty() => {
            let remedy = "start an agent: `patchbay-agent run --manager HOST:55555 …`";
            findings.push(finding("Manager: nodes", State::Degraded, "none has registered", remedy));
        }
        Ok(nodes) => findings.extend(of_nodes(&nodes, &status)),
        Err(failure) => {
            findings.push(finding("Manager: nodes", State::Broken, failure.to_string(), "see its log"))
        }
    }
    findings.extend(certificates::of_manager(client));
    match client.get::<Vec<api::App>>("/v1/apps") {
        Ok(apps) => findings.extend(apps.iter().map(of_app)),
        Err(failure) => {
            findings.push(finding("Manager: apps", State::Broken, failure.to_string(), "see its log"))
        }
    }
    findings
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The Manager's clock, and this machine's against it.
fn clocks(status: &api::ManagerStatus, here_ms: u64) -> [Finding; 2] {
    let set = status.clock_set_ms;
    let (state, found) = match set.unsigned_abs() > APART_MS {
        false => (State::Fine, "goes on as at its start".to_owned()),
        true => (State::Degraded, format!("was set by {} since its start", seconds(set))),
    };
    let remedy = "the times it tells are off by that: start it again, instances and sessions go on";
    let own = finding("Manager: clock", state, found, remedy);
    let there = status.time_ms.saturating_add_signed(set);
    let apart = here_ms.cast_signed() - there.cast_signed();
    let state = if apart.unsigned_abs() > APART_MS { State::Degraded } else { State::Fine };
    let found = format!("{} against the Manager's", seconds(apart));
    [own, finding("node: clock", state, found, SYNCHRONISE)]
}

const SYNCHRONISE: &str = "have both machines' clocks set by the network (chrony, systemd-timesyncd)";

/// A difference of clocks, for people.
fn seconds(ms: i64) -> String {
    format!("{:+.1} s", ms as f64 / 1_000.0)
}

fn of_nodes(nodes: &[api::Node], manager: &api::ManagerStatus) -> Vec<Finding> {
    let (up, away): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.state == "up");
    let shown = up.iter().chain(away.iter().take(MOST_AWAY));
    let mut findings: Vec<Finding> = shown.map(|node| of_node(node, manager)).collect();
    if away.len() > MOST_AWAY {
        let found = format!("{} further nodes are lost or have ended", away.len() - MOST_AWAY);
        findings.push(finding("nodes", State::Broken, found, "`patchbay nodes` lists them"));
    }
    findings
}

fn of_node(node: &api::Node, manager: &api::ManagerStatus) -> Finding {
    let what = format!("node {}", node.name);
    if node.state != "up" {
        let remedy = "start its agent, or `patchbay forget` it when it is gone for good";
        // An end that somebody asked for is no fault.
        let state = if node.state == "lost" { State::Broken } else { State::Degraded };
        return finding(&what, state, node.state.clone(), remedy);
    }
    let apart = node.clock_ahead_ms.map_or(0, |ahead| ahead - manager.clock_set_ms);
    if apart.unsigned_abs() > APART_MS {
        let found = format!("its clock is {} against the Manager's", seconds(apart));
        return finding(&what, State::Degraded, found, SYNCHRONISE);
    }
    if !node.version.is_empty() && node.version != manager.version {
        let found = format!("its agent is {}, the Manager {}", node.version, manager.version);
        let remedy = "start the Manager's version of it with `run --take-over`: instances and sessions go on";
        return finding(&what, State::Degraded, found, remedy);
    }
    let (state, found) = match node.redirection.as_str() {
        "kernel" => (State::Fine, format!("{}, redirects", node.state)),
        reason => (State::Degraded, format!("{}, sessions stay on TCP: {reason}", node.state)),
    };
    finding(&what, state, found, "its agent's log and `patchbay-agent probe` say more")
}

fn of_app(app: &api::App) -> Finding {
    let problems: Vec<String> = app
        .services
        .iter()
        .filter_map(|service| Some(format!("{}: {}", service.name, service.problem.as_ref()?)))
        .collect();
    let state = match app.state.as_str() {
        "degraded" => State::Broken,
        _ => State::Fine,
    };
    let found = [app.state.clone()].into_iter().chain(problems).collect::<Vec<_>>().join("; ");
    finding(
        &format!("app {}", app.name),
        state,
        found,
        "`patchbay instances --ended` and `patchbay events` say why",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart_by_their_numbers() {
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("5.10.0"), Some((5, 10)));
        assert!(version("6.1").is_some_and(|found| found >= KERNEL));
        assert_eq!(version(""), None);
    }

    #[test]
    fn reserved_ports_may_be_in_several_ranges() {
        assert_eq!(reserved("54000-55556").state, State::Fine);
        assert_eq!(reserved("22,54000-54999,55000-56000").state, State::Fine);
        assert_eq!(reserved("54000-55000").state, State::Degraded);
        assert_eq!(reserved("").state, State::Degraded);
    }

    fn status() -> api::ManagerStatus {
        api::ManagerStatus {
            version: "1.0.0".into(),
            nodes: 1,
            apps: 0,
            instances: 0,
            sessions: 0,
            time_ms: 1_000_000,
            clock_set_ms: 0,
        }
    }

    #[test]
    fn clocks_that_are_apart_are_told_whoever_s_was_set() {
        let states = |set: i64, here: u64| {
            clocks(&api::ManagerStatus { clock_set_ms: set, ..status() }, here).map(|finding| finding.state)
        };
        assert_eq!(states(0, 1_000_500), [State::Fine, State::Fine]);
        assert_eq!(states(0, 1_005_000), [State::Fine, State::Degraded]);
        assert_eq!(states(-5_000, 995_000), [State::Degraded, State::Fine], "both machines' were set");
    }

    #[test]
    fn what_is_not_fine_has_a_remedy() {
        let node = |state: &str, redirection: &str| api::Node {
            name: "a".into(),
            address: "10.0.0.1".into(),
            state: state.into(),
            draining: false,
            healthy_ms: 0,
            services: Vec::new(),
            instances: 0,
            redirection: redirection.into(),
            since_ms: 0,
            version: "1.0.0".into(),
            clock_ahead_ms: Some(0),
        };
        let manager = status();
        assert_eq!(of_node(&node("up", "kernel"), &manager).state, State::Fine);
        let findings = [of_node(&node("lost", "kernel"), &manager), of_node(&node("up", "no BTF"), &manager)];
        assert_eq!(findings.each_ref().map(|finding| finding.state), [State::Broken, State::Degraded]);
        let many: Vec<_> = (0..100).map(|_| node("lost", "kernel")).chain([node("up", "kernel")]).collect();
        let found = of_nodes(&many, &manager);
        assert_eq!((found.len(), found[0].state), (2 + MOST_AWAY, State::Fine), "{found:?}");
        assert!(found[1 + MOST_AWAY].found.starts_with("92 further"), "{found:?}");
        assert_eq!(of_node(&node("ended", "kernel"), &manager).state, State::Degraded);
        let apart = api::Node { clock_ahead_ms: Some(-90_000), ..node("up", "kernel") };
        let old = api::Node { version: "0.9.0".into(), ..node("up", "kernel") };
        for (node, said) in [(apart, "-90.0 s"), (old, "0.9.0")] {
            let found = of_node(&node, &manager);
            assert!(found.state == State::Degraded && found.found.contains(said), "{found:?}");
        }
        let text = table(&findings);
        assert!(text.matches('→').count() == 2 && text.contains("1 broken, 1 degraded"), "{text}");
    }
}
