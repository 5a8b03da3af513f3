//! What is around the Manager's engine here: the real engine, core and store, with virtual time, links for
//! sockets, a disk that is full at times, and effects one by one, any of which may be the last.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;

use patchbay_manager::store::{Store, StoreError};
use patchbay_manager_core::engine::{self, Engine, Outside};
use patchbay_manager_core::memory::Memory;
use patchbay_manager_core::{Apply, Command, Config, Connection, Core, Effect, Event, Identity, Ticket};
use ssmmp::{InstanceId, Message};

use crate::durable;
use crate::schedule::{Happening, Life, Millis};
use crate::trace::Party;
use crate::world::World;

/// The Manager's clock when the simulation begins, milliseconds since 1970.
const BEGIN: i64 = 1_750_000_000_000;
/// Events handled in one transaction at most: fewer than the engine's own bound, so that there are more
/// transactions to be killed between.
const BATCH: u64 = 8;
/// Before a refused write is tried again, milliseconds.
const WRITE_RETRY: Millis = 500;

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

/// What may happen at any moment to a program that writes: shared with its store.
#[derive(Default)]
pub struct Fate {
    /// Effects until it is killed.
    pub crash_in: Cell<Option<u32>>,
    /// Whether its disk is full.
    pub disk_full: Cell<bool>,
    /// It was killed.
    crashed: Cell<Option<Crash>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crash {
    BeforeWriting,
    AfterWriting,
}

impl Fate {
    /// Whether it is killed at this step.
    fn strikes(&self, crash: Crash) -> bool {
        match self.crash_in.get().map(|left| left.checked_sub(1)) {
            Some(Some(fewer)) => self.crash_in.set(Some(fewer)),
            Some(None) => self.crashed.set(Some(crash)),
            None => {}
        }
        self.crashed.get().is_some()
    }
}

/// The real store, on a disk that may be full, in a program that may be killed.
pub struct Disk {
    store: Store,
    /// The same rows once more, to be looked at while the database is in use.
    shadow: Rc<RefCell<Memory>>,
    fate: Rc<Fate>,
}

/// Why nothing was written.
pub enum Refused {
    /// The program was killed.
    Killed,
    /// The disk is full.
    Full,
    /// The store says why.
    Broken(StoreError),
}

impl engine::Store for Disk {
    type Error = Refused;

    fn commit(&mut self, effects: &mut [Effect]) -> Result<(), Refused> {
        if self.fate.strikes(Crash::BeforeWriting) {
            return Err(Refused::Killed);
        }
        if self.fate.disk_full.get() {
            return Err(Refused::Full);
        }
        self.store.write(effects).map_err(Refused::Broken)?;
        self.shadow.borrow_mut().keep(effects);
        Ok(())
    }
}

type Input = engine::Input<()>;

/// The Manager's program, running or not.
pub struct Manager {
    /// The real engine, while the Manager runs and is not just handling something.
    engine: Option<Engine<Disk, ()>>,
    /// Whether it runs.
    pub runs: bool,
    /// Which start of the Manager it is.
    pub life: Life,
    /// Whether it is stopped (SIGSTOP).
    pub frozen: bool,
    /// What may happen to it.
    pub fate: Rc<Fate>,
    /// How much its clock is ahead, from its next start on.
    pub clock_ahead: i64,
    /// Applications as people were told: the text, or `None` once stopped.
    pub promised: BTreeMap<String, Option<String>>,
    clock: i64,
    database: PathBuf,
    shadow: Rc<RefCell<Memory>>,
    inbox: VecDeque<Input>,
    /// Inputs that it still takes in this transaction.
    takes: u64,
    calls: BTreeMap<Ticket, Call>,
    asked: u64,
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
            engine: None,
            runs: false,
            life: 0,
            frozen: false,
            fate: Rc::default(),
            clock_ahead: 0,
            promised: BTreeMap::new(),
            clock: BEGIN,
            database,
            shadow: Rc::default(),
            inbox: VecDeque::new(),
            takes: 0,
            calls: BTreeMap::new(),
            asked: 0,
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

    /// The real core, while it runs.
    pub fn core(&self) -> Option<&Core> {
        self.engine.as_ref().map(Engine::core)
    }

    /// What the Manager's clock shows.
    pub fn clock(&self, now: Millis) -> Millis {
        (now as i64 + self.clock).max(0) as Millis
    }
}

impl World {
    /// The Manager starts, with what its database holds.
    pub fn manager_starts(&mut self) {
        if self.manager.runs {
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
            core.set_identity(Identity { id: "simulated".into(), ..identity });
            store.restore(&mut core)?;
            let disk = Disk { store, shadow: manager.shadow.clone(), fate: manager.fate.clone() };
            Ok::<_, StoreError>(Engine::new(core, disk))
        })();
        match started {
            Ok(engine) => {
                (manager.engine, manager.runs) = (Some(engine), true);
                self.note(Party::Manager, "starts");
                self.check_promises();
                self.plan_tick();
            }
            Err(problem) => self.violated(format!("the Manager can't start: {problem}")),
        }
    }

    /// An event for the Manager, if it runs.
    pub fn manager_gets(&mut self, event: Event) {
        self.input(Input::Event(event));
    }

    /// Somebody uses the API.
    pub fn call(&mut self, call: Call) {
        self.note(Party::Outside, &format!("asks: {}", describe(&call)));
        if let Some(app) = call.app() {
            *self.calls_under_way.entry(app.clone()).or_default() += 1;
        }
        self.manager.asked += 1;
        let ticket = Ticket(self.manager.asked);
        let event = match &call {
            Call::Apply(_, text) => {
                let Ok(apply) = Apply::of_text(text) else { return };
                Event::Apply(ticket, apply.into())
            }
            Call::Command(command) => Event::Command(ticket, command.clone()),
        };
        if self.manager.runs {
            self.manager.calls.insert(ticket, call);
            self.input(Input::Event(event));
            // Whoever looks behind it sees what it began.
            self.input(Input::Question(()));
        }
    }

    fn input(&mut self, input: Input) {
        if self.manager.runs {
            self.manager.inbox.push_back(input);
            self.plan_work();
        }
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
        if self.manager.life != life || self.manager.frozen {
            return;
        }
        self.manager.works_planned = false;
        self.manager.takes = self.random(1, BATCH);
        let Some(mut engine) = self.manager.engine.take() else { return };
        let result = engine.batch(self).map(drop);
        self.manager_is(engine, result);
        if self.manager.runs && !self.manager.inbox.is_empty() {
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
        let Some(mut engine) = manager.engine.take() else { return };
        let result = engine.tick(self);
        self.manager_is(engine, result);
        self.plan_tick();
    }

    /// What has become of the Manager while it worked.
    fn manager_is(&mut self, engine: Engine<Disk, ()>, result: Result<(), Refused>) {
        if let Some(crash) = self.manager.fate.crashed.take() {
            self.manager_crashes(engine, crash);
            return;
        }
        self.manager.engine = Some(engine);
        match result {
            Ok(()) | Err(Refused::Killed) => {}
            Err(Refused::Full) => {
                // Nothing else is done before.
                self.manager.works_planned = true;
                self.after(WRITE_RETRY, Happening::ManagerWorks(self.manager.life));
            }
            Err(Refused::Broken(problem)) => {
                self.violated(format!("the store refuses to be written: {problem}"));
            }
        }
    }

    fn plan_tick(&mut self) {
        let manager = &mut self.manager;
        let Some(engine) = manager.engine.as_ref().filter(|engine| !engine.has_unwritten()) else { return };
        let Some(due) = engine.core().next_deadline() else { return };
        let at = (due as i64 - manager.clock).max(self.schedule.now as i64) as Millis;
        if manager.tick.is_none_or(|planned| planned > at) {
            manager.tick = Some(at);
            self.schedule.at(at, Happening::ManagerTick(manager.life, at));
        }
    }

    fn manager_performs(&mut self, effect: Effect) {
        match effect {
            Effect::Send(connection, envelope) => {
                self.check_sent(connection.0, &envelope.message);
                match self.links.get(&connection.0).is_some_and(|link| link.unread) {
                    // Too much waits for an agent that does not read: this message is lost with its link.
                    true => self.manager_closes(connection),
                    false => self.send_down(connection.0, Rc::from(envelope.encode())),
                }
            }
            Effect::Close(connection) => self.manager_closes(connection),
            Effect::Publish(event) => {
                let text = format!("{} {}: {}", event.kind, event.subject, event.text);
                self.note(Party::Manager, &text);
            }
            Effect::Answer(ticket, answer) => self.told(ticket, answer.err().map(|r| format!("{r:?}"))),
            Effect::Applied(ticket, answer) => self.told(ticket, answer.err()),
            Effect::Save(_) | Effect::Refreshed(_) | Effect::Output(..) => {}
        }
    }

    fn manager_closes(&mut self, connection: Connection) {
        self.link_ends_at_manager(connection.0);
        self.manager_gets(Event::Lost(connection));
    }

    /// Somebody who has used the API is answered.
    fn told(&mut self, ticket: Ticket, refused: Option<String>) {
        let Some(call) = self.manager.calls.remove(&ticket) else { return };
        if let Some(calls) = call.app().and_then(|app| self.calls_under_way.get_mut(app)) {
            *calls -= 1;
        }
        if let Some(refusal) = refused {
            self.note(Party::Outside, &format!("is refused: {refusal}"));
            return;
        }
        self.note(Party::Outside, &format!("is told 200: {}", describe(&call)));
        match call {
            Call::Apply(app, text) => drop(self.manager.promised.insert(app, Some(text))),
            Call::Command(Command::StopApp(app)) => drop(self.manager.promised.insert(app, None)),
            Call::Command(_) => {}
        }
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

    /// The Manager is killed. What it had written is on disk; when it had written all, it is the same
    /// after it has started again.
    fn manager_crashes(&mut self, engine: Engine<Disk, ()>, crash: Crash) {
        let (core, disk) = engine.into_parts();
        let manager = &mut self.manager;
        drop(disk);
        manager.fate.crash_in.set(None);
        (manager.runs, manager.frozen) = (false, false);
        (manager.tick, manager.works_planned) = (None, false);
        manager.inbox.clear();
        manager.calls.clear();
        let is_written = crash == Crash::AfterWriting;
        self.note(Party::Manager, if is_written { "is killed" } else { "is killed before it writes" });
        let links: Vec<u64> = self.links.keys().copied().collect();
        for link in links {
            self.link_ends_at_manager(link);
        }
        if is_written && let Err(difference) = durable::same_after_restart(&core, &self.manager.database) {
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
        let Some(core) = self.manager.core() else { return };
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
        if !self.manager.runs || self.manager.frozen {
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

impl Outside for World {
    type Question = ();

    fn now(&self) -> u64 {
        self.manager.clock(self.schedule.now)
    }

    fn next(&mut self) -> Option<Input> {
        if self.manager.fate.crashed.get().is_some() {
            return None;
        }
        self.manager.takes = self.manager.takes.checked_sub(1)?;
        self.manager.inbox.pop_front()
    }

    fn speak(&mut self, _: &Core, effects: Vec<Effect>) {
        for effect in effects {
            if self.manager.fate.strikes(Crash::AfterWriting) {
                return;
            }
            self.manager_performs(effect);
        }
        self.looks_due = true;
    }

    /// What anybody could see now is on disk.
    fn answer(&mut self, (): (), core: &Core) {
        let saved = self.manager.shadow.borrow().saved();
        if self.manager.fate.crashed.get().is_none()
            && let Err(difference) = durable::same(core, saved)
        {
            self.violated(format!("somebody could see what is not on disk: {difference}"));
        }
    }
}

fn describe(call: &Call) -> String {
    match call {
        Call::Apply(app, _) => format!("apply {app}"),
        Call::Command(command) => format!("{command:?}"),
    }
}
