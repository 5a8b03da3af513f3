//! What a session and the agent's connection leave for each other.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Waker;
use std::time::Duration;

use patchbay_shared_memory::Offer;
use patchbay_shared_memory::handing::Named;
use tokio::time::Instant;

use crate::registry::lock;

/// One session's place.
pub struct Slot {
    pub named: Named,
    /// How long it waits without sleeping at most.
    pub spin: Duration,
    state: Mutex<State>,
    /// Whether the session has to look into the state: an answer is awaited, or there is a word for it.
    stirred: AtomicBool,
    /// The memory that was taken.
    memory: OnceLock<OwnedFd>,
    in_use: Use,
    /// When bytes had gone last when pages were given back, and one more.
    given_back: AtomicU64,
}

/// When a session was used.
#[derive(Clone)]
pub struct Use {
    pub begun: Instant,
    /// When bytes went last, in milliseconds since then.
    pub last: Arc<AtomicU64>,
}

impl Use {
    /// One that begins now.
    pub fn new() -> Self {
        Self { begun: Instant::now(), last: Arc::default() }
    }

    /// Bytes go now.
    pub fn note(&self) {
        self.last.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct State {
    answer: Answer,
    /// Tasks that wait on TCP: reader and writer.
    wakers: [Option<Waker>; 2],
    /// The stream's, once it has memory.
    stream: Option<Waker>,
    move_to_tcp: bool,
    give_back: bool,
}

#[derive(Default)]
enum Answer {
    #[default]
    Awaited,
    Offered(Box<Offer>),
    Taken,
    Refused,
}

/// What the session finds.
#[derive(Default)]
pub struct News {
    pub offer: Option<Box<Offer>>,
    pub move_to_tcp: bool,
    pub give_back: bool,
}

impl Slot {
    pub fn new(named: Named, spin: Duration, in_use: Use) -> Self {
        Self {
            named,
            spin,
            state: Mutex::default(),
            stirred: AtomicBool::new(true),
            memory: OnceLock::new(),
            in_use,
            given_back: AtomicU64::new(0),
        }
    }

    /// The agent has memory for it.
    pub fn offered(&self, offer: Offer) {
        let mut state = lock(&self.state);
        if matches!(state.answer, Answer::Awaited) {
            state.answer = Answer::Offered(Box::new(offer));
            self.wake(state);
        }
    }

    /// The agent has none for it.
    pub fn refused(&self) {
        let mut state = lock(&self.state);
        if matches!(state.answer, Answer::Awaited) {
            state.answer = Answer::Refused;
            state.wakers = [None, None];
            self.stirred.store(false, Ordering::Relaxed);
        }
    }

    /// The session is to move to TCP: one that has no memory yet takes none.
    pub fn move_to_tcp(&self) {
        let mut state = lock(&self.state);
        match state.answer {
            Answer::Taken => state.move_to_tcp = true,
            _ => state.answer = Answer::Refused,
        }
        self.wake(state);
    }

    /// Has it give free pages back, once, when it has carried nothing for so long.
    pub fn give_back_after(&self, idle: Duration) {
        let used = self.in_use.last.load(Ordering::Relaxed);
        let since = self.in_use.begun.elapsed().saturating_sub(Duration::from_millis(used));
        if self.memory.get().is_none() || since < idle {
            return;
        }
        if self.given_back.swap(used + 1, Ordering::Relaxed) > used {
            return;
        }
        let mut state = lock(&self.state);
        state.give_back = true;
        self.wake(state);
    }

    fn wake(&self, mut state: std::sync::MutexGuard<'_, State>) {
        self.stirred.store(true, Ordering::Release);
        let wakers = std::mem::take(&mut state.wakers);
        let stream = state.stream.clone();
        drop(state);
        for waker in wakers.into_iter().flatten().chain(stream) {
            waker.wake();
        }
    }

    pub fn is_waiting(&self) -> bool {
        matches!(lock(&self.state).answer, Answer::Awaited)
    }

    pub fn is_refused(&self) -> bool {
        matches!(lock(&self.state).answer, Answer::Refused)
    }

    /// The memory that the session has taken.
    pub fn memory(&self) -> Option<BorrowedFd<'_>> {
        self.memory.get().map(|memory| memory.as_fd())
    }

    /// What there is for the session. A task that waits on TCP for the agent's answer is woken when it comes.
    pub fn news(&self, task: usize, waker: &Waker) -> News {
        if !self.stirred.load(Ordering::Acquire) {
            return News::default();
        }
        let mut state = lock(&self.state);
        if let Answer::Awaited = state.answer {
            match &mut state.wakers[task] {
                Some(known) => known.clone_from(waker),
                place => *place = Some(waker.clone()),
            }
            return News::default();
        }
        self.stirred.store(false, Ordering::Relaxed);
        let offer = match std::mem::replace(&mut state.answer, Answer::Refused) {
            Answer::Offered(offer) => Some(offer),
            other => {
                state.answer = other;
                None
            }
        };
        let move_to_tcp = std::mem::take(&mut state.move_to_tcp);
        News { offer, move_to_tcp, give_back: std::mem::take(&mut state.give_back) }
    }

    /// The session has taken its memory.
    pub fn taken(&self, memory: Option<OwnedFd>, stream: Waker) {
        let mut state = lock(&self.state);
        state.answer = Answer::Taken;
        state.stream = Some(stream);
        if let Some(memory) = memory {
            let _ = self.memory.set(memory);
        }
        // The other task waits on TCP and must look at the memory too.
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}
