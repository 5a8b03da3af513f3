//! What people read: a page, a summary, a table in the terminal.

mod summary;

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::run::results::Results;

/// Writes everything.
pub fn write(results: &Results, folder: &Path, _readme: bool) -> Result<()> {
    let text = summary::text(results);
    fs::write(folder.join("summary.md"), &text)?;
    print!("{text}");
    Ok(())
}
