//! Many agents and their instances as far as the Manager can see: peers that register from as many addresses
//! as are wanted, say that whatever is to be executed runs, and ask for sessions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::message::{Asker, Hop, acknowledgement, field, healthy, request};

/// Processors that a fleet may use.
const THREADS: usize = 2;
/// Ports of plugs, from this one up.
const FIRST_PORT: u16 = 10_000;
/// How long sessions may take to be established.
const WITHIN: Duration = Duration::from_secs(600);

/// The agents.
pub struct Fleet {
    // Its threads serve the agents as long as the fleet lives.
    _runtime: Runtime,
    shared: Arc<Shared>,
    agents: Vec<mpsc::UnboundedSender<Order>>,
}

/// What all agents add to.
struct Shared {
    answered: AtomicU64,
    failed: Mutex<Option<String>>,
    latencies: Mutex<Histogram<u64>>,
}

/// Opens so many sessions, with so many requests under way at once.
struct Order {
    sessions: u64,
    window: usize,
}

/// What opening sessions took.
pub struct Opened {
    /// From the first request to the last answer.
    pub took: Duration,
    /// From a request to its answer, nanoseconds.
    pub latencies: Histogram<u64>,
}

struct Agent {
    address: String,
    shared: Arc<Shared>,
    askers: Vec<Asker>,
    asked: HashMap<u64, (Instant, usize)>,
    next: u64,
    port: u16,
    latencies: Histogram<u64>,
}

impl Fleet {
    /// Connects and registers so many agents.
    ///
    /// # Errors
    /// The Manager does not accept them.
    pub fn connect(manager: SocketAddr, agents: usize, services: &str) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
        let shared = Arc::new(Shared {
            answered: AtomicU64::new(0),
            failed: Mutex::new(None),
            latencies: Mutex::new(Histogram::new(3)?),
        });
        let mut orders = Vec::new();
        for number in 0..agents {
            let stream = runtime.block_on(TcpStream::connect(manager)).context("an agent can't connect")?;
            stream.set_nodelay(true)?;
            let agent = Agent {
                address: format!("10.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255),
                shared: shared.clone(),
                askers: Vec::new(),
                asked: HashMap::new(),
                next: 0,
                port: FIRST_PORT,
                latencies: Histogram::new(3)?,
            };
            let (sender, receiver) = mpsc::unbounded_channel();
            let (services, shared) = (services.to_owned(), shared.clone());
            runtime.spawn(async move {
                if let Err(error) = agent.serve(stream, &services, receiver).await {
                    lock(&shared.failed).get_or_insert_with(|| format!("{error:#}"));
                }
            });
            orders.push(sender);
        }
        Ok(Self { _runtime: runtime, shared, agents: orders })
    }

    /// Opens sessions through so many of the agents.
    ///
    /// # Errors
    /// One is refused, or they take too long.
    pub fn open(&self, sessions: u64, agents: usize, window: usize) -> Result<Opened> {
        let agents = agents.min(self.agents.len()).max(1);
        lock(&self.shared.latencies).reset();
        let before = self.shared.answered.load(Ordering::Relaxed);
        let begun = Instant::now();
        for (number, agent) in (0..agents as u64).zip(&self.agents) {
            let share = sessions / agents as u64 + u64::from(number < sessions % agents as u64);
            if share > 0 {
                let _ = agent.send(Order { sessions: share, window });
            }
        }
        let done = || self.shared.answered.load(Ordering::Relaxed) >= before + sessions;
        while !done() {
            if let Some(problem) = lock(&self.shared.failed).clone() {
                bail!("a session could not be opened: {problem}");
            }
            if begun.elapsed() > WITHIN {
                bail!("{sessions} sessions took longer than {} s", WITHIN.as_secs());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Opened { took: begun.elapsed(), latencies: lock(&self.shared.latencies).clone() })
    }
}

impl Agent {
    async fn serve(
        mut self,
        stream: TcpStream,
        services: &str,
        mut orders: mpsc::UnboundedReceiver<Order>,
    ) -> Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::with_capacity(64 * 1024, reader);
        let address = &self.address;
        let mut out = format!(
            "type: initiation_request ~ message_id: 1 ~ agent_network_address: {address} ~ \
             service_repository: ({services}) ~ x_node: {address} ~ x_redirection: kernel\n"
        );
        let (mut line, mut to_open, mut window) = (String::new(), 0, 1);
        loop {
            while to_open > 0 && self.asked.len() < window && !self.askers.is_empty() {
                to_open -= 1;
                self.ask(&mut out);
            }
            if to_open == 0 && self.asked.is_empty() && !self.latencies.is_empty() {
                lock(&self.shared.latencies).add(&self.latencies)?;
                self.shared.answered.fetch_add(self.latencies.len(), Ordering::Relaxed);
                self.latencies.reset();
            }
            if !out.is_empty() {
                writer.write_all(out.as_bytes()).await?;
                out.clear();
            }
            tokio::select! {
                read = reader.read_line(&mut line) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    self.take(line.trim_end(), &mut out)?;
                    line.clear();
                    while reader.buffer().contains(&b'\n') {
                        reader.read_line(&mut line).await?;
                        self.take(line.trim_end(), &mut out)?;
                        line.clear();
                    }
                }
                order = orders.recv() => match order {
                    Some(order) => (to_open, window) = (order.sessions, order.window),
                    None => return Ok(()),
                }
            }
        }
    }

    fn ask(&mut self, out: &mut String) {
        self.next += 1;
        let asker = self.next as usize % self.askers.len();
        let destination = self.askers[asker].service.replacen('a', "b", 1);
        request(out, Hop::ToManager, self.next, &self.askers[asker], &destination);
        self.asked.insert(self.next, (Instant::now(), asker));
    }

    fn take(&mut self, line: &str, out: &mut String) -> Result<()> {
        let number = field(line, "message_id");
        match field(line, "type") {
            "session_response" => {
                let Some((asked, asker)) = number.parse().ok().and_then(|number| self.asked.remove(&number))
                else {
                    return Ok(());
                };
                self.latencies.record(asked.elapsed().as_nanos() as u64)?;
                if field(line, "status") != "200" {
                    bail!("{line}");
                }
                self.port = self.port.checked_add(1).unwrap_or(FIRST_PORT);
                acknowledgement(out, Hop::ToManager, line, &self.askers[asker], self.port);
            }
            "execution_request" => {
                let service = field(line, "service_name").to_owned();
                if service.starts_with('a') {
                    let id = field(line, "service_instance_id").parse()?;
                    self.askers.push(Asker { id, service, address: self.address.clone() });
                }
                *out += &format!("type: execution_response ~ message_id: {number} ~ status: 200\n");
            }
            "service_instance_health_request" => {
                healthy(out, Hop::ToManager, number, field(line, "service_instance_id"));
            }
            "agent_health_control_request" => {
                *out += &format!(
                    "type: agent_health_control_response ~ message_id: {number} ~ sub_type: agent_to_Manager ~ \
                     agent_network_address: {} ~ status: 200\n",
                    self.address
                );
            }
            "initiation_response" if field(line, "status") == "200" => {}
            _ => bail!("unexpected: {line}"),
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
