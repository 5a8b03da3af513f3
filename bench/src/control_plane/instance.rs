//! An instance that opens sessions as fast as it is told to, as the agent executes it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use hdrhistogram::Histogram;

use super::message::{Asker, Hop, acknowledgement, field, healthy, request};

/// Ports of plugs, from this one up.
const FIRST_PORT: u16 = 10_000;

/// What an executed instance is told (section 2).
#[derive(Args)]
pub struct Instance {
    service: String,
    id: u64,
    address: String,
    sockets: String,
    #[arg(default_value = "")]
    plugs: String,
}

/// Listens on its sockets, speaks with its agent, and follows orders `SESSIONS WINDOW` on its socket
/// `orders`, each answered with `TOOK P50 P99` in nanoseconds.
pub fn run(instance: &Instance) -> Result<()> {
    let agent = TcpStream::connect(std::env::var("SSMMP_AGENT").context("no SSMMP_AGENT")?)?;
    agent.set_nodelay(true)?;
    let mut writer = agent.try_clone()?;
    let mut out = String::new();
    healthy(&mut out, Hop::ToAgent, "1", &instance.id.to_string());
    writer.write_all(out.as_bytes())?;
    let (answers, received) = channel();
    for socket in instance.sockets.split('&') {
        let (name, port) = socket.split_once(',').context("a socket is a name and a port")?;
        let listener = TcpListener::bind((instance.address.as_str(), port.trim().parse()?))?;
        if name.trim() == "orders" {
            // Only one socket is of this kind: it takes the end that is left.
            let asker = Asker {
                id: instance.id,
                service: instance.service.clone(),
                address: instance.address.clone(),
            };
            let (writer, received) = (agent.try_clone()?, received);
            std::thread::spawn(move || follow(&listener, writer, &asker, &received));
            return listen(agent, &answers);
        }
        std::thread::spawn(move || listener.incoming().for_each(drop));
    }
    listen(agent, &answers)
}

/// Reads what the agent says; answers what needs no thought.
fn listen(agent: TcpStream, answers: &Sender<(Instant, String)>) -> Result<()> {
    let mut writer = agent.try_clone()?;
    let mut reader = BufReader::new(agent);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        match field(&line, "type") {
            "session_response" => drop(answers.send((Instant::now(), line.clone()))),
            "service_instance_health_request" => {
                let mut out = String::new();
                let id = field(&line, "service_instance_id");
                healthy(&mut out, Hop::ToAgent, field(&line, "message_id"), id);
                writer.write_all(out.as_bytes())?;
            }
            "graceful_shutdown_request" => return Ok(()),
            _ => {}
        }
        line.clear();
    }
    Ok(())
}

fn follow(
    listener: &TcpListener,
    mut agent: TcpStream,
    asker: &Asker,
    answers: &Receiver<(Instant, String)>,
) {
    let mut next = (1, FIRST_PORT);
    for stream in listener.incoming().flatten() {
        let mut line = String::new();
        let told = BufReader::new(&stream).read_line(&mut line).map_err(anyhow::Error::from).and_then(|_| {
            let (sessions, window) = line.trim().split_once(' ').context("an order has two numbers")?;
            open(sessions.parse()?, window.parse()?, &mut next, &mut agent, asker, answers)
        });
        let mut stream = stream;
        let _ = match told {
            Ok([took, p50, p99]) => writeln!(stream, "{took} {p50} {p99}"),
            Err(error) => writeln!(stream, "error: {error:#}"),
        };
    }
}

fn open(
    sessions: u64,
    window: usize,
    (number, port): &mut (u64, u16),
    agent: &mut TcpStream,
    asker: &Asker,
    answers: &Receiver<(Instant, String)>,
) -> Result<[u64; 3]> {
    let (mut asked, mut latencies) = (HashMap::new(), Histogram::<u64>::new(3)?);
    let (mut left, mut out) = (sessions, String::new());
    let begun = Instant::now();
    while left > 0 || !asked.is_empty() {
        while left > 0 && asked.len() < window {
            (left, *number) = (left - 1, *number + 1);
            request(&mut out, Hop::ToAgent, *number, asker, "asked");
            asked.insert(*number, Instant::now());
        }
        agent.write_all(out.as_bytes())?;
        out.clear();
        let first = answers.recv().context("the agent is gone")?;
        for (at, answer) in std::iter::once(first).chain(answers.try_iter()) {
            if field(&answer, "status") != "200" {
                bail!("{answer}");
            }
            let Some(since) = field(&answer, "message_id").parse().ok().and_then(|id: u64| asked.remove(&id))
            else {
                continue;
            };
            latencies.record(at.duration_since(since).as_nanos() as u64)?;
            *port = port.checked_add(1).unwrap_or(FIRST_PORT);
            acknowledgement(&mut out, Hop::ToAgent, &answer, asker, *port);
        }
    }
    agent.write_all(out.as_bytes())?;
    let took = begun.elapsed().as_nanos() as u64;
    Ok([took, latencies.value_at_quantile(0.5), latencies.value_at_quantile(0.99)])
}
