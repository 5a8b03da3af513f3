//! Users who register, post, and keep files, and remember what they were told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use patchbay_testbed::Plan;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use ureq::Agent;

use super::ledger::{Ledger, StoredFile};
use crate::demo::sha256;

/// The password of every user.
const PASSWORD: &str = "correct horse";
/// How long one try may take.
const TRY_WITHIN: Duration = Duration::from_secs(15);
/// How long a connection to a gateway may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// How long a user asks again before the request counts as failed.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// Pause before a request is asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// Pause between two requests of one user.
const THINK: Duration = Duration::from_millis(15);
/// Length of most files, in bytes, at most.
const SMALL_FILE: usize = 64 << 10;
/// Length of a few files: longer than what a gateway can pass again by itself.
const LARGE_FILE: usize = 2 << 20;

/// A user, with connections of its own to whatever gateway answers.
pub struct User<'a> {
    agent: Agent,
    gateways: Vec<String>,
    /// The gateway that answered last.
    good: usize,
    ledger: &'a Ledger,
    random: StdRng,
}

impl<'a> User<'a> {
    /// A user whose choices follow from its seed. The calling thread enters the hub's network.
    pub fn new(plan: &Plan, ledger: &'a Ledger, seed: u64) -> Result<Self> {
        plan.enter_hub()?;
        let config = Agent::config_builder()
            .timeout_global(Some(TRY_WITHIN))
            .timeout_connect(Some(CONNECT_WITHIN))
            .http_status_as_error(false);
        let gateways = (0..plan.nodes.len()).map(|node| format!("http://{}:8080", Plan::address(node)));
        Ok(Self {
            agent: config.build().into(),
            gateways: gateways.collect(),
            good: 0,
            ledger,
            random: StdRng::seed_from_u64(seed),
        })
    }

    /// Works until it is told to stop.
    pub fn work(&mut self, name: &str, stop: &AtomicBool) {
        let mut token = None;
        for number in 0u64.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            if number % 50 == 0 {
                token = self.join(&format!("{name}-{number}"));
            }
            let Some(token) = &token else { continue };
            match self.random.random_range(0..10) {
                0..5 => self.post(token, &format!("{name}-{number}")),
                5..7 => self.put(token, &format!("{name}-{number}")),
                7 => self.read_back(),
                _ => drop(self.ask("GET", "/table", None, &[])),
            }
            std::thread::sleep(THINK);
        }
    }

    fn join(&mut self, user: &str) -> Option<String> {
        let account = json!({ "user": user, "password": PASSWORD }).to_string();
        self.ask("POST", "/register", None, account.as_bytes())?;
        self.ledger.entries().users.push(user.to_owned());
        self.log_in(user)
    }

    /// A token for a user who was registered.
    pub fn log_in(&mut self, user: &str) -> Option<String> {
        let account = json!({ "user": user, "password": PASSWORD }).to_string();
        let answer = self.ask("POST", "/login", None, account.as_bytes())?;
        let answer: Value = serde_json::from_slice(&answer).ok()?;
        Some(answer["token"].as_str()?.to_owned())
    }

    fn post(&mut self, token: &str, text: &str) {
        let body = json!({ "text": text }).to_string();
        if self.ask("POST", "/posts", Some(token), body.as_bytes()).is_some() {
            self.ledger.entries().posts.push(text.to_owned());
        }
    }

    fn put(&mut self, token: &str, name: &str) {
        let longest = if self.random.random_range(0..40) == 0 { LARGE_FILE } else { SMALL_FILE };
        let mut bytes = vec![0; self.random.random_range(1..=longest)];
        self.random.fill(&mut bytes[..]);
        let expected = sha256(&bytes);
        let Some(answer) = self.ask("PUT", &format!("/files/{name}"), Some(token), &bytes) else { return };
        let told: Value = serde_json::from_slice(&answer).unwrap_or_default();
        if told["sha256"] != expected.as_str() {
            self.ledger.wrong(format!("the file {name} was taken with another checksum"));
        }
        self.ledger.entries().files.push(StoredFile { name: name.into(), sha256: expected });
    }

    fn read_back(&mut self) {
        let file = {
            let entries = self.ledger.entries();
            let Some(last) = entries.files.len().checked_sub(1) else { return };
            entries.files[self.random.random_range(0..=last)].clone()
        };
        self.check_file(&file);
    }

    /// Whether a file is there as it was taken.
    pub fn check_file(&mut self, file: &StoredFile) {
        if let Some(bytes) = self.ask("GET", &format!("/files/{}", file.name), None, &[])
            && sha256(&bytes) != file.sha256
        {
            self.ledger.wrong(format!("the file {} came back different", file.name));
        }
    }

    /// Asks until there is an answer, or for two minutes. Every request here may come twice.
    fn ask(&mut self, method: &str, path: &str, token: Option<&str>, body: &[u8]) -> Option<Vec<u8>> {
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_once(method, path, token, body) {
                Ok((200..300, answer)) => {
                    self.ledger.answered(begun, tries);
                    return Some(answer);
                }
                // What a user was told is not so: no trouble on the way explains that.
                Ok((status @ 400..500, answer)) => {
                    let said = String::from_utf8_lossy(&answer).into_owned();
                    self.ledger.wrong(format!("{method} {path}: {status} {said}"));
                    return None;
                }
                Ok((status, answer)) => {
                    self.failed_try(begun, method, path, || {
                        format!("{status} {}", String::from_utf8_lossy(&answer))
                    })?;
                }
                Err(error) => self.failed_try(begun, method, path, || format!("{error:#}"))?,
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Nothing when the request is to be given up.
    fn failed_try(
        &mut self,
        begun: Instant,
        method: &str,
        path: &str,
        reason: impl FnOnce() -> String,
    ) -> Option<()> {
        self.ledger.failed_try();
        self.good = (self.good + 1) % self.gateways.len();
        if begun.elapsed() > ANSWER_WITHIN {
            self.ledger.failed(format!("{method} {path}: {}", reason()));
            return None;
        }
        Some(())
    }

    fn try_once(
        &mut self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &[u8],
    ) -> Result<(u16, Vec<u8>)> {
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.gateways[self.good]))
            .header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut response = self.agent.run(request.body(body)?)?;
        let expected = response.headers().get("content-length").and_then(|v| v.to_str().ok()?.parse().ok());
        let bytes = response.body_mut().with_config().limit(2 * LARGE_FILE as u64).read_to_vec()?;
        if expected.is_some_and(|expected: usize| expected != bytes.len()) {
            bail!("the answer was cut off");
        }
        Ok((response.status().as_u16(), bytes))
    }
}
