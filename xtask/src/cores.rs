//! Cores are pure by what they depend on: nothing in the tree of one runs, listens, reads a clock or throws dice.

use std::process::Command;

use anyhow::{Result, bail};

use crate::command::output;
use crate::workspace;

/// The crates that are cores.
const CORES: [&str; 2] = ["patchbay-agent-core", "patchbay-manager-core"];
/// What none of them has, however far down.
const FORBIDDEN: [&str; 9] =
    ["aya", "axum", "chrono", "getrandom", "hyper", "mio", "rand", "rusqlite", "tokio"];

/// Fails with every forbidden package in the dependencies of a core, those of its tests left out.
pub fn check() -> Result<()> {
    for core in CORES {
        let tree = output(
            Command::new(env!("CARGO"))
                .args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--package", core])
                .current_dir(workspace()),
        )?;
        let found = forbidden(&tree);
        if !found.is_empty() {
            bail!(
                "{core} depends on {}: a core does no I/O and reads no clock; `cargo tree -p {core} -i NAME` shows through whom",
                found.join(", ")
            );
        }
    }
    Ok(())
}

/// The forbidden ones among packages, a line each with its name first.
fn forbidden(tree: &str) -> Vec<&str> {
    let names = || tree.lines().filter_map(|line| line.split_whitespace().next());
    FORBIDDEN.into_iter().filter(|forbidden| names().any(|name| name == *forbidden)).collect()
}

#[cfg(test)]
mod tests {
    use super::{check, forbidden};

    #[test]
    fn a_forbidden_package_is_found_wherever_it_stands() {
        assert_eq!(
            forbidden("core v0.1.0 (/c)\ntokio v1.48.0\nrandom v1.0.0\nrand v0.9.2 (*)"),
            ["rand", "tokio"]
        );
        assert!(forbidden("core v0.1.0\nserde v1.0.0\ntokio-macros v2.0.0").is_empty());
    }

    #[test]
    fn the_cores_are_pure() {
        check().expect("pure");
    }
}
