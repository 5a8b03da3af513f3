//! Processes that nobody knows any more.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::{Cluster, network};

impl Cluster {
    /// Processes of a node that runs no agent: in its cgroups, or in its network from wherever. For people.
    pub fn left_on(&self, node: usize) -> Vec<String> {
        let name = &self.plan.nodes[node].0;
        let namespace = Path::new("/run/netns").join(network::namespace(&self.plan, name));
        let network = fs::metadata(namespace).map(|found| (found.dev(), found.ino())).ok();
        let below = format!("{}/{name}", self.plan.name);
        let mut left = Vec::new();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let at = process.path();
            if !process.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            let its = fs::metadata(at.join("ns/net")).map(|found| (found.dev(), found.ino())).ok();
            let cgroup = fs::read_to_string(at.join("cgroup")).unwrap_or_default();
            if (network.is_some() && its == network) || is_in(&cgroup, &below) {
                let command = fs::read(at.join("cmdline")).unwrap_or_default();
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                // What has just ended has none.
                if !command.is_empty() {
                    left.push(format!(
                        "{name}: process {}, {command}",
                        process.file_name().to_string_lossy()
                    ));
                }
            }
        }
        left
    }
}

/// Whether a process whose `/proc/ID/cgroup` is this is in a cgroup or below.
fn is_in(text: &str, cgroup: &str) -> bool {
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let rest = own.and_then(|own| own.strip_prefix(cgroup));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_of_a_node_by_its_cgroup_and_those_below() {
        for inside in ["0::/plan/a\n", "0::/plan/a/instances/x-1\n", "1:cpu:/\n0::/plan/a/outputs\n"] {
            assert!(is_in(inside, "plan/a"), "{inside}");
        }
        for outside in ["0::/plan/ab\n", "0::/plan/control\n", "0::/other/plan/a\n", ""] {
            assert!(!is_in(outside, "plan/a"), "{outside}");
        }
    }
}
