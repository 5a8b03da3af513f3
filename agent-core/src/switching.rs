//! What people have the Manager switch (`x_redirect`, docs/protocol.md).

use ssmmp::{InstanceId, Port};

/// Further messages of some sessions go over TCP, or through the kernel again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switching {
    /// Through the kernel.
    pub on: bool,
    /// The sessions, by their sources and the sources' ports (m); all of the node, also later ones, if absent.
    pub sessions: Option<Vec<(InstanceId, Port)>>,
}

impl Switching {
    /// Reads `off, node`, or `on, source instance, m & source instance, m`. What makes no sense is nothing.
    pub fn read(line: &str) -> Option<Self> {
        let (way, what) = line.split_once(',')?;
        let on = match way.trim() {
            "on" => true,
            "off" => false,
            _ => return None,
        };
        if what.trim() == "node" {
            return Some(Self { on, sessions: None });
        }
        let session = |item: &str| {
            let (id, port) = item.split_once(',')?;
            Some((InstanceId(id.trim().parse().ok()?), Port(port.trim().parse().ok()?)))
        };
        let sessions: Option<Vec<_>> = what.split('&').map(session).collect();
        Some(Self { on, sessions: Some(sessions?) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_read() {
        assert_eq!(Switching::read("off, node"), Some(Switching { on: false, sessions: None }));
        let sessions = Some(vec![(InstanceId(7), Port(40_122)), (InstanceId(8), Port(1))]);
        assert_eq!(Switching::read("on, 7, 40122 & 8, 1"), Some(Switching { on: true, sessions }));
        for wrong in ["", "on", "maybe, node", "off, ", "off, 7", "off, 7, 70000", "off, 7, 1 & x, 1"] {
            assert_eq!(Switching::read(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_line_harms(line in ".*") {
            let _ = Switching::read(&line);
        }
    }
}
