//! Tables for people, JSON for programs.

use std::io::Write as _;

use patchbay_api as api;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

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
    pub fn show<T>(self, value: &T, table: impl Fn(&T) -> String) -> Result<(), Failure>
    where
        T: Serialize + DeserializeOwned,
    {
        match self {
            Self::Table => print(&table(&visible(value)?)),
            Self::Json => print(&serde_json::to_string_pretty(value).map_err(said)?),
        }
    }

    pub fn list<T>(self, values: &[T], table: impl Fn(&[T]) -> String) -> Result<(), Failure>
    where
        T: Serialize + DeserializeOwned,
    {
        match self {
            Self::Table => {
                let values: Vec<T> = values.iter().map(visible).collect::<Result<_, _>>()?;
                print(&table(&values))
            }
            Self::Json => print(&serde_json::to_string_pretty(values).map_err(said)?),
        }
    }
}

/// The same, every text in it fit for a terminal: peers and programs choose names and reasons.
pub fn visible<T: Serialize + DeserializeOwned>(value: &T) -> Result<T, Failure> {
    let mut value = serde_json::to_value(value).map_err(said)?;
    escape(&mut value);
    serde_json::from_value(value).map_err(said)
}

fn escape(value: &mut Value) {
    match value {
        Value::String(text) => *text = api::visible(text).into_owned(),
        Value::Array(values) => values.iter_mut().for_each(escape),
        Value::Object(fields) => fields.values_mut().for_each(escape),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn said(error: serde_json::Error) -> Failure {
    Failure::Said(error.to_string())
}

/// Prints a line; a closed pipe is an error of its own.
pub fn print(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{text}").map_err(Failure::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_peers_say_is_escaped_wherever_it_stands_and_nothing_else_changes() {
        let event = |text: &str| api::Event {
            sequence: 7,
            at_ms: 1,
            kind: "node-up".into(),
            subject: "node \u{1b}[31m".into(),
            text: text.into(),
        };
        let seen = visible(&vec![event("gr\u{fc}n"), event("a\0b\nc")]).expect("a list");
        assert_eq!(seen[0].subject, "node \\u{1b}[31m");
        assert_eq!((seen[0].text.as_str(), seen[1].text.as_str()), ("gr\u{fc}n", "a\\u{0}b\\nc"));
    }
}
