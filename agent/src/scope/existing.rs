//! Who listened in a cgroup before the kernel programs were there to see it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Which program listens at which port, by file name, for all processes of a cgroup.
pub fn programs(cgroup: &Path) -> io::Result<Vec<(u16, String)>> {
    let mut found = Vec::new();
    for process in fs::read_to_string(cgroup.join("cgroup.procs"))?.lines() {
        let process = PathBuf::from("/proc").join(process);
        // Whatever ends meanwhile is left out.
        let Ok(program) = fs::read_link(process.join("exe")) else { continue };
        let Some(name) = program.file_name().and_then(|name| name.to_str()) else { continue };
        let sockets: BTreeSet<String> = fs::read_dir(process.join("fd"))
            .into_iter()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()?.to_str().map(str::to_owned))
            .collect();
        for table in ["net/tcp", "net/tcp6"] {
            let table = fs::read_to_string(process.join(table)).unwrap_or_default();
            let ports = table.lines().filter_map(listening_port);
            let own = ports.filter(|(_, inode)| sockets.contains(&format!("socket:[{inode}]")));
            found.extend(own.map(|(port, _)| (port, name.to_owned())));
        }
    }
    Ok(found)
}

/// The port and inode of a listening socket's line in `/proc/net/tcp`.
fn listening_port(line: &str) -> Option<(u16, &str)> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
    (state == LISTEN).then_some((port, fields.nth(5)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_socket_is_found_in_its_line() {
        let line = "   1: 0100007F:A3C9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1682228 1 0000000000000000 100 0 0 10 0";
        assert_eq!(listening_port(line), Some((0xa3c9, "1682228")));
        assert_eq!(listening_port(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(listening_port("  sl  local_address rem_address   st"), None);
    }
}
