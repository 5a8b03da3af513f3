//! Tables for people, JSON for programs.

use std::io::Write as _;

use serde::Serialize;

use crate::client::Failure;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

impl Output {
    pub fn show<T: Serialize + ?Sized>(self, value: &T, table: impl Fn(&T) -> String) -> Result<(), Failure> {
        let text = match self {
            Self::Table => table(value),
            Self::Json => serde_json::to_string_pretty(value).map_err(|e| Failure::Said(e.to_string()))?,
        };
        print(&text)
    }
}

/// Prints a line; a closed pipe is an error of its own.
pub fn print(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{text}").map_err(Failure::Output)
}
