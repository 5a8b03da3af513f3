//! The Manager's HTTP API, called.

use std::io::{BufRead as _, BufReader, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use patchbay_api as api;
use serde::de::DeserializeOwned;
use ureq::config::ConfigBuilder;
use ureq::http::Response;
use ureq::typestate::AgentScope;
use ureq::{Agent, RequestBuilder};

use crate::https::Https;
use crate::login;
use crate::parse::At;
use crate::unix::{Nowhere, ToSocket};

/// How long the Manager may take to accept a connection, unless told otherwise.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Between two tries to connect.
const TRY_EVERY: Duration = Duration::from_millis(100);
/// After that people are told what is waited for.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// How long the Manager may say nothing in the middle of an answer.
const SILENT_AFTER: Duration = Duration::from_secs(60);

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody answers.
    #[error(
        "the Manager at {url} can't be reached: {reason}\nIs `patchbay-manager` running? Name another with --manager or PATCHBAY_MANAGER: unix:FILE, or https://HOST:PORT."
    )]
    Unreachable { url: String, reason: String },
    /// The socket lets others in only.
    #[error(
        "{url} lets in root and the group `patchbay` only: run this as root, or have root do `usermod -aG patchbay USER` (`groupadd --system patchbay` makes the group, before the Manager starts) and sign in again"
    )]
    NotLetIn { url: String },
    /// It closed the connection before it said anything.
    #[error(
        "the Manager at {url} closed the connection: {reason}\nIt may have just ended, or have more connections than it takes (64 of one user or address, 256 in all; its log says so). Try again."
    )]
    Closed { url: String, reason: String },
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
    /// What requests are sent to; over a socket the host means nothing.
    url: String,
    /// For people.
    at: String,
    agent: Agent,
    token: Option<String>,
    connect_within: Duration,
}

impl Client {
    pub fn new(manager: &At, connect_within: Duration, https: &Https) -> Result<Self, Failure> {
        Ok(match manager {
            At::Url(url) => {
                let config = match url.starts_with("https:") {
                    true => config(connect_within).tls_config(https.config()?).build(),
                    false => config(connect_within).build(),
                };
                let (url, token) = (url.clone(), login::token_for(url));
                Self { at: url.clone(), url, agent: config.into(), token, connect_within }
            }
            At::Socket(path) => Self::at_socket(path, connect_within),
        })
    }

    /// A client of whoever listens at a Unix socket.
    pub fn at_socket(path: &Path, connect_within: Duration) -> Self {
        let agent = Agent::with_parts(config(connect_within).build(), ToSocket(path.to_owned()), Nowhere);
        let (url, at) = ("http://localhost".to_owned(), At::Socket(path.to_owned()).to_string());
        Self { url, at, agent, token: None, connect_within }
    }

    /// A client with a token of its own.
    pub fn over_tcp(url: &str, token: Option<String>, https: &Https) -> Result<Self, Failure> {
        Ok(Self { token, ..Self::new(&At::Url(url.to_owned()), CONNECT_WITHIN, https)? })
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.read(self.connected(|| self.with_token(self.agent.get(self.at(path))).call()), None)
    }

    fn with_token<Any>(&self, request: RequestBuilder<Any>) -> RequestBuilder<Any> {
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// Waits for a Manager that is just starting: nothing was sent where nobody accepts.
    fn connected<T>(&self, call: impl Fn() -> Result<T, ureq::Error>) -> Result<T, ureq::Error> {
        let begun = Instant::now();
        let mut told = false;
        loop {
            let result = call();
            let nobody = matches!(&result, Err(ureq::Error::Io(error))
                if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound));
            if !nobody || begun.elapsed() + TRY_EVERY > self.connect_within {
                return result;
            }
            if begun.elapsed() > TOLD_AFTER && !std::mem::replace(&mut told, true) {
                eprintln!("waiting for the Manager at {}", self.at);
            }
            std::thread::sleep(TRY_EVERY);
        }
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
        let post = || self.with_token(self.agent.post(self.at(path)));
        self.read(self.connected(|| post().content_type("application/json").send_empty()), None)
    }

    /// Sends a graph; its problems come back with the lines they point at.
    pub fn send_graph(&self, method: &str, path: &str, file: &Path) -> Result<api::Plan, Failure> {
        let text = crate::read_graph(file)?;
        let request = || {
            let put = method == "PUT";
            let request = if put { self.agent.put(self.at(path)) } else { self.agent.post(self.at(path)) };
            self.with_token(request).content_type("application/toml")
        };
        self.read(self.connected(|| request().send(text.as_str())), Some((file, &text)))
    }

    /// An answer that comes line by line.
    pub fn lines(
        &self,
        path: &str,
    ) -> Result<impl Iterator<Item = std::io::Result<String>> + use<>, Failure> {
        // Events may be far apart.
        let request =
            || self.with_token(self.agent.get(self.at(path))).config().timeout_per_read(None).build();
        let response = self.connected(|| request().call()).map_err(|error| self.unreachable(&error))?;
        if !response.status().is_success() {
            return Err(match self.read::<serde_json::Value>(Ok(response), None) {
                Ok(_) => Failure::Said(format!("{} does not speak this API", self.at)),
                Err(failure) => failure,
            });
        }
        Ok(BufReader::new(response.into_body().into_reader()).lines())
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        if matches!(error, ureq::Error::Timeout(ureq::Timeout::PerRead)) {
            return Failure::Silent { url: self.at.clone() };
        }
        let (url, reason) = (self.at.clone(), error.to_string());
        match error {
            ureq::Error::Io(io) if io.kind() == ErrorKind::PermissionDenied => Failure::NotLetIn { url },
            ureq::Error::Io(io)
                if matches!(
                    io.kind(),
                    ErrorKind::ConnectionReset
                        | ErrorKind::ConnectionAborted
                        | ErrorKind::BrokenPipe
                        | ErrorKind::UnexpectedEof
                ) =>
            {
                Failure::Closed { url, reason }
            }
            _ => Failure::Unreachable { url, reason },
        }
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
                .map_err(|error| Failure::Said(format!("{} does not speak this API: {error}", self.at)));
        }
        match serde_json::from_str::<api::Error>(&text) {
            Ok(error) => Err(Failure::Refused(describe(&error, graph))),
            Err(_) => Err(Failure::Refused(format!("{} answers {}", self.at, response.status()))),
        }
    }
}

fn config(connect_within: Duration) -> ConfigBuilder<AgentScope> {
    // A Manager that sends people to another one is not followed: they should know.
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(connect_within))
        .timeout_per_read(Some(SILENT_AFTER))
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
