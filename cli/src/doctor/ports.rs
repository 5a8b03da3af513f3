//! Ports that Manager, agents and sockets need, and who else listens there.

use std::collections::BTreeMap;
use std::fs;

use super::{Finding, SOCKET_PORTS, State, finding, read};

/// Where agents reach the Manager, and instances their agent, unless told otherwise; with the program that may.
const OWN: [(u16, &str, &str); 2] = [
    (
        55_555,
        "patchbay-manager",
        "end it, or choose another with the Manager's --listen-agents and the agents' --manager",
    ),
    (55_556, "patchbay-agent", "end it, or choose another with the agent's --listen"),
];

/// A process that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listener {
    process: u32,
    name: String,
    is_instance: bool,
}

pub fn find() -> Vec<Finding> {
    let mut sockets = listening(&read("/proc/net/tcp"));
    sockets.extend(listening(&read("/proc/net/tcp6")));
    let holders = holders(&sockets);
    judge(&sockets, &holders)
}

/// Ports in LISTEN of a table of TCP sockets (proc_net_tcp(5)), and the sockets' inodes.
fn listening(table: &str) -> Vec<(u16, u64)> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = words.get(1)?.rsplit_once(':')?.1;
        (*words.get(3)? == "0A").then_some(())?;
        Some((u16::from_str_radix(port, 16).ok()?, words.get(9)?.parse().ok()?))
    };
    table.lines().filter_map(row).collect()
}

/// Who has these sockets; others' processes show theirs to root only.
fn holders(sockets: &[(u16, u64)]) -> BTreeMap<u64, Listener> {
    let mut found = BTreeMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        for descriptor in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let inode = target.to_string_lossy();
            let inode = inode.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse().ok());
            let Some(inode) = inode.filter(|inode| sockets.iter().any(|(_, own)| own == inode)) else {
                continue;
            };
            let of = |file: &str| {
                let text = fs::read_to_string(process.path().join(file)).unwrap_or_default();
                text.trim().to_owned()
            };
            let is_instance = of("cgroup").contains("/instances/");
            found.entry(inode).or_insert(Listener { process: id, name: of("comm"), is_instance });
        }
    }
    found
}

fn judge(sockets: &[(u16, u64)], holders: &BTreeMap<u64, Listener>) -> Vec<Finding> {
    let on = |port: u16| sockets.iter().filter(move |(at, _)| *at == port).map(|(_, inode)| *inode);
    let mut findings: Vec<Finding> = OWN
        .iter()
        .map(|(port, program, remedy)| {
            let what = format!("node: port {port}");
            let Some(inode) = on(*port).next() else {
                return finding(&what, State::Fine, format!("free for {program}"), remedy);
            };
            match holders.get(&inode) {
                Some(holder) if program.starts_with(&holder.name) => {
                    let found = format!("{program}, process {}", holder.process);
                    finding(&what, State::Fine, found, remedy)
                }
                Some(holder) => {
                    let found = format!(
                        "{program} needs it, and {}, process {}, listens there",
                        holder.name, holder.process
                    );
                    finding(&what, State::Broken, found, remedy)
                }
                None => finding(&what, State::Fine, "somebody listens; root sees who", remedy),
            }
        })
        .collect();
    let strangers: Vec<String> = sockets
        .iter()
        .filter(|(port, _)| SOCKET_PORTS.contains(&u32::from(*port)) && OWN.iter().all(|own| own.0 != *port))
        .filter_map(|(port, inode)| Some((port, holders.get(inode)?)))
        .filter(|(_, holder)| !holder.is_instance)
        .map(|(port, holder)| format!("{port} by {}, process {}", holder.name, holder.process))
        .collect();
    let (state, found) = match strangers.is_empty() {
        true => (State::Fine, "no other program listens at one".to_owned()),
        false => (State::Degraded, format!("taken: {}", strangers.join("; "))),
    };
    let remedy = "an instance that is given such a port can't listen: move these programs to other ports";
    findings.push(finding("node: sockets' ports", state, found, remedy));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_with_who_has_it() {
        let table =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:D903 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7001 1 0
   1: 0100007F:D904 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7002 1 0
   2: 0100007F:D2F0 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7003 1 0
   3: 0100007F:D2F1 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7004 1 0
   4: 0100007F:D2F2 0100007F:D903 01 00000000:00000000 00:00000000 00000000     0        0 7005 1 0";
        let sockets = listening(table);
        assert_eq!(sockets, [(55_555, 7_001), (55_556, 7_002), (54_000, 7_003), (54_001, 7_004)]);
        let listener =
            |process, name: &str, is_instance| Listener { process, name: name.into(), is_instance };
        let holders = BTreeMap::from([
            (7_001, listener(11, "patchbay-manage", false)),
            (7_002, listener(12, "nc", false)),
            (7_003, listener(13, "redis-server", true)),
            (7_004, listener(14, "python3", false)),
        ]);
        let found = judge(&sockets, &holders);
        assert_eq!(
            found.iter().map(|finding| finding.state).collect::<Vec<_>>(),
            [State::Fine, State::Broken, State::Degraded]
        );
        assert!(found[1].found.contains("nc, process 12"), "{found:?}");
        assert!(
            found[2].found.contains("54001 by python3") && !found[2].found.contains("54000"),
            "{found:?}"
        );
    }

    #[test]
    fn this_process_is_seen_listening() {
        let own = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = own.local_addr().expect("bound").port();
        let sockets = listening(&read("/proc/net/tcp"));
        let inode = sockets.iter().find(|(at, _)| *at == port).expect("it listens").1;
        assert_eq!(holders(&sockets)[&inode].process, std::process::id());
    }
}
