//! The ports of sockets, of the Manager and of the agent are kept from plugs: the range lies inside Linux's
//! ephemeral range, from which the kernel gives a connecting plug its port.
//!
//! They stay reserved when the agent ends: its instances may go on, and a port that was assigned explicitly
//! can be bound all the same. The setting is the network namespace's, and ends with it.

use std::ops::RangeInclusive;
use std::path::Path;

use ssmmp::{AGENT_PORT, SOCKET_PORTS};

/// The kernel's list (Documentation/networking/ip-sysctl.rst), of the reader's network namespace; it holds
/// for IPv6 too.
const FILE: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// From the first socket's port to the agent's, which follows the Manager's.
const OURS: RangeInclusive<u16> = *SOCKET_PORTS.start()..=AGENT_PORT;

/// Adds our ports to those that are reserved already.
///
/// # Errors
/// The kernel's list can't be read or written; a plug may then take a socket's port by chance, and the
/// instance that is given this port fails to listen.
pub fn reserve() -> std::io::Result<()> {
    reserve_in(Path::new(FILE))
}

fn reserve_in(file: &Path) -> std::io::Result<()> {
    match with_ours(&std::fs::read_to_string(file)?) {
        Some(list) => std::fs::write(file, list),
        None => Ok(()),
    }
}

/// The list with our ports, if it lacks any.
fn with_ours(list: &str) -> Option<String> {
    let ranges: Vec<RangeInclusive<u16>> = list.trim().split(',').filter_map(range).collect();
    if OURS.clone().all(|port| ranges.iter().any(|range| range.contains(&port))) {
        return None;
    }
    let ours = format!("{}-{}", OURS.start(), OURS.end());
    // The kernel joins what overlaps.
    Some(if list.trim().is_empty() { ours } else { format!("{},{ours}", list.trim()) })
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    match text.split_once('-') {
        Some((first, last)) => Some(first.parse().ok()?..=last.parse().ok()?),
        None => text.parse().ok().map(|port| port..=port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_reserved_stays() {
        assert_eq!(with_ours("\n").as_deref(), Some("54000-55556"));
        assert_eq!(with_ours("8080,9000-9100\n").as_deref(), Some("8080,9000-9100,54000-55556"));
        assert_eq!(with_ours("54000-55000\n").as_deref(), Some("54000-55000,54000-55556"));
    }

    #[test]
    fn what_is_reserved_is_left_alone_in_whatever_form() {
        for list in ["54000-55556", "80,53000-60000\n", "54000-54999,55000-55556"] {
            assert_eq!(with_ours(list), None, "{list}");
        }
    }

    #[test]
    fn a_list_that_cannot_be_written_is_an_error() {
        assert!(reserve_in(Path::new("/nonexistent/list")).is_err());
    }
}
