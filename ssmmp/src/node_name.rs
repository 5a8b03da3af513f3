//! Names of nodes: they are parts of paths and of commands, and are read by people.

use std::fmt;
use std::str::FromStr;

/// Longest name of a node, bytes, as of a host.
const MAX_BYTES: usize = 253;

/// A node's name: letters and digits of ASCII, `-`, `.` and `_`, 1 to 253 of them, and neither `.` nor `..`. It is safe as
/// a part of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeName(String);

impl NodeName {
    /// Takes a name that is one.
    ///
    /// # Errors
    /// Why it is none, for people.
    pub fn new(text: &str) -> Result<Self, String> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_good = !text.is_empty()
            && text.len() <= MAX_BYTES
            && text.bytes().all(is_part)
            && !matches!(text, "." | "..");
        match is_good {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "a node's name has 1 to {MAX_BYTES} letters and digits of ASCII, `-`, `.` and `_`, and is neither `.` nor `..`"
            )),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::new(text)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_like_those_of_hosts() {
        for good in ["a", "node-7.example.org", "10.0.0.1", "NODE_7", "...", &"n".repeat(253)] {
            assert_eq!(NodeName::new(good).map(|name| name.to_string()), Ok(good.to_owned()));
        }
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "/x",
            "a/b",
            "a b",
            "n\x1b[2J",
            "n0\u{200b}",
            "grün",
            "a\0",
            &"n".repeat(254),
        ] {
            assert!(NodeName::new(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_a_name_is_one_part_of_a_path(text in "[a-zA-Z0-9./_\\-~\u{200b}]{0,8}") {
            if let Ok(name) = NodeName::new(&text) {
                let parts: Vec<_> = Path::new(name.as_str()).components().collect();
                prop_assert_eq!(parts, vec![Component::Normal(text.as_ref())]);
            }
        }
    }
}
