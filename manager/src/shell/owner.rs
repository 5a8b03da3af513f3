//! The engine's owner and what is around it: queues, clock, agents' connections, those who wait for answers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use patchbay_api as api;
use patchbay_manager_core::engine::{self, Engine, Outside};
use patchbay_manager_core::{Connection, Core, Effect, Event, Refusal, Ticket};
use ssmmp::{Envelope, Repeated};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tracing::{debug, error, info, warn};

use super::{Input, Question, now};
use crate::dns::Names;
use crate::metrics::Metrics;
use crate::server::{Unread, Way};
use crate::store::{Store, StoreError};

/// History that can't be removed.
static NOT_PRUNED: Repeated = Repeated::new();
/// Writes that the database refused.
static NOT_WRITTEN: Repeated = Repeated::new();
/// How long the Manager waits before it tries a refused write again.
const WRITE_RETRY: Duration = Duration::from_millis(500);

/// The engine, and the ways to everybody else.
pub struct Owner {
    engine: Engine<Measured, Question>,
    around: Around,
}

/// The database, and how long it takes.
struct Measured {
    store: Store,
    metrics: Arc<Metrics>,
}

/// What is around the engine.
pub struct Around {
    names: Option<Arc<Names>>,
    inputs: mpsc::Receiver<Input>,
    /// Events that go before those.
    later: VecDeque<Event>,
    events: broadcast::Sender<api::Event>,
    trouble: watch::Sender<Option<String>>,
    metrics: Arc<Metrics>,
    ways: HashMap<Connection, Way>,
    askers: HashMap<Ticket, Asker>,
    last_ticket: u64,
    text: String,
}

/// Who waits for an answer.
enum Asker {
    Refresh(oneshot::Sender<()>),
    Command(oneshot::Sender<Result<api::Done, Refusal>>),
    Apply(oneshot::Sender<Result<api::Plan, String>>),
    Output(oneshot::Sender<Result<api::Log, Refusal>>),
}

/// What the core has answered.
enum Answer {
    Refreshed,
    Command(Result<api::Done, Refusal>),
    Applied(Result<api::Plan, String>),
    Output(Result<api::Log, Refusal>),
}

/// What is done when the database refuses to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It is tried until it works.
    Waits,
    /// It is left to the one who waits.
    Leaves,
}

impl engine::Store for Measured {
    type Error = StoreError;

    fn commit(&mut self, effects: &mut [Effect]) -> Result<(), StoreError> {
        let begun = Instant::now();
        let rows = self.store.write(effects)?;
        if rows > 0 {
            self.metrics.commit_seconds.observe(begun.elapsed().as_secs_f64());
            self.metrics.rows.inc_by(rows as u64);
        }
        Ok(())
    }
}

impl Owner {
    /// An engine that nothing has come to yet.
    pub fn new(core: Core, store: Store, around: Around) -> Self {
        let metrics = around.metrics.clone();
        Self { engine: Engine::new(core, Measured { store, metrics }), around }
    }

    /// When the engine or the store wants to be looked at without an input, milliseconds since 1970.
    pub fn due(&mut self) -> u64 {
        let prune = self.engine.store().store.prune_due();
        self.engine.core().next_deadline().map_or(prune, |deadline| deadline.min(prune))
    }

    /// Whether everybody who could send an input is gone.
    pub fn is_over(&self) -> bool {
        self.around.inputs.is_closed() && self.around.inputs.is_empty()
    }

    /// Whether something waits to be handled or written.
    pub fn has_work(&self) -> bool {
        let around = &self.around;
        self.engine.has_unwritten() || !around.later.is_empty() || !around.inputs.is_empty()
    }

    /// Handles what waits; false when nothing did. Where there is no time to wait for a database that refuses to
    /// be written, the rest is left to who has it.
    pub fn batch(&mut self, patience: Patience) -> bool {
        loop {
            match self.engine.batch(&mut self.around) {
                Ok(took) => return took,
                Err(problem) => self.around.refused(&problem),
            }
            if patience == Patience::Leaves {
                return false;
            }
            std::thread::sleep(WRITE_RETRY);
        }
    }

    /// Nothing waits: does what is due by itself.
    pub fn idle(&mut self) {
        while let Err(problem) = self.engine.tick(&mut self.around) {
            self.around.refused(&problem);
            std::thread::sleep(WRITE_RETRY);
        }
        let now = now();
        let store = &mut self.engine.store().store;
        if store.prune_due() <= now
            && let Err(problem) = store.prune(now)
            && let Some(times) = crate::again(&NOT_PRUNED)
        {
            warn!(times, "old history can't be removed, it is tried again: {problem}");
        }
    }
}

impl Outside for Around {
    type Question = Question;

    fn now(&self) -> u64 {
        now()
    }

    fn next(&mut self) -> Option<engine::Input<Question>> {
        if let Some(event) = self.later.pop_front() {
            return Some(engine::Input::Event(event));
        }
        loop {
            let event = match self.inputs.try_recv().ok()? {
                Input::Lost(connection) => {
                    self.ways.remove(&connection);
                    Event::Lost(connection)
                }
                Input::Answer(connection, envelope) => Event::Message(connection, envelope),
                // Its place is free again: it is handled next.
                Input::Message(connection, envelope, _place) => Event::Message(connection, envelope),
                Input::Connected(connection, way) => {
                    self.ways.insert(connection, way);
                    continue;
                }
                Input::Notice(kind, subject, text) => Event::Notice(kind, subject, text),
                Input::Ask(question) => return Some(engine::Input::Question(question)),
                Input::Command(command, sender) => {
                    Event::Command(self.ticket(Asker::Command(sender)), command)
                }
                Input::Apply(apply, sender) => Event::Apply(self.ticket(Asker::Apply(sender)), apply),
                Input::Output(question, sender) => {
                    Event::Output(self.ticket(Asker::Output(sender)), question)
                }
                Input::Refresh(sender) => Event::Refresh(self.ticket(Asker::Refresh(sender))),
            };
            return Some(engine::Input::Event(event));
        }
    }

    fn speak(&mut self, core: &Core, effects: Vec<Effect>) {
        if self.trouble.borrow().is_some() {
            info!("the database can be written again");
            self.trouble.send_replace(None);
        }
        if let Some(names) = &self.names {
            names.follow(core, &effects);
        }
        let mut sent: BTreeMap<Connection, Vec<Envelope>> = BTreeMap::new();
        for effect in effects {
            match effect {
                Effect::Save(_) => {}
                Effect::Send(connection, envelope) => sent.entry(connection).or_default().push(envelope),
                Effect::Close(connection) => {
                    self.send(connection, sent.remove(&connection).unwrap_or_default());
                    self.ways.remove(&connection);
                }
                Effect::Publish(event) => {
                    log(&event);
                    let _ = self.events.send(event);
                }
                Effect::Refreshed(ticket) => self.answer_to(ticket, Answer::Refreshed),
                Effect::Output(ticket, answer) => self.answer_to(ticket, Answer::Output(answer)),
                Effect::Answer(ticket, answer) => self.answer_to(ticket, Answer::Command(answer)),
                Effect::Applied(ticket, answer) => self.answer_to(ticket, Answer::Applied(answer)),
            }
        }
        for (connection, envelopes) in sent {
            self.send(connection, envelopes);
        }
    }

    fn answer(&mut self, question: Question, core: &Core) {
        question(core);
    }
}

impl Around {
    /// Nobody is connected and nobody waits.
    pub fn new(
        names: Option<Arc<Names>>,
        inputs: mpsc::Receiver<Input>,
        events: broadcast::Sender<api::Event>,
        trouble: watch::Sender<Option<String>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            names,
            inputs,
            later: VecDeque::new(),
            events,
            trouble,
            metrics,
            ways: HashMap::new(),
            askers: HashMap::new(),
            last_ticket: 0,
            text: String::new(),
        }
    }

    fn ticket(&mut self, asker: Asker) -> Ticket {
        self.last_ticket += 1;
        self.askers.insert(Ticket(self.last_ticket), asker);
        Ticket(self.last_ticket)
    }

    /// Who asked may be gone.
    fn answer_to(&mut self, ticket: Ticket, answer: Answer) {
        match (self.askers.remove(&ticket), answer) {
            (Some(Asker::Refresh(sender)), Answer::Refreshed) => drop(sender.send(())),
            (Some(Asker::Output(sender)), Answer::Output(answer)) => drop(sender.send(answer)),
            (Some(Asker::Command(sender)), Answer::Command(answer)) => drop(sender.send(answer)),
            (Some(Asker::Apply(sender)), Answer::Applied(answer)) => drop(sender.send(answer)),
            _ => {}
        }
    }

    /// The database refuses to be written. The queue fills meanwhile, then agents' connections wait.
    fn refused(&self, problem: &StoreError) {
        self.metrics.refused_writes.inc();
        if let Some(times) = crate::again(&NOT_WRITTEN) {
            error!(
                times,
                "the database refuses to be written, nothing is answered until it can be: {problem}"
            );
        }
        self.trouble.send_replace(Some(problem.to_string()));
    }

    fn send(&mut self, connection: Connection, envelopes: Vec<Envelope>) {
        let Some(way) = self.ways.get(&connection) else { return };
        match way.send(envelopes, &mut self.text) {
            Ok(answers) => {
                self.later.extend(answers.into_iter().map(|answer| Event::Message(connection, answer)));
            }
            Err(Unread) => {
                // An agent that does not read is cut off; it reconciles when it comes back.
                warn!(
                    connection = connection.0,
                    "an agent does not read its messages; its connection is closed"
                );
                self.ways.remove(&connection);
            }
        }
    }
}

/// Sessions come and go by the thousands a second: they are in the database and in the stream of events.
fn log(event: &api::Event) {
    let (subject, text) = (api::visible(&event.subject), api::visible(&event.text));
    match event.kind.as_str() {
        "session-opened" | "session-closed" => {
            debug!(kind = event.kind, %subject, "{text}");
        }
        _ => info!(kind = event.kind, %subject, "{text}"),
    }
}
