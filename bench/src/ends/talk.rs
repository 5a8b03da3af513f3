//! What one end does on one connection, as a state machine that makes one system call at a time. The
//! same machine runs in blocking calls and behind epoll.

use std::io;
use std::time::Instant;

use super::address::Socket;
use super::clock::Clock;
use super::report::Counts;

/// What a reader of a stream offers for each call, in bytes.
const STREAM_BUFFER: usize = 128 << 10;

/// What an end does on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Sends requests and reads the responses; so many, or until the clock stops.
    Asks(Option<u64>),
    /// Reads requests and responds; closes after so many, or at the end.
    Answers(Option<u64>),
    /// Writes.
    Writes,
    /// Reads.
    Reads,
}

/// Whether a step was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There may be another one.
    Made,
    /// It would have had to wait.
    Waits,
    /// The work on this connection is done.
    Done,
}

/// One connection.
pub struct Talk {
    pub socket: Socket,
    part: Part,
    size: usize,
    writing: bool,
    /// Bytes still to be moved in this direction.
    left: usize,
    begun: Instant,
    rounds: u64,
}

/// Room for what is read, and what is written.
pub struct Room(Vec<u8>);

impl Room {
    pub fn new(size: usize) -> Self {
        Self(vec![b'x'; size.max(STREAM_BUFFER)])
    }
}

impl Talk {
    pub fn new(socket: Socket, part: Part, size: usize) -> Self {
        let writing = matches!(part, Part::Asks(_) | Part::Writes);
        Self { socket, part, size, writing, left: size, begun: Instant::now(), rounds: 0 }
    }

    /// A request that began before the connection did.
    pub fn begun(mut self, begun: Instant) -> Self {
        self.begun = begun;
        self
    }

    /// Makes one system call, and what follows from it.
    pub fn step(&mut self, room: &mut Room, clock: &Clock, counts: &mut Counts) -> io::Result<Step> {
        if self.at_boundary() && self.ends(clock) {
            return Ok(Step::Done);
        }
        let moved = match self.writing {
            true => self.socket.write(&room.0[..self.left]),
            false if self.part == Part::Reads => self.socket.read(&mut room.0[..STREAM_BUFFER]),
            false => self.socket.read(&mut room.0[..self.left]),
        };
        let moved = match moved {
            // The other end closes when its work is done.
            Ok(0) => return self.closed(),
            Ok(moved) => moved,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Waits),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Step::Made),
            Err(error) if is_closed(&error) => return self.closed(),
            Err(error) => return Err(error),
        };
        if !self.writing {
            count_bytes(moved, clock, counts);
        }
        if self.part != Part::Reads {
            self.left -= moved;
            if self.left == 0 {
                self.turn(clock, counts);
            }
        }
        Ok(Step::Made)
    }

    /// Whether the connection is between two messages.
    fn at_boundary(&self) -> bool {
        self.left == self.size && (self.writing || matches!(self.part, Part::Answers(_) | Part::Reads))
    }

    fn ends(&self, clock: &Clock) -> bool {
        match self.part {
            Part::Asks(limit) => clock.is_stopped() || limit.is_some_and(|limit| self.rounds >= limit),
            Part::Answers(limit) => !self.writing && limit.is_some_and(|limit| self.rounds >= limit),
            Part::Writes | Part::Reads => clock.is_stopped(),
        }
    }

    fn closed(&self) -> io::Result<Step> {
        match (self.part, self.at_boundary()) {
            (Part::Asks(_), _) | (Part::Answers(_), false) => {
                Err(io::Error::other("the other end closed in the middle of a request"))
            }
            _ => Ok(Step::Done),
        }
    }

    /// A message is complete.
    fn turn(&mut self, clock: &Clock, counts: &mut Counts) {
        self.left = self.size;
        match self.part {
            Part::Asks(_) if self.writing => self.writing = false,
            Part::Asks(_) => {
                let now = Instant::now();
                self.count_request(clock, counts);
                if clock.is_counting() {
                    let nanoseconds = u64::try_from((now - self.begun).as_nanos()).unwrap_or(u64::MAX);
                    counts.latencies.saturating_record(nanoseconds.max(1));
                }
                self.begun = now;
                self.writing = true;
            }
            Part::Answers(_) => {
                if self.writing {
                    self.count_request(clock, counts);
                }
                self.writing = !self.writing;
            }
            Part::Writes | Part::Reads => {}
        }
    }

    fn count_request(&mut self, clock: &Clock, counts: &mut Counts) {
        self.rounds += 1;
        counts.all_requests += 1;
        if clock.is_counting() {
            counts.requests += 1;
            clock.done();
        }
    }
}

fn count_bytes(bytes: usize, clock: &Clock, counts: &mut Counts) {
    counts.all_bytes += bytes as u64;
    if clock.is_counting() {
        counts.bytes += bytes as u64;
        clock.done();
    }
}

/// Whether the other end has ended, which is how streams end.
fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
