//! The owner of core and store: takes inputs, writes rows, then speaks.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use patchbay_api as api;
use ssmmp::{Envelope, Repeated};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tracing::{debug, error, info, warn};

use super::{Apply, Input, now};
use crate::dns::Names;
use crate::metrics::Metrics;
use crate::server::{Unread, Way};
use crate::store::{Store, StoreError};
use patchbay_manager_core::{Connection, Core, Effect, Event, Refusal};

/// Events handled in one transaction at most.
const BATCH: usize = 256;
/// History that can't be removed.
static NOT_PRUNED: Repeated = Repeated::new();
/// Writes that the database refused.
static NOT_WRITTEN: Repeated = Repeated::new();
/// How long the Manager waits before it tries a refused write again.
const WRITE_RETRY: Duration = Duration::from_millis(500);

/// Core and store, and the ways to everybody else.
pub struct Owner {
    core: Core,
    store: Store,
    names: Option<Arc<Names>>,
    inputs: mpsc::Receiver<Input>,
    /// Inputs that go before those.
    later: VecDeque<Input>,
    /// Effects that could not be written yet: nothing else is handled before.
    unwritten: Vec<Effect>,
    events: broadcast::Sender<api::Event>,
    trouble: watch::Sender<Option<String>>,
    metrics: Arc<Metrics>,
    ways: HashMap<Connection, Way>,
    refreshing: HashMap<u64, oneshot::Sender<()>>,
    commands: HashMap<u64, oneshot::Sender<Result<api::Done, Refusal>>>,
    /// Plans that were carried out, told once what they began is on disk.
    applied: Vec<(oneshot::Sender<Result<api::Plan, String>>, api::Plan)>,
    outputs: HashMap<u64, oneshot::Sender<Result<api::Log, Refusal>>>,
    next_ticket: u64,
    text: String,
}

/// What is done when the database refuses to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It is tried until it works.
    Waits,
    /// It is left to the one who waits.
    Leaves,
}

impl Owner {
    /// A core that nothing has come to yet.
    pub fn new(
        core: Core,
        store: Store,
        names: Option<Arc<Names>>,
        inputs: mpsc::Receiver<Input>,
        events: broadcast::Sender<api::Event>,
        trouble: watch::Sender<Option<String>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            core,
            store,
            names,
            inputs,
            later: VecDeque::new(),
            unwritten: Vec::new(),
            events,
            trouble,
            metrics,
            ways: HashMap::new(),
            refreshing: HashMap::new(),
            commands: HashMap::new(),
            applied: Vec::new(),
            outputs: HashMap::new(),
            next_ticket: 0,
            text: String::new(),
        }
    }

    /// When the core or the store wants to be looked at without an input, milliseconds since 1970.
    pub fn due(&self) -> u64 {
        let prune = self.store.prune_due();
        self.core.next_deadline().map_or(prune, |deadline| deadline.min(prune))
    }

    /// Whether everybody who could send an input is gone.
    pub fn is_over(&self) -> bool {
        self.inputs.is_closed() && self.inputs.is_empty()
    }

    /// Whether something waits to be handled or written.
    pub fn has_work(&self) -> bool {
        !self.unwritten.is_empty() || !self.later.is_empty() || !self.inputs.is_empty()
    }

    /// Handles what waits, in one transaction; false when nothing did. Where there is no time to wait for a
    /// database that refuses to be written, the rest is left to who has it.
    pub fn batch(&mut self, patience: Patience) -> bool {
        if !self.unwritten.is_empty() && !self.perform(Vec::new(), patience) {
            return false;
        }
        let mut effects = Vec::new();
        let mut took = false;
        for _ in 0..BATCH {
            let Some(input) = self.later.pop_front().or_else(|| self.inputs.try_recv().ok()) else { break };
            took = true;
            if !self.take(input, &mut effects, patience) {
                return true;
            }
        }
        self.perform(effects, patience);
        took
    }

    /// Nothing waits: does what is due by itself.
    pub fn idle(&mut self) {
        if self.core.next_deadline().is_some_and(|deadline| deadline <= now()) {
            let effects = self.core.handle(now(), Event::Tick);
            self.perform(effects, Patience::Waits);
        }
        self.prune();
    }

    fn prune(&mut self) {
        let now = now();
        if self.store.prune_due() <= now
            && let Err(problem) = self.store.prune(now)
            && let Some(times) = crate::again(&NOT_PRUNED)
        {
            warn!(times, "old history can't be removed, it is tried again: {problem}");
        }
    }

    /// Takes an input. False when the database can't be written just now; the input is kept then.
    fn take(&mut self, input: Input, effects: &mut Vec<Effect>, patience: Patience) -> bool {
        match input {
            Input::Event(event) => {
                if let Event::Lost(connection) = &event {
                    self.ways.remove(connection);
                }
                effects.extend(self.core.handle(now(), event));
            }
            Input::Message(connection, envelope, place) => {
                effects.extend(self.core.handle(now(), Event::Message(connection, envelope)));
                drop(place);
            }
            Input::Connected(connection, way) => {
                self.ways.insert(connection, way);
            }
            Input::Ask(question) => {
                // The answer may reveal what is not on disk yet.
                if !self.perform(std::mem::take(effects), patience) {
                    self.later.push_front(Input::Ask(question));
                    return false;
                }
                question(&self.core, &self.store);
            }
            Input::Command(command, sender) => {
                self.next_ticket += 1;
                self.commands.insert(self.next_ticket, sender);
                effects.extend(self.core.handle(now(), Event::Command(self.next_ticket, command)));
            }
            Input::Apply(apply, sender) => {
                let Apply { graph, text, warnings, seen } = *apply;
                let plan = self.core.plan(&graph, &text, warnings);
                if seen.is_some_and(|seen| seen != plan.seen) {
                    let app = &plan.app;
                    let _ = sender.send(Err(format!(
                        "the graph or the application {app} is another one than the plan saw; nothing was changed, plan again"
                    )));
                } else {
                    effects.extend(self.core.handle(now(), Event::Apply(graph, text)));
                    self.applied.push((sender, plan));
                }
            }
            Input::Output(question, sender) => {
                self.next_ticket += 1;
                self.outputs.insert(self.next_ticket, sender);
                effects.extend(self.core.handle(now(), Event::Output(self.next_ticket, question)));
            }
            Input::Refresh(sender) => {
                self.next_ticket += 1;
                self.refreshing.insert(self.next_ticket, sender);
                effects.extend(self.core.handle(now(), Event::Refresh(self.next_ticket)));
            }
        }
        true
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

    /// Writes, then speaks. False when it could not be written: the effects are kept.
    fn perform(&mut self, new: Vec<Effect>, patience: Patience) -> bool {
        let mut effects = std::mem::take(&mut self.unwritten);
        effects.extend(new);
        if effects.is_empty() {
            return true;
        }
        while let Err(problem) = self.write(&mut effects) {
            self.metrics.refused_writes.inc();
            // The queue fills meanwhile, then agents' connections wait.
            if let Some(times) = crate::again(&NOT_WRITTEN) {
                error!(
                    times,
                    "the database refuses to be written, nothing is answered until it can be: {problem}"
                );
            }
            self.trouble.send_replace(Some(problem.to_string()));
            if patience == Patience::Leaves {
                self.unwritten = effects;
                return false;
            }
            std::thread::sleep(WRITE_RETRY);
        }
        if self.trouble.borrow().is_some() {
            info!("the database can be written again");
            self.trouble.send_replace(None);
        }
        if let Some(names) = &self.names {
            names.follow(&self.core, &effects);
        }
        self.speak(effects);
        true
    }

    fn speak(&mut self, effects: Vec<Effect>) {
        for (sender, plan) in self.applied.drain(..) {
            let _ = sender.send(Ok(plan));
        }
        let mut sent: BTreeMap<Connection, Vec<Envelope>> = BTreeMap::new();
        for effect in effects {
            match effect {
                Effect::Send(connection, envelope) => sent.entry(connection).or_default().push(envelope),
                Effect::Close(connection) => {
                    self.send(connection, sent.remove(&connection).unwrap_or_default());
                    self.ways.remove(&connection);
                }
                Effect::Publish(event) => {
                    log(&event);
                    let _ = self.events.send(event);
                }
                Effect::Refreshed(ticket) => {
                    if let Some(sender) = self.refreshing.remove(&ticket) {
                        let _ = sender.send(());
                    }
                }
                Effect::Output(ticket, answer) => {
                    if let Some(sender) = self.outputs.remove(&ticket) {
                        let _ = sender.send(answer);
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
                | Effect::SaveNode(_)
                | Effect::SaveMessageIds => {}
            }
        }
        for (connection, envelopes) in sent {
            self.send(connection, envelopes);
        }
    }

    fn send(&mut self, connection: Connection, envelopes: Vec<Envelope>) {
        let Some(way) = self.ways.get(&connection) else { return };
        match way.send(envelopes, &mut self.text) {
            Ok(answers) => {
                let answers = answers.into_iter().map(|answer| Event::Message(connection, answer));
                self.later.extend(answers.map(Input::Event));
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
