//! `patchbay-manager check`, `backup` and `token`: what people do beside a Manager, also while it runs.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Subcommand;

use crate::http::tokens::{self, Role};
use crate::store;

/// What to do with the database instead of starting a Manager.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Look for damage in all of the database, also while a Manager uses it
    Check,
    /// Add a new token to a file for --tokens, and print it
    Token {
        /// The file; it is made if it is not there
        file: PathBuf,
        /// Who has it may look at everything and change nothing
        #[arg(long)]
        read_only: bool,
    },
    /// Copy the database to a new file, also while a Manager uses it
    Backup {
        /// The copy; it must not be there yet
        file: PathBuf,
    },
}

impl Task {
    /// Does it and tells the result on the standard output.
    ///
    /// # Errors
    /// The database is damaged or can't be read, or the copy can't be written.
    pub fn run(&self, database: &Path) -> Result<()> {
        match self {
            Self::Check => check(database),
            Self::Backup { file } => backup(database, file),
            Self::Token { file, read_only } => {
                println!("{}", tokens::add(file, if *read_only { Role::Read } else { Role::Change })?);
                eprintln!("added to {}; a running Manager reads it on SIGHUP", file.display());
                Ok(())
            }
        }
    }
}

fn check(database: &Path) -> Result<()> {
    let report = store::check(database)
        .with_context(|| format!("the database {} does not pass the check", database.display()))?;
    println!("{}: {} bytes, no damage found", database.display(), report.bytes);
    for (table, rows) in report.rows {
        println!("{rows:>12} {table}");
    }
    Ok(())
}

fn backup(database: &Path, file: &Path) -> Result<()> {
    let shows = std::io::stderr().is_terminal();
    let progress = |copied: u64, all: u64| {
        if shows {
            eprint!("\r{copied} of {all} pages ");
            let _ = std::io::stderr().flush();
        }
    };
    let bytes = store::backup(database, file, progress)
        .with_context(|| format!("the database {} can't be backed up", database.display()))?;
    if shows {
        eprint!("\r\x1b[K");
    }
    println!("{}: {bytes} bytes, checked", file.display());
    Ok(())
}
