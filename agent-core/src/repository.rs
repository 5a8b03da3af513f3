//! The repository: what a node's agent can execute, as a file says it that a person writes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use ssmmp::Name;
use toml::Spanned;

/// Programs that were tested with redirection, by file name. Others stay on TCP under `auto`.
const TESTED_PROGRAMS: [&str; 1] = ["redis-server"];

/// One problem of a repository file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct Problem {
    /// The file.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

/// How a service speaks SSMMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It links the SDK.
    Native,
    /// Any program; the agent speaks for it.
    Adapted,
}

/// What a service may use, through its cgroup.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Memory, such as `256M`.
    pub memory: Option<String>,
    /// Processes and threads.
    pub processes: Option<u32>,
    /// Processors, such as `1.5`.
    pub cpus: Option<f64>,
}

/// A service that this node can execute.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Native or adapted.
    pub kind: Kind,
    /// The program.
    pub program: PathBuf,
    /// Its arguments, with placeholders.
    pub arguments: Vec<String>,
    /// Its abstract sockets.
    pub sockets: Vec<String>,
    /// Its abstract plugs.
    pub plugs: Vec<String>,
    /// Its environment, with placeholders.
    pub environment: BTreeMap<String, String>,
    /// Where it runs; the instance's own folder when absent.
    pub working_directory: Option<String>,
    /// The user it runs as; the usual one when absent.
    pub user: Option<String>,
    /// Whether its data is kept on this node through restarts, for one instance at a time.
    pub data: bool,
    /// Whether it is known to be safe to redirect.
    pub tested: bool,
    /// What it may use.
    pub limits: Limits,
    /// Why it can't be executed on this machine now, if so: the others can.
    pub unavailable: Option<Problem>,
}

/// All services, by name.
pub type Repository = BTreeMap<Name, Entry>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RepositoryFile {
    #[serde(default)]
    service: BTreeMap<Spanned<String>, EntryFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryFile {
    kind: Kind,
    program: Spanned<PathBuf>,
    #[serde(default)]
    arguments: Vec<Spanned<String>>,
    #[serde(default)]
    sockets: Vec<Spanned<String>>,
    #[serde(default)]
    plugs: Vec<Spanned<String>>,
    #[serde(default)]
    environment: BTreeMap<Spanned<String>, Spanned<String>>,
    working_directory: Option<String>,
    user: Option<Spanned<String>>,
    redirection: Option<Spanned<String>>,
    #[serde(default)]
    data: bool,
    #[serde(default)]
    limits: LimitsFile,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsFile {
    memory: Option<Spanned<String>>,
    processes: Option<Spanned<u32>>,
    cpus: Option<Spanned<f64>>,
}

/// What an entry needs and a machine has not, for people: it may come, so that the file is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// Its program can't be executed.
    Program(String),
    /// There is no user to run it as.
    User(String),
}

/// Reads and checks a repository file's text; `lacks` says what the machine has not of an entry's program and user.
///
/// # Errors
/// Every problem found, with its place.
pub fn parse(
    file: &str,
    text: &str,
    lacks: impl Fn(&Path, Option<&str>) -> Option<Lack>,
) -> Result<Repository, Vec<Problem>> {
    let place = |span: Range<usize>, message: String| {
        let before = &text[..span.start.min(text.len())];
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        Problem {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[start..].chars().count() + 1,
            message,
        }
    };
    let parsed: RepositoryFile = toml::from_str(text)
        .map_err(|error| vec![place(error.span().unwrap_or(0..0), error.message().to_owned())])?;
    let mut problems = Vec::new();
    let mut repository = Repository::new();
    for (name, entry) in parsed.service {
        problems.extend(check(&name, &entry).into_iter().map(|(span, message)| place(span, message)));
        let user = entry.user.as_ref().map(|user| user.get_ref().as_str());
        let missing = lacks(entry.program.get_ref(), user).map(|lack| match lack {
            Lack::Program(message) => place(entry.program.span(), message),
            Lack::User(message) => {
                place(entry.user.as_ref().map_or_else(|| name.span(), Spanned::span), message)
            }
        });
        if let Ok(valid) = Name::new(name.get_ref()) {
            repository.insert(valid, entry.into_entry(missing));
        }
    }
    if problems.is_empty() { Ok(repository) } else { Err(problems) }
}

/// What is wrong with an entry whatever the machine has.
fn check(name: &Spanned<String>, entry: &EntryFile) -> Vec<(Range<usize>, String)> {
    let mut found = Vec::new();
    if let Err(message) = Name::new(name.get_ref()) {
        found.push((name.span(), message));
    }
    if !entry.program.get_ref().is_absolute() {
        found.push((entry.program.span(), "the program needs its whole path, from /".into()));
    }
    for (what, names) in [("socket", &entry.sockets), ("plug", &entry.plugs)] {
        let mut seen = BTreeSet::new();
        for said in names {
            if let Err(message) = Name::new(said.get_ref()) {
                found.push((said.span(), message));
            } else if !seen.insert(said.get_ref()) {
                found.push((said.span(), format!("the {what} `{}` is listed twice", said.get_ref())));
            }
        }
    }
    found.extend(wrong_limits(&entry.limits));
    for variable in entry.environment.keys() {
        if variable.get_ref().is_empty() || variable.get_ref().contains(['=', '\0']) {
            found.push((variable.span(), "this is no name of a variable".into()));
        }
    }
    for text in entry.arguments.iter().chain(entry.environment.values()) {
        for placeholder in placeholders(text.get_ref()) {
            let known = match placeholder.split_once(':') {
                None => matches!(placeholder, "addr" | "state") || (placeholder == "data" && entry.data),
                Some(("port", socket)) => entry.sockets.iter().any(|known| known.get_ref() == socket),
                Some(("plug" | "plug_addr" | "plug_port", plug)) => {
                    entry.plugs.iter().any(|known| known.get_ref() == plug)
                }
                Some(_) => false,
            };
            if !known {
                let message = format!(
                    "`{{{placeholder}}}` is unknown: use {{addr}}, {{state}}, {{data}} with \
                     `data = true`, {{port:SOCKET}}, {{plug:PLUG}}, {{plug_addr:PLUG}} or {{plug_port:PLUG}} with a \
                     socket or plug of this service"
                );
                found.push((text.span(), message));
            }
        }
    }
    if let Some(word) = &entry.redirection
        && word.get_ref() != "tested"
    {
        found.push((word.span(), "the only value is \"tested\"; leave it out otherwise".into()));
    }
    found
}

/// Limits that the kernel would refuse.
fn wrong_limits(limits: &LimitsFile) -> Vec<(Range<usize>, String)> {
    let mut found = Vec::new();
    if let Some(memory) = &limits.memory {
        let number = memory.get_ref().trim_end_matches(['K', 'M', 'G', 'T']);
        if memory.get_ref().len() - number.len() > 1 || !number.parse::<u64>().is_ok_and(|bytes| bytes > 0) {
            found.push((memory.span(), "write bytes, or a number with K, M, G or T behind it".into()));
        }
    }
    if let Some(processes) = &limits.processes
        && *processes.get_ref() == 0
    {
        found.push((processes.span(), "an instance has at least one process".into()));
    }
    if let Some(cpus) = &limits.cpus
        && !(0.01..=10_000.0).contains(cpus.get_ref())
    {
        found.push((cpus.span(), "write a number of processors, 0.01 or more".into()));
    }
    found
}

impl EntryFile {
    fn into_entry(self, unavailable: Option<Problem>) -> Entry {
        let program = self.program.into_inner();
        let known =
            program.file_name().and_then(|name| name.to_str()).is_some_and(|n| TESTED_PROGRAMS.contains(&n));
        Entry {
            kind: self.kind,
            tested: self.kind == Kind::Native || self.redirection.is_some() || known,
            program,
            arguments: self.arguments.into_iter().map(Spanned::into_inner).collect(),
            sockets: self.sockets.into_iter().map(Spanned::into_inner).collect(),
            plugs: self.plugs.into_iter().map(Spanned::into_inner).collect(),
            environment: self
                .environment
                .into_iter()
                .map(|(name, value)| (name.into_inner(), value.into_inner()))
                .collect(),
            working_directory: self.working_directory,
            user: self.user.map(Spanned::into_inner),
            data: self.data,
            limits: Limits {
                memory: self.limits.memory.map(Spanned::into_inner),
                processes: self.limits.processes.map(Spanned::into_inner),
                cpus: self.limits.cpus.map(Spanned::into_inner),
            },
            unavailable,
        }
    }
}

/// The names between braces.
fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    text.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name))
}

/// Replaces the placeholders of a text; `value` knows them all, the file was checked.
pub fn fill(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut filled = text.to_owned();
    for name in placeholders(text) {
        if let Some(value) = value(name) {
            filled = filled.replace(&format!("{{{name}}}"), &value);
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let found = parse("r.toml", text, |_, _| None).err().unwrap_or_default();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}");
        }
    }

    #[test]
    fn problems_name_their_place() {
        check(
            "[service.a]\nkind = \"adapted\"\nprogram = \"/bin/sh\"\nsockets = [\"s\"]\narguments = [\"{port:s}\"]\n",
            &[],
        );
        check("[service.a]\nkind = \"adapted\"\nprogram = \"sh\"\n", &["r.toml:3:11: the program needs"]);
        check(
            "[service.a]\nkind = \"adapted\"\nprogram = \"/no/such\"\narguments = [\"{port:x}\"]\n",
            &["r.toml:4:14: `{port:x}` is unknown"],
        );
        let good = "[service.a]\nkind = \"native\"\nprogram = \"/bin/sh\"\n";
        check(&format!("{good}sockets = [\"s\", \"s\"]\n"), &["r.toml:4:17: the socket `s` is listed twice"]);
        check(&format!("{good}plugs = [\"p\", \"p\"]\n"), &["r.toml:4:15: the plug `p` is listed twice"]);
        check(
            &format!("{good}limits = {{ memory = \"much\", processes = 0, cpus = -1.0 }}\n"),
            &["r.toml:4:21: write bytes", "r.toml:4:41: an instance has", "r.toml:4:51: write a number"],
        );
        check(&format!("{good}limits = {{ memory = \"256M\", processes = 9, cpus = 0.5 }}\n"), &[]);
        check(&format!("{good}environment = {{ \"A=B\" = \"c\" }}\n"), &["r.toml:4:17: this is no name"]);
        check(
            "[service.a]\nkind = \"native\"\nprogram = \"/bin/sh\"\narguments = [\"{data}\"]\n",
            &["r.toml:4:14: `{data}` is unknown: use {addr}, {state}, {data} with `data = true`"],
        );
        check("[service.a]\nkind = \"other\"\n", &["r.toml:2:8: unknown variant"]);
        check(
            "[service.a]\nkind = \"native\"\nprogram = \"/bin/sh\"\ncolour = 1\n",
            &["r.toml:4:1: unknown field"],
        );
    }

    #[test]
    fn placeholders_are_filled() {
        let value = |name: &str| (name == "port:s").then(|| "54000".to_owned());
        assert_eq!(fill("--port={port:s} {other}", value), "--port=54000 {other}");
    }
}
