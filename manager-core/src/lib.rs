//! The Manager's logic: a pure state machine. [`Core::handle`] takes the time and an event and returns effects;
//! it does no I/O, reads no clock and uses no randomness.
//!
//! An event's handler changes the state and marks what it has touched; then one loop goes through the marks, and what
//! it does marks again, until nothing is left. No function reaches itself through another file's, and what a file
//! uses never uses it (`tests/structure.rs` looks): [`state`] is what the Manager knows, [`inventory`] and [`policy`]
//! are look-ups and decisions, the other files do one thing each.

mod admission;
mod answering;
mod apps;
mod closing;
mod commands;
mod counters;
mod debug_view;
mod ending;
pub mod engine;
mod events;
mod execution;
pub mod graph;
mod health;
pub mod inventory;
pub mod memory;
mod messages;
mod naming;
mod outputs;
mod placing;
mod planning;
pub mod policy;
mod polls;
mod probing;
mod queued_requests;
mod reconcile;
mod redirecting;
mod registration;
mod replacing;
mod replicas;
mod requests;
mod restoring;
mod resync;
mod row;
mod saving;
mod scaling;
mod session_reports;
mod sessions;
mod settling;
mod shutdown;
pub mod state;
mod strangers;
mod text;
mod time;
mod unwanted;
mod view;

#[cfg(test)]
mod tests;

pub use events::{Apply, Command, Effect, Event, OutputQuestion, Redirected, Refusal, Ticket};
use graph::Graph;
pub use inventory::ENDED_KEPT;
use patchbay_api as api;
pub use row::{AppRow, InstanceRow, NodeRow, Row, Saved, ServiceRow};
use state::ManagerState;
use state::agenda::Task;
pub use state::app::{App, ServiceState};
pub use state::config::Config;
use state::delayed::STARTS_AT_ONCE;
pub use state::instance::{Instance, InstanceState, Leaving};
pub use state::node::{Connection, Node};
pub use state::ownership::{Identity, Ownership, Peer};
pub use state::secret::SecretHash;
pub use state::session::{Details, Edge, Session, SessionKey, SessionState};
use state::timers::Timer;
pub use time::Millis;
pub use view::{Gateway, Page};

/// The Manager's state and its only owner.
pub struct Core {
    pub(crate) state: ManagerState,
}

impl Core {
    /// A Manager that knows nothing yet. `epoch` must be larger than at every earlier start: message
    /// ids never repeat.
    pub fn new(config: Config, epoch: u64, now: Millis) -> Self {
        Self { state: ManagerState::new(config, epoch, now) }
    }

    /// Tells who this Manager is; agents are told.
    pub fn set_identity(&mut self, identity: Identity) {
        self.state.identity = Some(identity);
    }

    /// Tells what other Managers own; it is refused here.
    pub fn set_ownership(&mut self, ownership: Ownership) {
        self.state.ownership = ownership;
    }

    /// What other Managers own.
    pub fn ownership(&self) -> &Ownership {
        &self.state.ownership
    }

    /// Takes back what an earlier run had on disk: instances wait for their agents to return; moves,
    /// drains and shutdowns that had begun go on then.
    pub fn restore(&mut self, saved: Saved) {
        restoring::restore(&mut self.state, saved);
    }

    /// Agents can connect from now on: the time for which those of restored instances are waited for
    /// begins.
    pub fn ready(&mut self, now: Millis) {
        restoring::ready(&mut self.state, now);
    }

    /// The one way in.
    pub fn handle(&mut self, now: Millis, event: Event) -> Vec<Effect> {
        let core = &mut self.state;
        core.now = core.now.max(now);
        core.starts_left = STARTS_AT_ONCE;
        core.delayed.hear(matches!(event, Event::Tick));
        match event {
            Event::Message(connection, envelope) => messages::message(core, connection, envelope),
            Event::Lost(connection) => registration::connection_lost(core, connection),
            Event::Apply(ticket, apply) => apps::apply_planned(core, ticket, *apply),
            Event::Command(ticket, command) => {
                let answer = commands::command(core, &command);
                core.effect(Effect::Answer(ticket, answer));
            }
            Event::Refresh(ticket) => counters::refresh(core, ticket),
            Event::Output(ticket, question) => outputs::ask_output(core, ticket, question),
            Event::Notice(kind, subject, text) => core.publish(kind, subject, text),
            Event::Tick => {}
        }
        work_off(core);
        while let Some(id) = core.sessions.overdue(core.now) {
            sessions::session_closed(core, id, ssmmp::Status::NO_ANSWER);
            work_off(core);
        }
        while let Some((at, timer)) = core.timers.due(core.now) {
            timer_due(core, at, timer);
            work_off(core);
        }
        let mut effects = saving::take_rows(core);
        core.sessions.forget_ended();
        core.inventory.forget_ended();
        core.effects.dedup();
        effects.append(&mut core.effects);
        effects
    }

    /// When [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.state.timers.earliest().into_iter().chain(self.state.sessions.next_overdue()).min()
    }

    /// What applying a graph would change and what follows, and what that was seen from.
    pub fn plan(&self, graph: &Graph, text: &str, warnings: Vec<api::Problem>) -> api::Plan {
        planning::plan(&self.state, graph, text, warnings)
    }

    /// Checks a command and says what it would do.
    ///
    /// # Errors
    /// It names what is not there, or what can't be done.
    pub fn preview(&self, command: &Command) -> Result<api::Done, Refusal> {
        commands::preview(&self.state, command)
    }
}

/// Looks at what was touched, until nothing is left.
fn work_off(core: &mut ManagerState) {
    while let Some(task) = core.agenda.next() {
        match task {
            Task::Lost(connection) => registration::connection_lost(core, connection),
            Task::TakeOver(address) => registration::take_over(core, address),
            Task::Stop(id) => shutdown::continue_stop(core, id),
            Task::EndingNode(address) => ending::stop_what_holds_state(core, address),
            Task::Serve(app, service) => requests::serve_waiting(core, &app, &service),
            Task::Weigh(app, service) => scaling::weigh(core, &app, &service),
            Task::Settle(app, service) => settling::settle(core, &app, &service),
        }
    }
}

fn timer_due(core: &mut ManagerState, at: Millis, timer: Timer) {
    match timer {
        Timer::PollNode(address) => health::poll_node(core, address, at),
        Timer::PollInstance(id) => health::poll_instance(core, id, at),
        Timer::Starts => settling::continue_starts(core),
        Timer::Start(id) => execution::start_timed_out(core, id),
        Timer::Settle(app, service) => core.touch(&app, &service),
        Timer::Waiting(app, service) => queued_requests::waited_long(core, &app, &service),
        Timer::Close(session) => closing::close_overdue(core, session),
        Timer::SurvivingEnds => closing::close_next_ends(core),
        Timer::NodeGrace(address) => registration::grace_ended(core, address),
        Timer::NodeEnds(address) => ending::end_node_now(core, address),
        Timer::Drain(id) => shutdown::ask_to_end(core, id),
        Timer::Graceful(id) => shutdown::force_end(core, id),
        Timer::Probe(address) => probing::probe_overdue(core, address),
        Timer::Force(id) => shutdown::send_hard(core, id, 0),
        Timer::Hard(id, tries) => shutdown::send_hard(core, id, tries),
        Timer::Refresh(ticket) => counters::refreshed(core, ticket),
        Timer::Output(ticket) => outputs::output_overdue(core, ticket),
    }
}
