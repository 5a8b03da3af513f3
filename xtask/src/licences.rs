//! Licences of all dependencies, against a list of those that fit an Apache-2.0 program.
//!
//! cargo-deny does this too, but takes longer to build than everything else together.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::command::output;
use crate::workspace;

const ALLOWED: [&str; 16] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Fails with the name of every package whose licence is not allowed.
pub fn check() -> Result<()> {
    let text = output(
        Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--locked"])
            .current_dir(workspace()),
    )?;
    let metadata: Value = serde_json::from_str(&text)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    let bad: Vec<String> = packages
        .iter()
        .filter_map(|package| {
            let licence = package["license"].as_str().unwrap_or("(none)");
            (!is_allowed(licence)).then(|| format!("{} {}: {licence}", package["name"], package["version"]))
        })
        .collect();
    if !bad.is_empty() {
        bail!("these licences are not on the list in xtask/src/licences.rs:\n{}", bad.join("\n"));
    }
    Ok(())
}

/// An expression is fine when every part joined by AND has an allowed alternative.
fn is_allowed(expression: &str) -> bool {
    expression.split(" AND ").all(|part| {
        part.split(" OR ")
            .flat_map(|part| part.split('/'))
            .any(|licence| ALLOWED.contains(&licence.trim().trim_matches(['(', ')'])))
    })
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn expressions() {
        assert!(is_allowed("MIT OR GPL-3.0"));
        assert!(is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(is_allowed("MIT/Apache-2.0"));
        assert!(!is_allowed("LGPL-2.1-or-later"));
        assert!(!is_allowed("MIT AND GPL-3.0"));
    }
}
