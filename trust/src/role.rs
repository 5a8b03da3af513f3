//! What a certificate says its holder is: a SPIFFE ID (spiffe.io, "SPIFFE-ID") as the only URI among its names.

use std::fmt;
use std::str::FromStr;

/// The trust domain of the SPIFFE IDs.
pub const TRUST_DOMAIN: &str = "patchbay.internal";
/// The DNS name in the Manager's certificate by which agents verify it, at whatever address it is.
pub const MANAGER_NAME: &str = "manager.patchbay.internal";
/// Longest name of a node or person, bytes.
pub const LONGEST_NAME: usize = 128;

/// Whom a certificate names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The Manager.
    Manager,
    /// The agent of a node, by the node's name.
    Node(String),
    /// A person or program that uses the Manager's HTTP API.
    Person(String),
}

/// Why something can't be the name in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` can't be named by a certificate: use 1 to {LONGEST_NAME} letters, digits, `.`, `-` and `_`, not only dots"
)]
pub struct InvalidName(pub String);

/// Checks a name as a segment of a SPIFFE ID's path.
///
/// # Errors
/// It is empty, too long, or has other characters.
pub fn check_name(name: &str) -> Result<(), InvalidName> {
    let is_of_path = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_fit = (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(is_of_path);
    // `.` and `..` would be folders, and no path of a SPIFFE ID has them.
    match is_fit && !name.bytes().all(|byte| byte == b'.') {
        true => Ok(()),
        false => Err(InvalidName(name.escape_default().take(LONGEST_NAME).collect())),
    }
}

impl Role {
    /// The SPIFFE ID.
    pub fn to_uri(&self) -> String {
        match self {
            Self::Manager => format!("spiffe://{TRUST_DOMAIN}/manager"),
            Self::Node(name) => format!("spiffe://{TRUST_DOMAIN}/node/{name}"),
            Self::Person(name) => format!("spiffe://{TRUST_DOMAIN}/person/{name}"),
        }
    }

    /// What it is, without its name: `manager`, `node`, `person`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Manager => "manager",
            Self::Node(_) => "node",
            Self::Person(_) => "person",
        }
    }

    /// Its name; the Manager's is `manager`.
    pub fn name(&self) -> &str {
        match self {
            Self::Manager => "manager",
            Self::Node(name) | Self::Person(name) => name,
        }
    }
}

impl FromStr for Role {
    type Err = InvalidName;

    fn from_str(uri: &str) -> Result<Self, InvalidName> {
        let unknown = || InvalidName(uri.escape_default().take(LONGEST_NAME).collect());
        let path = uri
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.strip_prefix(TRUST_DOMAIN))
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(unknown)?;
        let named = |name: &str| check_name(name).map(|()| name.to_owned());
        match path.split_once('/') {
            None if path == "manager" => Ok(Self::Manager),
            Some(("node", name)) => named(name).map(Self::Node),
            Some(("person", name)) => named(name).map(Self::Person),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manager => f.write_str("the Manager"),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Person(name) => write!(f, "person {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_ids_of_this_trust_domain_are_roles() {
        for role in [Role::Manager, Role::Node("a.b-c_9".into()), Role::Person("ann".into())] {
            assert_eq!(role.to_uri().parse(), Ok(role));
        }
        for bad in [
            "",
            "spiffe://patchbay.internal",
            "spiffe://patchbay.internal/",
            "spiffe://patchbay.internal/manager/x",
            "spiffe://patchbay.internal/node/",
            "spiffe://patchbay.internal/node/..",
            "spiffe://patchbay.internal/node/a/b",
            "spiffe://patchbay.internal/node/a%2f",
            "spiffe://patchbay.internal.evil/node/a",
            "spiffe://other/node/a",
            "https://patchbay.internal/node/a",
        ] {
            assert!(bad.parse::<Role>().is_err(), "{bad}");
        }
        assert!(check_name(&"a".repeat(LONGEST_NAME)).is_ok());
        assert!(check_name(&"a".repeat(LONGEST_NAME + 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_a_role_that_writes_itself_the_same_or_none(text in "(spiffe://patchbay.internal/)?(node|person|manager)?/?.{0,12}") {
            if let Ok(role) = text.parse::<Role>() {
                prop_assert_eq!(role.to_uri(), text);
            }
        }
    }
}
