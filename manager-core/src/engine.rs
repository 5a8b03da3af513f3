//! What runs the core: inputs are taken, a batch is one transaction, and nothing is spoken before it is on disk
//! (invariant 2). The Manager, the simulation and the tests run this one; clocks, queues and sockets are theirs.
//!
//! ```text
//!            next                    commit                speak
//!  Outside ────────▶ Core::handle ────────────▶ Store ────────────▶ Outside
//!                        ▲                        │ refused
//!                        └──── nothing is taken ◀─┘ until the same effects are written
//! ```
//!
//! A question sees only what is on disk: what was handled before it is written first.

use crate::Core;
use crate::events::{Effect, Event};
use crate::time::Millis;

/// Events handled in one transaction at most.
pub const BATCH: usize = 256;

/// Where rows and events are kept.
pub trait Store {
    /// Why nothing was written.
    type Error;

    /// Writes the rows and events among effects in one transaction, and numbers the events.
    ///
    /// # Errors
    /// Nothing was written; the same effects are tried again.
    fn commit(&mut self, effects: &mut [Effect]) -> Result<(), Self::Error>;
}

/// What comes to the engine.
#[derive(Debug)]
pub enum Input<Q> {
    /// An event for the core.
    Event(Event),
    /// A question to the state.
    Question(Q),
}

/// What is around the engine.
pub trait Outside {
    /// A question to the state.
    type Question;

    /// The time, milliseconds since 1970.
    fn now(&self) -> Millis;

    /// The next input; `None` when none waits.
    fn next(&mut self) -> Option<Input<Self::Question>>;

    /// Does what follows from what was handled; it is on disk.
    fn speak(&mut self, core: &Core, effects: Vec<Effect>);

    /// Answers a question; all that the core has handled is on disk.
    fn answer(&mut self, question: Self::Question, core: &Core);
}

/// The core, its store, and what waits between them.
pub struct Engine<S, Q> {
    pub(crate) core: Core,
    store: S,
    /// What was handled and is not on disk yet: nothing else is handled before.
    unwritten: Vec<Effect>,
    /// It waits for that.
    question: Option<Q>,
}

impl<S: Store, Q> Engine<S, Q> {
    /// An engine that has handled nothing.
    pub fn new(core: Core, store: S) -> Self {
        Self { core, store, unwritten: Vec::new(), question: None }
    }

    /// The state, as far as it was handled.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The store.
    pub fn store(&mut self) -> &mut S {
        &mut self.store
    }

    /// Ends it; what is not on disk is lost.
    pub fn into_parts(self) -> (Core, S) {
        (self.core, self.store)
    }

    /// Whether something that was handled is not on disk yet.
    pub fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty() || self.question.is_some()
    }

    /// Handles what waits, [`BATCH`] inputs at most, in one transaction; one more for each question. False when
    /// nothing waited.
    ///
    /// # Errors
    /// The store refused: nothing was spoken since, and nothing is taken before the next call has written it.
    pub fn batch(&mut self, outside: &mut impl Outside<Question = Q>) -> Result<bool, S::Error> {
        self.commit(outside)?;
        for count in 0..BATCH {
            match outside.next() {
                Some(Input::Event(event)) => self.handle(outside.now(), event),
                Some(Input::Question(question)) => {
                    self.question = Some(question);
                    self.commit(outside)?;
                }
                None => {
                    self.commit(outside)?;
                    return Ok(count > 0);
                }
            }
        }
        self.commit(outside)?;
        Ok(true)
    }

    /// Does what is due by time.
    ///
    /// # Errors
    /// As of [`Self::batch`].
    pub fn tick(&mut self, outside: &mut impl Outside<Question = Q>) -> Result<(), S::Error> {
        self.commit(outside)?;
        let now = outside.now();
        if self.core.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.handle(now, Event::Tick);
            self.commit(outside)?;
        }
        Ok(())
    }

    fn handle(&mut self, now: Millis, event: Event) {
        self.unwritten.extend(self.core.handle(now, event));
    }

    fn commit(&mut self, outside: &mut impl Outside<Question = Q>) -> Result<(), S::Error> {
        if !self.unwritten.is_empty() {
            self.store.commit(&mut self.unwritten)?;
            outside.speak(&self.core, std::mem::take(&mut self.unwritten));
        }
        if let Some(question) = self.question.take() {
            outside.answer(question, &self.core);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::*;
    use crate::memory::Memory;
    use crate::{Apply, Command, Config, Connection, Ticket};

    /// A disk that refuses at times.
    struct Disk(Rc<RefCell<Memory>>, VecDeque<bool>);

    impl Store for Disk {
        type Error = ();

        fn commit(&mut self, effects: &mut [Effect]) -> Result<(), ()> {
            if self.1.pop_front().unwrap_or(false) {
                return Err(());
            }
            let Ok(()) = self.0.borrow_mut().commit(effects);
            Ok(())
        }
    }

    /// Hears what is said, and looks whether it is on the disk.
    struct Ears {
        disk: Rc<RefCell<Memory>>,
        now: Millis,
        inputs: VecDeque<Input<u64>>,
        answered: Vec<u64>,
        told: Vec<Ticket>,
        events: Vec<u64>,
    }

    impl Ears {
        fn check(&self, core: &Core) {
            let mut again = Core::new(Config::default(), 2, self.now);
            again.restore(self.disk.borrow().saved());
            assert_eq!(facts(core), facts(&again), "it is said and not on disk");
        }
    }

    fn facts(core: &Core) -> String {
        let apps = core.every_app().filter(|(_, app)| !app.stopped).map(|(name, app)| (name, app.text.len()));
        let instances = core.every_instance().map(|i| (i.id, i.state, &i.reason, &i.sockets));
        let drained = core.every_node().filter(|node| core.is_drained(node.address)).map(|node| node.address);
        format!(
            "{:?} {:?} {:?}",
            apps.collect::<Vec<_>>(),
            instances.collect::<Vec<_>>(),
            drained.collect::<Vec<_>>()
        )
    }

    impl Outside for Ears {
        type Question = u64;

        fn now(&self) -> Millis {
            self.now
        }

        fn next(&mut self) -> Option<Input<u64>> {
            self.inputs.pop_front()
        }

        fn speak(&mut self, core: &Core, effects: Vec<Effect>) {
            self.check(core);
            for effect in effects {
                match effect {
                    Effect::Answer(ticket, _) | Effect::Applied(ticket, _) => self.told.push(ticket),
                    Effect::Publish(event) => self.events.push(event.sequence),
                    _ => {}
                }
            }
        }

        fn answer(&mut self, question: u64, core: &Core) {
            self.check(core);
            self.answered.push(question);
        }
    }

    fn input(kind: u8, number: u64) -> Input<u64> {
        let ticket = Ticket(number);
        let message = |line: String| {
            let envelope = ssmmp::Envelope::parse(&line).expect("a message");
            Input::Event(Event::Message(Connection(1 + number % 2), envelope))
        };
        match kind {
            0 => message(format!(
                "type: initiation_request ~ message_id: 1 ~ agent_network_address: 10.0.0.{} ~ service_repository: (gate, store)",
                1 + number % 2
            )),
            1 => {
                let apply = Apply::of_text(crate::tests::GRAPH).expect("good");
                Input::Event(Event::Apply(ticket, apply.into()))
            }
            2 => Input::Event(Event::Command(ticket, Command::StopInstance(ssmmp::InstanceId(number % 4)))),
            3 => Input::Event(Event::Command(ticket, Command::Drain("10.0.0.1".into()))),
            4 => Input::Event(Event::Command(ticket, Command::StopApp("t".into()))),
            5 => Input::Event(Event::Lost(Connection(1 + number % 2))),
            _ => Input::Question(number),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whenever the disk refuses: whatever is spoken or answered is what a Manager that starts again knows, every
        /// question and command is answered once and in its order, and nothing is handled meanwhile.
        #[test]
        fn whatever_is_said_is_on_disk(
            inputs in prop::collection::vec((0u8..8, any::<bool>()), 1..60),
            refusals in prop::collection::vec(any::<bool>(), 0..40),
        ) {
            let disk = Rc::<RefCell<Memory>>::default();
            let store = Disk(disk.clone(), refusals.into());
            let mut engine = Engine::new(Core::new(Config::default(), 1, 0), store);
            let (answered, told, events) = Default::default();
            let mut ears = Ears { disk, now: 0, inputs: VecDeque::new(), answered, told, events };
            let (mut questions, mut tickets) = (Vec::new(), Vec::new());
            for (number, (kind, waits)) in (1..).zip(inputs) {
                let input = input(kind, number);
                match &input {
                    Input::Question(number) => questions.push(*number),
                    Input::Event(Event::Command(ticket, _) | Event::Apply(ticket, _)) => tickets.push(*ticket),
                    Input::Event(_) => {}
                }
                ears.inputs.push_back(input);
                ears.now += 500;
                if waits {
                    continue;
                }
                while engine.batch(&mut ears).is_err() || engine.tick(&mut ears).is_err() {
                    prop_assert!(engine.has_unwritten());
                    let left = ears.inputs.len();
                    if engine.store().1.front() == Some(&true) {
                        prop_assert!(engine.batch(&mut ears).is_err());
                        prop_assert_eq!(ears.inputs.len(), left, "nothing is taken meanwhile");
                    }
                }
                prop_assert!(!engine.has_unwritten() && ears.inputs.is_empty());
            }
            while !matches!(engine.batch(&mut ears), Ok(false)) {}
            prop_assert_eq!(&ears.answered, &questions);
            prop_assert_eq!(&ears.told, &tickets);
            prop_assert!(ears.events.iter().copied().eq(1..=ears.events.len() as u64));
        }
    }
}
