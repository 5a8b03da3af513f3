//! Connections driven by one thread through epoll, edge-triggered.

use std::collections::VecDeque;
use std::io;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::address::Listener;
use super::clock::Clock;
use super::report::Counts;
use super::talk::{Room, Step, Talk};

/// Steps on one connection before others get their turn.
const STEPS: usize = 64;
/// Events taken at once.
const EVENTS: usize = 256;
/// How long waiting lasts before the clock is looked at, in milliseconds.
const LOOK_MS: u16 = 20;
/// The listening socket's number.
const LISTENER: u64 = u64::MAX;

/// All connections of a thread.
pub struct Polled<'a> {
    epoll: Epoll,
    talks: Vec<Option<Talk>>,
    free: Vec<usize>,
    open: usize,
    ready: VecDeque<usize>,
    clock: &'a Clock,
    room: Room,
}

impl<'a> Polled<'a> {
    pub fn new(clock: &'a Clock, room: Room) -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            talks: Vec::new(),
            free: Vec::new(),
            open: 0,
            ready: VecDeque::new(),
            clock,
            room,
        })
    }

    /// Watches a listening socket.
    pub fn listen(&self, listener: &Listener) -> io::Result<()> {
        listener.set_nonblocking()?;
        Ok(self.epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?)
    }

    /// Takes a connection in.
    pub fn add(&mut self, talk: Talk) -> io::Result<()> {
        let place = self.free.pop().unwrap_or_else(|| {
            self.talks.push(None);
            self.talks.len() - 1
        });
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.epoll.add(&talk.socket, EpollEvent::new(flags, place as u64))?;
        self.talks[place] = Some(talk);
        self.open += 1;
        self.ready.push_back(place);
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.open == 0
    }

    /// Waits for something to do and does it. Returns how many connections wait to be accepted at least
    /// (0 or 1) and how many are done.
    pub fn turn(&mut self, counts: &mut Counts) -> io::Result<(bool, usize)> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let timeout = if self.ready.is_empty() { LOOK_MS } else { 0 };
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(nix::Error::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let mut accept = false;
        for event in &events[..count] {
            match event.data() {
                LISTENER => accept = true,
                place => self.ready.push_back(usize::try_from(place).unwrap_or(usize::MAX)),
            }
        }
        let mut done = 0;
        for _ in 0..self.ready.len() {
            let Some(place) = self.ready.pop_front() else { break };
            done += usize::from(self.work(place, counts)?);
        }
        Ok((accept, done))
    }

    /// Whether the connection is done.
    fn work(&mut self, place: usize, counts: &mut Counts) -> io::Result<bool> {
        // An event may come for one that has just ended.
        let Some(Some(talk)) = self.talks.get_mut(place) else { return Ok(false) };
        for _ in 0..STEPS {
            match talk.step(&mut self.room, self.clock, counts)? {
                Step::Made => {}
                Step::Waits => return Ok(false),
                Step::Done => {
                    self.talks[place] = None;
                    self.free.push(place);
                    self.open -= 1;
                    return Ok(true);
                }
            }
        }
        self.ready.push_back(place);
        Ok(false)
    }
}
