//! What the kernel programs count, and what the event ring could not hold: the sessions' records keep it until
//! it has been told.

use patchbay_ebpf_common::{counter, entry, operation, state};
use tracing::warn;

use super::{Datapath, Error, SessionEvent, report};

impl Datapath {
    /// How many sessions found a table full; they stay on TCP, and nothing else is known of them.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn refused_by_full_tables(&self) -> Result<u64, Error> {
        self.counted(counter::TABLE_FULL)
    }

    pub(super) fn counted(&self, number: u32) -> Result<u64, Error> {
        Ok(self.counters.get(&number, 0)?.iter().sum())
    }

    /// Looks into the records if an event was lost: when the ring is empty, whatever was lost is there.
    pub(super) fn find_lost(&mut self) {
        match self.counted(counter::EVENTS_LOST) {
            Ok(lost) if lost == self.lost => {}
            Ok(lost) => {
                self.lost = lost;
                if let Err(error) = self.find_untold() {
                    warn!("events of sessions were lost, and their records can't be read: {error}");
                }
            }
            Err(error) => warn!("what the kernel programs count can't be read: {error}"),
        }
    }

    /// Tells of sessions what no event did.
    pub(super) fn find_untold(&mut self) -> Result<(), Error> {
        for (report, record) in self.records()? {
            if record.state & state::TENTATIVE != 0 {
                continue;
            }
            if record.state & state::TOLD == 0 {
                self.control(operation::TOLD, report.key, 0)?;
                self.found.push_back(SessionEvent::Established(report.clone()));
            }
            let given_up = record.entry == entry::SETTLING
                && !self.entering.has(report.key)
                && self.control(operation::BEGIN, report.key, u64::from(record.reason))? == 0;
            if (report.leaving.is_some() || given_up) && !report.outside {
                self.leaving.begin(&report);
            }
            if record.state & state::ENDED != 0 {
                self.control(operation::FORGET, report.key, 0)?;
                self.found.push_back(SessionEvent::Closed(report, report::cause(record.cause)));
            }
        }
        Ok(())
    }
}
