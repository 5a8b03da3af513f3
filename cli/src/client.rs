//! The Manager's HTTP API, called.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;

use patchbay_api as api;
use serde::de::DeserializeOwned;
use ureq::Agent;
use ureq::http::Response;

/// How long the Manager may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long the Manager may say nothing in the middle of an answer.
const SILENT_AFTER: Duration = Duration::from_secs(60);

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody answers.
    #[error(
        "the Manager at {url} can't be reached: {reason}\nIs `patchbay-manager` running? Name another with --manager URL or PATCHBAY_MANAGER."
    )]
    Unreachable { url: String, reason: String },
    /// Somebody accepts connections and says nothing.
    #[error(
        "the Manager at {url} says nothing for {} s; what was asked may still be done. Is it stopped, or is its disk?",
        SILENT_AFTER.as_secs()
    )]
    Silent { url: String },
    /// The Manager refused.
    #[error("{0}")]
    Refused(String),
    /// Said by this command itself.
    #[error("{0}")]
    Said(String),
    /// The output can't be written.
    #[error("the output can't be written: {0}")]
    Output(std::io::Error),
}

pub struct Client {
    url: String,
    agent: Agent,
}

impl Client {
    pub fn new(url: &str) -> Self {
        // A Manager that sends people to another one is not followed: they should know.
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_per_read(Some(SILENT_AFTER));
        Self { url: url.trim_end_matches('/').to_owned(), agent: config.build().into() }
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.read(self.agent.get(self.at(path)).call(), None)
    }

    /// A whole list, page by page; `path` has a query already.
    pub fn pages<T: DeserializeOwned>(&self, path: &str, id: impl Fn(&T) -> u64) -> Result<Vec<T>, Failure> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let page: Vec<T> = self.get(&format!("{path}&limit={}&after={after}", api::MAX_TOLD))?;
            let is_last = page.len() < api::MAX_TOLD;
            after = page.last().map_or(after, &id);
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    pub fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.read(self.agent.post(self.at(path)).send_empty(), None)
    }

    /// Sends a graph; its problems come back with the lines they point at.
    pub fn send_graph(&self, method: &str, path: &str, file: &Path) -> Result<api::Plan, Failure> {
        let text = crate::read_graph(file)?;
        let request =
            if method == "PUT" { self.agent.put(self.at(path)) } else { self.agent.post(self.at(path)) };
        self.read(request.send(text.as_str()), Some((file, &text)))
    }

    /// An answer that comes line by line.
    pub fn lines(
        &self,
        path: &str,
    ) -> Result<impl Iterator<Item = std::io::Result<String>> + use<>, Failure> {
        // Events may be far apart.
        let request = self.agent.get(self.at(path)).config().timeout_per_read(None).build();
        let response = request.call().map_err(|error| self.unreachable(&error))?;
        Ok(BufReader::new(response.into_body().into_reader()).lines())
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        if matches!(error, ureq::Error::Timeout(ureq::Timeout::PerRead)) {
            return Failure::Silent { url: self.url.clone() };
        }
        Failure::Unreachable { url: self.url.clone(), reason: error.to_string() }
    }

    fn read<T: DeserializeOwned>(
        &self,
        result: Result<Response<ureq::Body>, ureq::Error>,
        graph: Option<(&Path, &str)>,
    ) -> Result<T, Failure> {
        let mut response = result.map_err(|error| self.unreachable(&error))?;
        let text = response
            .body_mut()
            .with_config()
            .limit(u64::MAX)
            .read_to_string()
            .map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return serde_json::from_str(&text)
                .map_err(|error| Failure::Said(format!("{} does not speak this API: {error}", self.url)));
        }
        match serde_json::from_str::<api::Error>(&text) {
            Ok(error) => Err(Failure::Refused(describe(&error, graph))),
            Err(_) => Err(Failure::Refused(format!("{} answers {}", self.url, response.status()))),
        }
    }
}

/// The Manager's error; problems of a graph with the line they are in.
fn describe(error: &api::Error, graph: Option<(&Path, &str)>) -> String {
    let mut text = error.message.clone();
    let Some((file, source)) = graph else { return text };
    for problem in &error.problems {
        let kind = if problem.warning { "warning" } else { "error" };
        text.push_str(&format!(
            "\n\n{kind}: {}\n  --> {}:{}:{}",
            problem.message,
            file.display(),
            problem.line,
            problem.column
        ));
        if let Some(line) = source.lines().nth(problem.line.saturating_sub(1)) {
            let margin = " ".repeat(problem.line.to_string().len());
            let space = " ".repeat(problem.column.saturating_sub(1));
            text.push_str(&format!("\n{margin} |\n{} | {line}\n{margin} | {space}^", problem.line));
        }
        if let Some(help) = &problem.help {
            text.push_str(&format!("\n  help: {help}"));
        }
    }
    text
}
