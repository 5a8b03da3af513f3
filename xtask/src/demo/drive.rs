//! The users: runs in the hub's namespace and prints what it saw as JSON.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use ureq::Agent;

use super::files;
use super::report::{Driven, Latencies, Latency};

/// Users at the same time.
const AT_ONCE: usize = 4;
/// Rounds of latency for each of off and on, interleaved.
const ROUNDS: usize = 6;
/// Requests in one round that count, after those that warm up.
const REQUESTS_IN_ROUND: usize = 250;
/// Requests of a round that do not count.
const WARM_UP: usize = 20;
/// How long an agent may take to hear a signal.
const SWITCH_TIME: Duration = Duration::from_millis(100);

/// Drives the application (used by the demo itself)
#[derive(Args)]
pub struct Drive {
    /// The gateway
    gateway: String,
    #[arg(long)]
    users: usize,
    #[arg(long)]
    files: usize,
    /// The agents' process ids, to switch redirection off and on
    #[arg(long, value_delimiter = ',')]
    agents: Vec<i32>,
}

struct Client<'a> {
    agent: Agent,
    gateway: &'a str,
    requests: &'a AtomicUsize,
}

/// Runs everything and prints the result.
pub fn run(drive: &Drive) -> Result<()> {
    super::cluster::plan()?.join()?;
    let (requests, checked, mismatches) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let errors = Mutex::new(Vec::new());
    let client = || Client::new(&drive.gateway, &requests);
    let tokens = Mutex::new(Vec::new());
    in_parallel(drive.users, &errors, |user| {
        let client = client();
        let name = format!("user-{user}");
        let token = client.join(&name)?;
        client.post(&token, &format!("post of {name}"))?;
        tokens.lock().map_err(|_| anyhow::anyhow!("a user failed"))?.push(token);
        Ok(())
    });
    let token = tokens.lock().ok().and_then(|tokens| tokens.first().cloned()).unwrap_or_default();
    note(&errors, client().check_table(&token));
    let chosen = files::choose(drive.files);
    if chosen.len() < drive.files {
        note(&errors, Err(anyhow::anyhow!("this machine has only {} texts", chosen.len())));
    }
    let check = |name: &str, bytes: &[u8]| -> Result<()> {
        let same = client().round_trip(&token, name, bytes)?;
        checked.fetch_add(1, Ordering::Relaxed);
        if !same {
            mismatches.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    note(&errors, check("large", &files::large()));
    in_parallel(chosen.len(), &errors, |index| {
        check(&format!("file-{index}"), &std::fs::read(&chosen[index])?)
    });
    let latency_us = measure(drive, &client()).unwrap_or_else(|error| {
        note(&errors, Err(error));
        Latencies::default()
    });
    let errors = errors.into_inner().unwrap_or_default();
    let driven = Driven {
        requests: requests.load(Ordering::Relaxed),
        errors,
        files_checked: checked.load(Ordering::Relaxed),
        checksum_mismatches: mismatches.load(Ordering::Relaxed),
        latency_us,
    };
    println!("{}", serde_json::to_string(&driven)?);
    Ok(())
}

fn note(errors: &Mutex<Vec<String>>, result: Result<()>) {
    if let (Err(error), Ok(mut errors)) = (result, errors.lock()) {
        errors.push(format!("{error:#}"));
    }
}

fn in_parallel(count: usize, errors: &Mutex<Vec<String>>, work: impl Fn(usize) -> Result<()> + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    note(errors, work(index));
                }
            });
        }
    });
}

/// The same requests with redirection off and on, in turns.
fn measure(drive: &Drive, client: &Client<'_>) -> Result<Latencies> {
    let (mut off, mut on) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (signal, times) in [(Signal::SIGUSR1, &mut off), (Signal::SIGUSR2, &mut on)] {
            for agent in &drive.agents {
                kill(Pid::from_raw(*agent), signal).context("an agent is gone")?;
            }
            std::thread::sleep(SWITCH_TIME);
            for request in 0..WARM_UP + REQUESTS_IN_ROUND {
                let begun = Instant::now();
                client.get("/table")?;
                if request >= WARM_UP {
                    times.push(begun.elapsed());
                }
            }
        }
    }
    Ok(Latencies { off: percentiles(off), on: percentiles(on) })
}

fn percentiles(mut times: Vec<Duration>) -> Latency {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_micros() as u64;
    Latency { p50: at(50), p99: at(99) }
}

impl<'a> Client<'a> {
    fn new(gateway: &'a str, requests: &'a AtomicUsize) -> Self {
        let config = Agent::config_builder().timeout_global(Some(Duration::from_secs(60)));
        Self { agent: config.build().into(), gateway, requests }
    }

    fn at(&self, path: &str) -> String {
        self.requests.fetch_add(1, Ordering::Relaxed);
        format!("{}{path}", self.gateway)
    }

    fn get(&self, path: &str) -> Result<Value> {
        Ok(self.agent.get(self.at(path)).call().context("GET")?.body_mut().read_json()?)
    }

    /// Registers and logs in.
    fn join(&self, user: &str) -> Result<String> {
        let account = json!({ "user": user, "password": "correct horse" });
        self.agent
            .post(self.at("/register"))
            .send_json(&account)
            .with_context(|| format!("{user} registers"))?;
        let answer: Value = self
            .agent
            .post(self.at("/login"))
            .send_json(&account)
            .with_context(|| format!("{user} logs in"))?
            .body_mut()
            .read_json()?;
        Ok(answer["token"].as_str().context("a token")?.to_owned())
    }

    fn post(&self, token: &str, text: &str) -> Result<()> {
        self.agent
            .post(self.at("/posts"))
            .header("authorization", format!("Bearer {token}"))
            .send_json(json!({ "text": text }))
            .with_context(|| format!("posting `{text}`"))?;
        Ok(())
    }

    /// Posts twelve times and expects the ten newest back, newest first.
    fn check_table(&self, token: &str) -> Result<()> {
        for number in 0..12 {
            self.post(token, &format!("table {number}"))?;
        }
        let table = self.get("/table")?;
        let texts: Vec<&str> =
            table.as_array().context("a list")?.iter().filter_map(|post| post["text"].as_str()).collect();
        let expected: Vec<String> = (2..12).rev().map(|number| format!("table {number}")).collect();
        if texts != expected {
            bail!("the table shows {texts:?}, expected {expected:?}");
        }
        Ok(())
    }

    /// Sends a file up and gets it down; whether bytes and checksums are equal.
    fn round_trip(&self, token: &str, name: &str, bytes: &[u8]) -> Result<bool> {
        let path = format!("/files/{name}");
        let info: Value = self
            .agent
            .put(self.at(&path))
            .header("authorization", format!("Bearer {token}"))
            .send(bytes)
            .with_context(|| format!("{name} goes up"))?
            .body_mut()
            .read_json()?;
        let down = self
            .agent
            .get(self.at(&path))
            .call()
            .with_context(|| format!("{name} comes down"))?
            .body_mut()
            .with_config()
            .limit(2 * files::LARGE_BYTES as u64)
            .read_to_vec()
            .with_context(|| format!("{name} comes down"))?;
        Ok(down == bytes && info["sha256"] == files::sha256(bytes).as_str())
    }
}
