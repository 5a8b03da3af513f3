//! The one thread that owns core and store: events in, rows to disk, then effects out.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use patchbay_api as api;
use ssmmp::Envelope;
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc, oneshot, watch};
use tracing::{debug, error, info, warn};

use crate::core::{Command, Connection, Core, Effect, Event, Refusal};
use crate::dns::Names;
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};

/// Events that may wait for the core; senders wait when it is full.
const QUEUE: usize = 4_096;
/// Events handled in one transaction at most.
const BATCH: usize = 256;
/// Published events that a slow reader may be behind before it is told so.
const READERS_BEHIND: usize = 4_096;
/// How long the Manager waits before it tries a refused write again.
const WRITE_RETRY: Duration = Duration::from_millis(500);

/// A question to the state, answered on the core's thread.
type Question = Box<dyn FnOnce(&Core, &Store) + Send>;

/// What comes to the thread.
pub enum Input {
    /// An event for the core.
    Event(Event),
    /// An agent's message, and its place among those of its connection that may wait.
    Message(Connection, Envelope, OwnedSemaphorePermit),
    /// A new agent connection and the way to it.
    Connected(Connection, mpsc::Sender<Envelope>),
    /// A question.
    Ask(Question),
    /// A command, and where its answer goes once what it began is on disk.
    Command(Command, oneshot::Sender<Result<api::Done, Refusal>>),
    /// Fresh counters are wanted.
    Refresh(oneshot::Sender<()>),
}

/// The way to the core, for everybody else.
#[derive(Clone)]
pub struct Handle {
    inputs: mpsc::Sender<Input>,
    events: broadcast::Sender<api::Event>,
    trouble: watch::Receiver<Option<String>>,
    metrics: Arc<Metrics>,
}

/// Why nothing is answered.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The core's thread has ended.
    #[error("the Manager is shutting down")]
    Ending,
    /// What would be said can't be kept.
    #[error(
        "the database refuses to be written, nothing is answered until it can be; what was asked may still be done then: {0}"
    )]
    Unwritable(String),
}

impl Handle {
    /// Hands something over; waits while the queue is full.
    ///
    /// # Errors
    /// The thread has ended, or the queue is full because the database can't be written.
    pub async fn send(&self, input: Input) -> Result<(), NoAnswer> {
        self.unless_unwritable(self.inputs.send(input)).await?.map_err(|_| NoAnswer::Ending)
    }

    /// Hands over what an agent said; waits while the queue is full, as its connection does then.
    ///
    /// # Errors
    /// The thread has ended.
    pub async fn deliver(&self, input: Input) -> Result<(), NoAnswer> {
        self.inputs.send(input).await.map_err(|_| NoAnswer::Ending)
    }

    /// Asks a question about the state.
    ///
    /// # Errors
    /// The thread has ended, or the database can't be written.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Core, &Store) -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let (sender, receiver) = oneshot::channel();
        let ask: Question = Box::new(move |core, store| drop(sender.send(question(core, store))));
        self.send(Input::Ask(ask)).await?;
        self.unless_unwritable(receiver).await?.map_err(|_| NoAnswer::Ending)
    }

    /// Carries a command out; answered when what it began is on disk.
    ///
    /// # Errors
    /// The thread has ended, or the database can't be written.
    pub async fn command(&self, command: Command) -> Result<Result<api::Done, Refusal>, NoAnswer> {
        let (sender, receiver) = oneshot::channel();
        self.send(Input::Command(command, sender)).await?;
        self.unless_unwritable(receiver).await?.map_err(|_| NoAnswer::Ending)
    }

    /// Has all agents tell their counters; waits for them, bounded by the core.
    ///
    /// # Errors
    /// The thread has ended, or the database can't be written.
    pub async fn refresh(&self) -> Result<(), NoAnswer> {
        let (sender, receiver) = oneshot::channel();
        self.send(Input::Refresh(sender)).await?;
        self.unless_unwritable(receiver).await?.map_err(|_| NoAnswer::Ending)
    }

    async fn unless_unwritable<T>(&self, work: impl Future<Output = T>) -> Result<T, NoAnswer> {
        let mut trouble = self.trouble.clone();
        let unwritable = async {
            match trouble.wait_for(Option::is_some).await {
                Ok(problem) => NoAnswer::Unwritable(problem.clone().unwrap_or_default()),
                Err(_) => NoAnswer::Ending,
            }
        };
        tokio::select! {
            biased;
            result = work => Ok(result),
            no = unwritable => Err(no),
        }
    }

    /// What is counted of the Manager's own work.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Events that wait for the core now, and how many may.
    pub fn queue(&self) -> (usize, usize) {
        let places = self.inputs.max_capacity();
        (places - self.inputs.capacity(), places)
    }

    /// Whether the database can be written, as far as it was tried.
    pub fn is_writable(&self) -> bool {
        self.trouble.borrow().is_none()
    }

    /// Waits until the core's thread has ended, which only a fault makes it do before the Manager ends.
    pub async fn ended(&self) {
        self.inputs.closed().await;
    }

    /// Events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<api::Event> {
        self.events.subscribe()
    }
}

/// Starts the thread, which also keeps the names for the DNS.
///
/// # Errors
/// The thread can't be started.
pub fn start(mut core: Core, store: Store, names: Option<Arc<Names>>) -> std::io::Result<Handle> {
    if let Some(names) = &names {
        names.set(core.gateways());
    }
    core.ready(now());
    let (inputs, receiver) = mpsc::channel(QUEUE);
    let (events, _) = broadcast::channel(READERS_BEHIND);
    let (trouble, watched) = watch::channel(None);
    let metrics = Arc::new(Metrics::default());
    let handle = Handle { inputs, events: events.clone(), trouble: watched, metrics: metrics.clone() };
    let runtime = tokio::runtime::Handle::current();
    let shell = Shell {
        core,
        store,
        names,
        events,
        trouble,
        metrics,
        connections: HashMap::new(),
        refreshing: HashMap::new(),
        commands: HashMap::new(),
        next_ticket: 0,
    };
    std::thread::Builder::new().name("core".into()).spawn(move || shell.run(receiver, &runtime))?;
    Ok(handle)
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    static BEGIN: LazyLock<(u64, Instant)> = LazyLock::new(|| {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (since_1970.as_millis() as u64, Instant::now())
    });
    // Set once: a clock that is put back would stop every time-out, one put ahead would fire them all.
    let (begin, since) = *BEGIN;
    begin + since.elapsed().as_millis() as u64
}

struct Shell {
    core: Core,
    store: Store,
    names: Option<Arc<Names>>,
    events: broadcast::Sender<api::Event>,
    trouble: watch::Sender<Option<String>>,
    metrics: Arc<Metrics>,
    connections: HashMap<Connection, mpsc::Sender<Envelope>>,
    refreshing: HashMap<u64, oneshot::Sender<()>>,
    commands: HashMap<u64, oneshot::Sender<Result<api::Done, Refusal>>>,
    next_ticket: u64,
}

impl Shell {
    fn run(mut self, mut inputs: mpsc::Receiver<Input>, runtime: &tokio::runtime::Handle) {
        loop {
            let due = self.store.prune_due();
            let due = self.core.next_deadline().map_or(due, |deadline| deadline.min(due));
            let pause = Duration::from_millis(due.saturating_sub(now()));
            let input = runtime.block_on(async { tokio::time::timeout(pause, inputs.recv()).await });
            let mut effects = Vec::new();
            match input {
                Ok(None) => return,
                Ok(Some(input)) => self.take(input, &mut effects),
                Err(_) => effects.extend(self.core.handle(now(), Event::Tick)),
            }
            // What already waits is written in the same transaction.
            for _ in 1..BATCH {
                match inputs.try_recv() {
                    Ok(input) => self.take(input, &mut effects),
                    Err(_) => break,
                }
            }
            self.perform(effects);
            self.prune();
        }
    }

    fn prune(&mut self) {
        let now = now();
        if self.store.prune_due() <= now
            && let Err(problem) = self.store.prune(now)
        {
            warn!("old history can't be removed, it is tried again: {problem}");
        }
    }

    fn take(&mut self, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Event(event) => {
                if let Event::Lost(connection) = &event {
                    self.connections.remove(connection);
                }
                effects.extend(self.core.handle(now(), event));
            }
            Input::Message(connection, envelope, place) => {
                effects.extend(self.core.handle(now(), Event::Message(connection, envelope)));
                drop(place);
            }
            Input::Connected(connection, sender) => {
                self.connections.insert(connection, sender);
            }
            Input::Ask(question) => {
                // The answer may reveal what is not on disk yet.
                self.perform(std::mem::take(effects));
                question(&self.core, &self.store);
            }
            Input::Command(command, sender) => {
                self.next_ticket += 1;
                self.commands.insert(self.next_ticket, sender);
                effects.extend(self.core.handle(now(), Event::Command(self.next_ticket, command)));
            }
            Input::Refresh(sender) => {
                self.next_ticket += 1;
                self.refreshing.insert(self.next_ticket, sender);
                effects.extend(self.core.handle(now(), Event::Refresh(self.next_ticket)));
            }
        }
    }

    fn write(&mut self, effects: &mut [Effect]) -> Result<(), StoreError> {
        let begun = Instant::now();
        let rows = self.store.write(&self.core, effects)?;
        if rows > 0 {
            self.metrics.commit_seconds.observe(begun.elapsed().as_secs_f64());
            self.metrics.rows.inc_by(rows as u64);
        }
        Ok(())
    }

    fn perform(&mut self, mut effects: Vec<Effect>) {
        while let Err(problem) = self.write(&mut effects) {
            self.metrics.refused_writes.inc();
            // Said once; the queue fills meanwhile, then agents' connections wait.
            if self.trouble.borrow().is_none() {
                error!("the database refuses to be written, nothing is answered until it can be: {problem}");
            }
            self.trouble.send_replace(Some(problem.to_string()));
            std::thread::sleep(WRITE_RETRY);
        }
        if self.trouble.borrow().is_some() {
            info!("the database can be written again");
            self.trouble.send_replace(None);
        }
        if let Some(names) = &self.names {
            names.follow(&self.core, &effects);
        }
        for effect in effects {
            match effect {
                Effect::Send(connection, envelope) => self.send(connection, envelope),
                Effect::Close(connection) => drop(self.connections.remove(&connection)),
                Effect::Publish(event) => {
                    log(&event);
                    let _ = self.events.send(event);
                }
                Effect::Refreshed(ticket) => {
                    if let Some(sender) = self.refreshing.remove(&ticket) {
                        let _ = sender.send(());
                    }
                }
                Effect::Answer(ticket, answer) => {
                    if let Some(sender) = self.commands.remove(&ticket) {
                        let _ = sender.send(answer);
                    }
                }
                Effect::SaveApp(_)
                | Effect::SaveInstance(_)
                | Effect::SaveSession(_)
                | Effect::SaveService(..)
                | Effect::SaveNode(_) => {}
            }
        }
    }

    fn send(&mut self, connection: Connection, envelope: Envelope) {
        let Some(sender) = self.connections.get(&connection) else { return };
        if sender.try_send(envelope).is_err() {
            // An agent that does not read is cut off; it reconciles when it comes back.
            warn!(connection = connection.0, "an agent does not read its messages; its connection is closed");
            self.connections.remove(&connection);
        }
    }
}

/// Sessions come and go by the thousands a second: they are in the database and in the stream of events.
fn log(event: &api::Event) {
    match event.kind.as_str() {
        "session-opened" | "session-closed" => {
            debug!(kind = event.kind, subject = event.subject, "{}", event.text);
        }
        _ => info!(kind = event.kind, subject = event.subject, "{}", event.text),
    }
}
