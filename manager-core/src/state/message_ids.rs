//! Ids of the Manager's messages. None comes again, over restarts too, until two thousand million are used up: an
//! agent that replays an answer after a long time must not answer another request with it (G2).

/// Ids that are reserved on disk at once: so many may be passed over by a restart.
const BLOCK: u64 = 1_000_000;
/// The first one.
const FIRST: u64 = 30_000;
/// Peers may read ids as 31-bit numbers: after this one they begin anew.
const LAST: u64 = 2_000_000_000;

/// The one source of ids.
#[derive(Debug)]
pub(crate) struct MessageIds {
    next: u64,
    /// Ids below this are on disk as used.
    reserved: u64,
}

impl MessageIds {
    /// For a database that has reserved none: each start of the Manager has a block of its own.
    pub(crate) fn new(epoch: u64) -> Self {
        let next = (epoch % (LAST / BLOCK - 1)) * BLOCK + FIRST;
        Self { next, reserved: next }
    }

    /// Behind what an earlier start has reserved.
    pub(crate) fn resume(&mut self, reserved: u64) {
        let next = if (FIRST..LAST).contains(&reserved) { reserved } else { FIRST };
        *self = Self { next, reserved: next };
    }

    /// The next id, and whether a new reservation must be on disk before it is used.
    pub(crate) fn take(&mut self) -> (u64, bool) {
        if self.next >= LAST {
            (self.next, self.reserved) = (FIRST, FIRST);
        }
        let is_new = self.next >= self.reserved;
        if is_new {
            self.reserved = self.next + BLOCK;
        }
        self.next += 1;
        (self.next - 1, is_new)
    }

    /// Ids below this may be in use.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_goes_on_behind_what_was_reserved_however_many_were_used() {
        let mut ids = MessageIds::new(7);
        let mut on_disk = 0;
        let mut largest = 0;
        for _ in 0..3 * BLOCK {
            let (id, is_new) = ids.take();
            assert!(id > largest);
            largest = id;
            if is_new {
                on_disk = ids.reserved();
            }
            assert!(id < on_disk, "it is on disk before it is used");
        }
        let mut next = MessageIds::new(8);
        next.resume(on_disk);
        assert!(next.take().0 > largest);
    }

    #[test]
    fn they_begin_anew_where_peers_could_not_read_them() {
        let mut ids = MessageIds::new(0);
        ids.resume(LAST - 1);
        assert_eq!(ids.take(), (LAST - 1, true));
        assert_eq!(ids.take(), (FIRST, true));
        assert_eq!(ids.take(), (FIRST + 1, false));
        ids.resume(u64::MAX);
        assert_eq!(ids.take().0, FIRST);
        assert!(MessageIds::new(u64::MAX).take().0 < LAST);
    }
}
