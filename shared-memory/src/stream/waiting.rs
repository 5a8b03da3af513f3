//! How a task of a stream waits: it looks again for a while, then sleeps until the peer signals or is gone.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::task::coop;

use super::MemoryStream;
use super::wakers::Task;
use crate::endpoint::{Gone, Way};
use crate::signal::{self, FLOOD_BYTES, Signalled};

/// Times that one poll looks again before other tasks get their turn. A peer that signals without end costs no more.
const LOOKS: u32 = 8;
/// Times that a poll looks again at once before it lets other tasks run: about a microsecond.
const LOOKS_AT_ONCE: u32 = 48;

impl MemoryStream {
    /// Tries until it succeeds: at once, spinning, or after sleeping.
    pub(super) fn poll_until<T>(
        &mut self,
        cx: &mut Context<'_>,
        task: Task,
        mut attempt: impl FnMut(&mut Self, &mut Context<'_>) -> io::Result<Option<T>>,
    ) -> Poll<io::Result<T>> {
        // One that always finds something lets other tasks run too.
        let turn = ready!(coop::poll_proceed(cx));
        for _ in 0..LOOKS {
            if let Some(found) = attempt(self, cx)? {
                turn.made_progress();
                self.answered(task);
                return Poll::Ready(Ok(found));
            }
            if self.spins(task) {
                if let Some(found) = self.look_a_while(task, &mut attempt, cx)? {
                    turn.made_progress();
                    return Poll::Ready(Ok(found));
                }
                // Other tasks have their turn, and then this one looks again.
                break;
            }
            self.wakers.register(task, cx.waker());
            let ready = match task {
                Task::Reader => self.endpoint.reader_sleeps()?,
                Task::Writer => self.endpoint.writer_sleeps()?,
            };
            if !ready && self.poll_peer(task)?.is_pending() {
                return Poll::Pending;
            }
            self.awake(task);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn look_a_while<T>(
        &mut self,
        task: Task,
        attempt: &mut impl FnMut(&mut Self, &mut Context<'_>) -> io::Result<Option<T>>,
        cx: &mut Context<'_>,
    ) -> io::Result<Option<T>> {
        for _ in 0..LOOKS_AT_ONCE {
            std::hint::spin_loop();
            if (task == Task::Writer || self.endpoint.is_stirred())
                && let Some(found) = attempt(self, cx)?
            {
                self.answered(task);
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn spins(&mut self, task: Task) -> bool {
        match task {
            Task::Reader => self.reader_spin.again(),
            Task::Writer => self.writer_spin.again(),
        }
    }

    fn answered(&mut self, task: Task) {
        match task {
            Task::Reader => self.reader_spin.answered(),
            Task::Writer => self.writer_spin.answered(),
        }
        self.awake(task);
    }

    fn awake(&mut self, task: Task) {
        match task {
            Task::Reader => self.endpoint.reader_awake(),
            Task::Writer => self.endpoint.writer_awake(),
        }
    }

    /// Ready when there is a reason to look again; else a waker stands by.
    pub(super) fn poll_peer(&mut self, task: Task) -> io::Result<Poll<()>> {
        let mut cx = Context::from_waker(&self.both);
        let mut stale = 0;
        while !self.endpoint.is_gone() {
            let mut bytes = [MaybeUninit::uninit(); FLOOD_BYTES];
            let mut buffer = ReadBuf::uninit(&mut bytes);
            let Poll::Ready(read) = Pin::new(&mut self.endpoint.wakes().0).poll_read(&mut cx, &mut buffer)
            else {
                break;
            };
            let signalled = match signal::found(read.map(|()| buffer.filled().len())) {
                Ok(signalled) => signalled,
                Err(error) => return Err(self.endpoint.fail(error)),
            };
            if signalled == Signalled::Gone {
                self.endpoint.signal_is_closed();
            }
            // It may have been the other task that was meant.
            self.wakers.wake(task.other());
            // A signal of before, for what was found without it: the peer still knows that this task sleeps.
            let is_stale = signalled == Signalled::Yes && self.endpoint.is_asleep(task == Task::Reader);
            stale += 1;
            if !is_stale || stale == LOOKS {
                return Ok(Poll::Ready(()));
            }
        }
        if self.endpoint.incoming() != Way::Ring || self.endpoint.is_gone() {
            return Ok(Poll::Pending);
        }
        match self.tcp.poll_peek(&mut cx, &mut ReadBuf::new(&mut [0])) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Ok(0)) => self.endpoint.peer_is_gone(Gone::Closed),
            Poll::Ready(Ok(_)) => {
                self.endpoint.tcp_has_bytes()?;
                // The mark is there; a writer does not wait for it to be read.
                if task == Task::Writer {
                    return Ok(Poll::Pending);
                }
            }
            Poll::Ready(Err(error)) => {
                self.endpoint.peer_is_gone(Gone::Failed(error.raw_os_error().unwrap_or(nix::libc::EIO)));
            }
        }
        self.wakers.wake(task.other());
        Ok(Poll::Ready(()))
    }
}
