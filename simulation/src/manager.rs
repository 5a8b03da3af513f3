//! The Manager's shell: events to the real core, rows to the real store, then effects one by one, any of
//! which may be the last.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;

use patchbay_manager::store::Store;
use patchbay_manager_core::graph::Graph;
use patchbay_manager_core::{Command, Config, Core, Effect, Event, Identity};
use ssmmp::{InstanceId, Message};

use crate::durable;
use crate::schedule::{Happening, Life, Millis};
use crate::trace::Party;
use crate::world::World;

/// The Manager's clock when the simulation begins, milliseconds since 1970.
const BEGIN: i64 = 1_750_000_000_000;
/// Events handled in one transaction at most.
const BATCH: u64 = 8;

/// What people ask for, and what they were told.
#[derive(Debug, Clone)]
pub enum Call {
    /// Apply a graph's text.
    Apply(String, String),
    /// Anything else.
    Command(Command),
}

impl Call {
    /// The application whose text or stop is promised by its answer.
    fn app(&self) -> Option<&String> {
        match self {
            Self::Apply(app, _) | Self::Command(Command::StopApp(app)) => Some(app),
            Self::Command(_) => None,
        }
    }
}

enum Input {
    Event(Box<Event>),
    Call(Call),
}

/// The Manager's program, running or not.
pub struct Manager {
    /// The real core, while it runs.
    pub core: Option<Core>,
    /// Which start of the Manager it is.
    pub life: Life,
    /// Whether it is stopped (SIGSTOP).
    pub frozen: bool,
    /// Effects until it is killed.
    pub crash_in: Option<u32>,
    /// How much its clock is ahead, from its next start on.
    pub clock_ahead: i64,
    /// Applications as people were told: the text, or `None` once stopped.
    pub promised: BTreeMap<String, Option<String>>,
    clock: i64,
    database: PathBuf,
    store: Option<Store>,
    inbox: VecDeque<Input>,
    works_planned: bool,
    tick: Option<Millis>,
    /// Requests sent, by id: none means two things.
    sent: BTreeMap<u64, Rc<str>>,
    /// Instances executed, by id, with node and ports.
    executed: BTreeMap<InstanceId, (usize, String)>,
}

impl Manager {
    /// One that has not started; its database is made at its first start.
    pub fn new(database: PathBuf) -> Self {
        Self {
            core: None,
            life: 0,
            frozen: false,
            crash_in: None,
            clock_ahead: 0,
            promised: BTreeMap::new(),
            clock: BEGIN,
            database,
            store: None,
            inbox: VecDeque::new(),
            works_planned: false,
            tick: None,
            sent: BTreeMap::new(),
            executed: BTreeMap::new(),
        }
    }

    /// The times of the simulation: shorter than usual, so that a run sees them all.
    pub fn config() -> Config {
        Config {
            start_timeout: 12_000,
            shutdown_timeout: 4_000,
            health_interval: 5_000,
            idle_timeout: 20_000,
            agent_grace: 8_000,
        }
    }

    /// What the Manager's clock shows.
    pub fn clock(&self, now: Millis) -> Millis {
        (now as i64 + self.clock).max(0) as Millis
    }
}

impl World {
    /// The Manager starts, with what its database holds.
    pub fn manager_starts(&mut self) {
        if self.manager.core.is_some() {
            return;
        }
        self.lives += 1;
        let manager = &mut self.manager;
        manager.life = self.lives;
        manager.clock = BEGIN + manager.clock_ahead;
        let started = (|| {
            let store = Store::open(&manager.database)?;
            let mut core =
                Core::new(Manager::config(), store.next_epoch()?, manager.clock(self.schedule.now));
            // As the real one: its agents know by it that it knows extensions. What the database drew is no seed's.
            let identity = store.identify(manager.clock(self.schedule.now))?;
            core.identity = Some(Identity { id: "simulated".into(), ..identity });
            store.restore(&mut core)?;
            Ok::<_, patchbay_manager::store::StoreError>((store, core))
        })();
        match started {
            Ok((store, core)) => {
                (manager.store, manager.core) = (Some(store), Some(core));
                self.note(Party::Manager, "starts");
                self.check_promises();
                self.plan_tick();
            }
            Err(problem) => self.violated(format!("the Manager can't start: {problem}")),
        }
    }

    /// An event for the Manager, if it runs.
    pub fn manager_gets(&mut self, event: Event) {
        self.input(Input::Event(Box::new(event)));
    }

    /// Somebody uses the API.
    pub fn call(&mut self, call: Call) {
        self.note(Party::Outside, &format!("asks: {}", describe(&call)));
        if let Some(app) = call.app() {
            *self.calls_under_way.entry(app.clone()).or_default() += 1;
        }
        self.input(Input::Call(call));
    }

    fn input(&mut self, input: Input) {
        if self.manager.core.is_none() {
            return;
        }
        self.manager.inbox.push_back(input);
        self.plan_work();
    }

    fn plan_work(&mut self) {
        if !self.manager.works_planned && !self.manager.frozen {
            self.manager.works_planned = true;
            let delay = self.random(0, 1);
            self.after(delay, Happening::ManagerWorks(self.manager.life));
        }
    }

    /// The Manager handles a batch of what waits: one transaction, then its effects.
    pub fn manager_works(&mut self, life: Life) {
        let manager = &mut self.manager;
        if manager.life != life || manager.frozen {
            return;
        }
        manager.works_planned = false;
        let Some(core) = &mut manager.core else { return };
        let clock = (self.schedule.now as i64 + manager.clock).max(0) as Millis;
        let mut effects = Vec::new();
        let mut calls = Vec::new();
        let batch = rand::Rng::random_range(&mut self.rng, 1..=BATCH);
        for _ in 0..batch {
            match manager.inbox.pop_front() {
                Some(Input::Event(event)) => effects.extend(core.handle(clock, *event)),
                Some(Input::Call(call)) => {
                    if let Some(event) = event_of(&call) {
                        effects.extend(core.handle(clock, event));
                        calls.push(call);
                    }
                    // The answer may reveal what is not on disk yet.
                    break;
                }
                None => break,
            }
        }
        self.manager_performs(effects, calls);
        if self.manager.core.is_some() && !self.manager.inbox.is_empty() {
            self.plan_work();
        }
        self.plan_tick();
    }

    /// The Manager's next deadline has come.
    pub fn manager_ticks(&mut self, life: Life, planned: Millis) {
        let manager = &mut self.manager;
        if manager.life != life || manager.frozen || manager.tick != Some(planned) {
            return;
        }
        manager.tick = None;
        let clock = manager.clock(self.schedule.now);
        let Some(core) = &mut manager.core else { return };
        let effects = core.handle(clock, Event::Tick);
        self.manager_performs(effects, Vec::new());
        self.plan_tick();
    }

    fn plan_tick(&mut self) {
        let manager = &mut self.manager;
        let Some(due) = manager.core.as_ref().and_then(Core::next_deadline) else { return };
        let at = (due as i64 - manager.clock).max(self.schedule.now as i64) as Millis;
        if manager.tick.is_none_or(|planned| planned > at) {
            manager.tick = Some(at);
            self.schedule.at(at, Happening::ManagerTick(manager.life, at));
        }
    }

    fn manager_performs(&mut self, mut effects: Vec<Effect>, calls: Vec<Call>) {
        if self.manager_crashes_now(false) {
            return;
        }
        if let (Some(core), Some(store)) = (&self.manager.core, &mut self.manager.store)
            && let Err(problem) = store.write(core, &mut effects)
        {
            self.violated(format!("the store refuses to be written: {problem}"));
        }
        let mut refused = false;
        for effect in effects {
            if self.manager_crashes_now(true) {
                return;
            }
            match effect {
                Effect::Send(connection, envelope) => {
                    self.check_sent(connection.0, &envelope.message);
                    self.send_down(connection.0, Rc::from(envelope.encode()));
                }
                Effect::Close(connection) => {
                    self.link_ends_at_manager(connection.0);
                    self.manager_gets(Event::Lost(connection));
                }
                Effect::Publish(event) => {
                    let text = format!("{} {}: {}", event.kind, event.subject, event.text);
                    self.note(Party::Manager, &text);
                }
                Effect::Answer(_, Err(refusal)) => {
                    self.note(Party::Outside, &format!("is refused: {refusal:?}"));
                    refused = true;
                }
                _ => {}
            }
        }
        for call in calls {
            if !refused {
                self.note(Party::Outside, &format!("is told 200: {}", describe(&call)));
            }
            if let Some(calls) = call.app().and_then(|app| self.calls_under_way.get_mut(app)) {
                *calls -= 1;
            }
            match call {
                _ if refused => {}
                Call::Apply(app, text) => drop(self.manager.promised.insert(app, Some(text))),
                Call::Command(Command::StopApp(app)) => drop(self.manager.promised.insert(app, None)),
                Call::Command(_) => {}
            }
        }
        self.looks_due = true;
    }

    /// Every request has an id of its own, every instance too.
    fn check_sent(&mut self, link: u64, message: &Message) {
        let is_answer = matches!(message, Message::InitiationResponse(_) | Message::SessionResponse(_));
        let Some(number) = message.message_id().number().filter(|_| !is_answer) else { return };
        let text: Rc<str> = Rc::from(format!("{message:?}"));
        if self.manager.sent.get(&number).is_some_and(|earlier| *earlier != text) {
            self.violated(format!("the Manager uses the message id {number} twice"));
        }
        self.manager.sent.insert(number, text);
        if let Message::ExecutionRequest(request) = message
            && let Some(link) = self.links.get(&link)
        {
            let place = (link.node, format!("{:?}", request.socket_configuration));
            let earlier = self.manager.executed.insert(request.service_instance_id, place.clone());
            if earlier.is_some_and(|earlier| earlier != place) {
                self.violated(format!("the instance id {} is given twice", request.service_instance_id));
            }
        }
    }

    fn manager_crashes_now(&mut self, written: bool) -> bool {
        let Some(left) = &mut self.manager.crash_in else { return false };
        if let Some(fewer) = left.checked_sub(1) {
            *left = fewer;
            return false;
        }
        self.manager_crashes(written);
        true
    }

    /// The Manager is killed. What it had written is on disk; when it had written all, it is the same
    /// after it has started again.
    pub fn manager_crashes(&mut self, written: bool) {
        let manager = &mut self.manager;
        manager.crash_in = None;
        let Some(core) = manager.core.take() else { return };
        manager.frozen = false;
        (manager.tick, manager.works_planned) = (None, false);
        manager.inbox.clear();
        manager.store = None;
        self.note(Party::Manager, if written { "is killed" } else { "is killed before it writes" });
        let links: Vec<u64> = self.links.keys().copied().collect();
        for link in links {
            self.link_ends_at_manager(link);
        }
        if written && let Err(difference) = durable::same_after_restart(&core, &self.manager.database) {
            self.violated(format!(
                "after a crash the Manager would not know what it had acknowledged: {difference}"
            ));
        }
        let pause = self.random(50, 6_000);
        self.after(pause, Happening::ManagerStarts);
    }

    /// What people were told is still true; a call without an answer may have been heard or not.
    fn check_promises(&mut self) {
        for (app, calls) in std::mem::take(&mut self.calls_under_way) {
            if calls > 0 {
                self.manager.promised.remove(&app);
            }
        }
        let Some(core) = &self.manager.core else { return };
        let broken = self.manager.promised.iter().find(|(name, text)| match (core.app(name), text) {
            (Some(app), Some(text)) => app.stopped || app.text != **text,
            (None, Some(_)) => true,
            (Some(app), None) => !app.stopped,
            (None, None) => false,
        });
        if let Some((name, _)) = broken {
            self.violated(format!("the Manager has forgotten what it was told of the application {name}"));
        }
    }

    /// The Manager is stopped for a while.
    pub fn manager_freezes(&mut self) {
        if self.manager.core.is_none() || self.manager.frozen {
            return;
        }
        self.manager.frozen = true;
        self.note(Party::Manager, "is stopped");
        let pause = self.random(100, 20_000);
        self.after(pause, Happening::ManagerThaws(self.manager.life));
    }

    /// The Manager is continued.
    pub fn manager_thaws(&mut self, life: Life) {
        if self.manager.life != life || !std::mem::take(&mut self.manager.frozen) {
            return;
        }
        self.note(Party::Manager, "is continued");
        self.manager.tick = None;
        self.manager.works_planned = false;
        self.plan_work();
        self.plan_tick();
    }
}

fn event_of(call: &Call) -> Option<Event> {
    match call {
        Call::Apply(_, text) => Some(Event::Apply(Graph::read(text).ok()?.0, text.clone())),
        Call::Command(command) => Some(Event::Command(0, command.clone())),
    }
}

fn describe(call: &Call) -> String {
    match call {
        Call::Apply(app, _) => format!("apply {app}"),
        Call::Command(command) => format!("{command:?}"),
    }
}
