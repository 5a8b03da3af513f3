//! The file that says what each of several Managers owns (`--managers`); all of them read the same one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use patchbay_manager_core::{Ownership, Peer};

/// Largest file, bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ManagersError {
    /// It can't be read.
    #[error("{} can't be read: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// It is not of the right form.
    #[error("{}: {error}", file.display())]
    Form {
        /// The file.
        file: PathBuf,
        /// Where and why.
        error: toml::de::Error,
    },
    /// Two Managers are named for the same.
    #[error("{what} `{name}` belongs to both `{first}` and `{second}`; it can have one Manager")]
    Twice {
        /// An application or a node.
        what: &'static str,
        /// Which.
        name: String,
        /// One Manager.
        first: String,
        /// The other.
        second: String,
    },
    /// This Manager is not in it.
    #[error("there is no Manager `{name}` in {}, only {known}; say --name", file.display())]
    NotMe {
        /// This Manager's name.
        name: String,
        /// The file.
        file: PathBuf,
        /// Who is in it.
        known: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    manager: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    agents: SocketAddr,
    http: String,
    #[serde(default)]
    apps: Vec<String>,
    #[serde(default)]
    nodes: Vec<String>,
}

/// Reads what the others own.
///
/// # Errors
/// The file can't be read or is wrong, or this Manager is not in it.
pub fn read(file: &Path, name: &str) -> Result<Ownership, ManagersError> {
    let failed = |error| ManagersError::Read { file: file.to_owned(), error };
    if std::fs::metadata(file).map_err(failed)?.len() > MAX_FILE_BYTES {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    let text = std::fs::read_to_string(file).map_err(failed)?;
    parse(&text, file, name)
}

fn parse(text: &str, file: &Path, name: &str) -> Result<Ownership, ManagersError> {
    let mut found: File =
        toml::from_str(text).map_err(|error| ManagersError::Form { file: file.to_owned(), error })?;
    once("the application", found.manager.iter().map(|(name, entry)| (name, &entry.apps)))?;
    once("the node", found.manager.iter().map(|(name, entry)| (name, &entry.nodes)))?;
    if found.manager.remove(name).is_none() {
        let known: Vec<_> = found.manager.keys().map(|name| format!("`{name}`")).collect();
        return Err(ManagersError::NotMe {
            name: name.to_owned(),
            file: file.to_owned(),
            known: known.join(", "),
        });
    }
    let others = found.manager.into_iter().map(|(name, entry)| {
        let Entry { agents, http, apps, nodes } = entry;
        Peer { name, agents, http: http.trim_end_matches('/').to_owned(), apps, nodes }
    });
    Ok(Ownership { others: others.collect() })
}

/// Whether everything is owned once.
fn once<'a>(
    what: &'static str,
    owned: impl Iterator<Item = (&'a String, &'a Vec<String>)>,
) -> Result<(), ManagersError> {
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for (manager, names) in owned {
        for name in names {
            if let Some(first) = owners.insert(name, manager)
                && first != manager
            {
                let (name, first, second) = (name.clone(), first.to_owned(), manager.clone());
                return Err(ManagersError::Twice { what, name, first, second });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[manager.east]
agents = "10.0.0.1:55555"
http = "http://10.0.0.1:55580/"
apps = ["shop"]
nodes = ["a", "10.0.0.3"]
[manager.west]
agents = "10.0.0.2:55555"
http = "http://10.0.0.2:55580"
apps = ["social"]
"#;

    fn read(text: &str, name: &str) -> Result<Ownership, String> {
        parse(text, Path::new("managers.toml"), name).map_err(|error| error.to_string())
    }

    #[test]
    fn what_others_own_is_known_and_ones_own_is_not_theirs() {
        let address =
            |text: &str| ssmmp::Address::from(text.parse::<std::net::IpAddr>().expect("an address"));
        let west = read(FILE, "west").expect("good");
        assert_eq!(west.of_app("shop").map(|peer| peer.http.as_str()), Some("http://10.0.0.1:55580"));
        assert!(west.of_app("social").is_none() && west.of_app("new").is_none());
        assert!(west.of_node("a", address("10.0.0.9")).is_some());
        assert!(west.of_node("c", address("10.0.0.3")).is_some());
        assert!(west.of_node("b", address("10.0.0.4")).is_none());
        let east = read(FILE, "east").expect("good");
        assert!(east.of_app("shop").is_none() && east.of_node("a", address("10.0.0.9")).is_none());
    }

    #[test]
    fn mistakes_name_what_is_wrong() {
        for (text, name, expected) in [
            (FILE.to_owned(), "north", "no Manager `north` in managers.toml, only `east`, `west`"),
            (
                FILE.replace("social", "shop"),
                "west",
                "the application `shop` belongs to both `east` and `west`",
            ),
            (FILE.replace("nodes =", "nods ="), "west", "unknown field `nods`"),
            (FILE.replace("10.0.0.2:55555", "10.0.0.2"), "west", "invalid socket address"),
        ] {
            let error = read(&text, name).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    }
}
