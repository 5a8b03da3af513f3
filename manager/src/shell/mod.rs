//! Around the engine, which handles, writes, then speaks: what comes to it and who waits. It has one owner;
//! whoever holds it takes a turn with it (`turns.rs`), so that a message is handled by the task that has read it.

mod handover;
mod owner;
mod turns;

/// What a hand-over is made of; its model has loom's.
mod sync {
    pub use std::sync::atomic::{AtomicBool, Ordering, fence};
    pub use std::sync::{Mutex, TryLockError};
}

use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use patchbay_api as api;
use ssmmp::Envelope;
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc, oneshot, watch};

use crate::dns::Names;
use crate::metrics::Metrics;
use crate::server::Way;
use crate::store::Store;
use owner::{Around, Owner};
use patchbay_manager_core::{Apply, Command, Connection, Core, OutputQuestion, Refusal};
use turns::{Turns, WakeAtEnd};

/// Events that may wait for the core; senders wait when it is full.
const QUEUE: usize = 4_096;
/// Published events that a slow reader may be behind before it is told so.
const READERS_BEHIND: usize = 4_096;

/// A question to the state, answered in a turn of the core's.
type Question = Box<dyn FnOnce(&Core) + Send>;

/// What comes to the core.
pub enum Input {
    /// A new agent connection and the way to it.
    Connected(Connection, Way),
    /// An agent's message, and its place among those of its connection that may wait.
    Message(Connection, Envelope, OwnedSemaphorePermit),
    /// The answer of a connection for its agent, whose dialect has no message to ask it with.
    Answer(Connection, Envelope),
    /// An agent's connection has ended.
    Lost(Connection),
    /// Something that people should know: kind, subject and text of an event.
    Notice(&'static str, String, String),
    /// A question.
    Ask(Question),
    /// A command, and where its answer goes once what it began is on disk.
    Command(Command, oneshot::Sender<Result<api::Done, Refusal>>),
    /// A graph to apply, and where the plan that was carried out goes, or why it was not.
    Apply(Box<Apply>, oneshot::Sender<Result<api::Plan, String>>),
    /// Fresh counters are wanted.
    Refresh(oneshot::Sender<()>),
    /// Lines of an instance's output are wanted.
    Output(OutputQuestion, oneshot::Sender<Result<api::Log, Refusal>>),
}

/// The way to the core, for everybody else.
#[derive(Clone)]
pub struct Handle {
    inputs: mpsc::Sender<Input>,
    events: broadcast::Sender<api::Event>,
    trouble: watch::Receiver<Option<String>>,
    metrics: Arc<Metrics>,
    turns: Arc<Turns>,
    // Dropped behind the inputs: the thread then sees that nobody is left.
    _end: Arc<WakeAtEnd>,
}

/// Why nothing is answered.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The core has ended.
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
        self.unless_unwritable(self.deliver(input)).await??;
        self.turn();
        Ok(())
    }

    /// Hands over what an agent said; waits while the queue is full, as its connection does then. It is
    /// handled at the next [`Self::turn`], with all that was handed over until then.
    ///
    /// # Errors
    /// The thread has ended.
    pub async fn deliver(&self, input: Input) -> Result<(), NoAnswer> {
        match self.inputs.try_send(input) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(NoAnswer::Ending),
            Err(mpsc::error::TrySendError::Full(input)) => {
                self.turns.wake();
                self.inputs.send(input).await.map_err(|_| NoAnswer::Ending)
            }
        }
    }

    /// Has what was handed over handled: here, or by whoever holds the core just now.
    pub fn turn(&self) {
        self.turns.turn();
    }

    /// Asks a question about the state.
    ///
    /// # Errors
    /// The thread has ended, or the database can't be written.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Core) -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        self.answer(|sender| Input::Ask(Box::new(move |core| drop(sender.send(question(core)))))).await
    }

    /// Carries a command out; answered when what it began is on disk.
    ///
    /// # Errors
    /// The thread has ended, or the database can't be written.
    pub async fn command(&self, command: Command) -> Result<Result<api::Done, Refusal>, NoAnswer> {
        self.answer(|sender| Input::Command(command, sender)).await
    }

    /// Applies a graph: what follows from it is seen and begun at one moment. Answered when it is on disk; with a
    /// reason when a plan was to be carried out that is out of date.
    ///
    /// # Errors
    /// The thread has ended, or the database can't be written.
    pub async fn apply(&self, apply: Apply) -> Result<Result<api::Plan, String>, NoAnswer> {
        self.answer(|sender| Input::Apply(Box::new(apply), sender)).await
    }

    /// Has all agents tell their counters; waits for them, bounded by the core.
    ///
    /// # Errors
    /// The thread has ended, or the database can't be written.
    pub async fn refresh(&self) -> Result<(), NoAnswer> {
        self.answer(Input::Refresh).await
    }

    /// Asks for lines of an instance's output; the core bounds how long that takes.
    ///
    /// # Errors
    /// The thread has ended, or the database can't be written.
    pub async fn output(&self, question: OutputQuestion) -> Result<Result<api::Log, Refusal>, NoAnswer> {
        self.answer(|sender| Input::Output(question, sender)).await
    }

    async fn answer<T>(&self, input: impl FnOnce(oneshot::Sender<T>) -> Input) -> Result<T, NoAnswer> {
        let (sender, receiver) = oneshot::channel();
        self.send(input(sender)).await?;
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

    /// Waits for a fault in the core, the only thing that ends it before the Manager ends.
    pub async fn ended(&self) {
        self.turns.ended().await;
    }

    /// Events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<api::Event> {
        self.events.subscribe()
    }
}

/// Starts the thread that takes the core's turns when nobody else does, and keeps the names for the DNS. The thread ends, and
/// the database is closed, when the last handle is gone and what was handed over is written.
///
/// # Errors
/// The thread can't be started.
pub fn start(
    mut core: Core,
    store: Store,
    names: Option<Arc<Names>>,
) -> std::io::Result<(Handle, JoinHandle<()>)> {
    if let Some(names) = &names {
        names.set(core.gateways());
    }
    core.ready(now());
    let (inputs, receiver) = mpsc::channel(QUEUE);
    let (events, _) = broadcast::channel(READERS_BEHIND);
    let (trouble, watched) = watch::channel(None);
    let metrics = Arc::new(Metrics::default());
    let around = Around::new(names, receiver, events.clone(), trouble, metrics.clone());
    let (turns, end, thread) = turns::start(Owner::new(core, store, around))?;
    Ok((Handle { inputs, events, trouble: watched, metrics, turns, _end: end }, thread))
}

/// By how much the machine's clock was set since [`now`] was first asked, milliseconds.
pub fn clock_set() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since_1970.as_millis() as i64 - now().cast_signed()
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
