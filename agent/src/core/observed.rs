//! What the kernel saw of programs' habits becomes their profiles, and decides further sessions.

use patchbay_ebpf_common::Reason;
use ssmmp::InstanceId;
use tracing::info;

use super::profiles::{Ends, Traffic, habit_names};
use super::{Core, Declare, Declared, Effect};
use crate::datapath::SessionReport;

impl Core {
    /// Decides a session that may come to be and tells the kernel.
    pub(super) fn declare(&mut self, mut declare: Declare, ends: Ends) {
        let decided = declare.redirect.is_err() || declare.always;
        if !decided {
            declare.redirect = self.verdict(&ends);
            declare.observe = self.redirects.observes && !ends.all_tested();
        }
        let key = (declare.source, declare.at);
        if !decided {
            self.declared.insert(key, Declared { declare: declare.clone(), ends });
        } else {
            self.declared.remove(&key);
        }
        self.effect(Effect::Declare(declare));
    }

    fn verdict(&self, ends: &Ends) -> Result<(), Reason> {
        let verdict = self.profiles.verdict(ends, self.redirects.harmful);
        match verdict {
            Err(Reason::Learning) if !self.redirects.observes => Err(Reason::NoProfile),
            verdict => verdict,
        }
    }

    /// Forgets the declarations of an instance, as source and as destination.
    pub(super) fn withdraw(&mut self, id: InstanceId) {
        self.declared.retain(|(source, _), declared| *source != id && declared.declare.destination != id);
        self.effect(Effect::Withdraw(id));
    }

    /// Learns from a session.
    pub(super) fn observed(&mut self, report: &SessionReport, ended: bool) {
        let Some(ends) = self.ends(report) else { return };
        if ended && report.sent.kernel_messages > 0 && report.leaving.is_none() {
            self.profiles.remember_traffic(&ends, None);
        }
        let harmful = self.redirects.harmful;
        let both = [&ends.source, &ends.destination];
        let harmed = both.map(|end| self.profiles.harms(end, harmful));
        if !self.profiles.learn(&ends, report.habits, report.calls, ended) {
            return;
        }
        for (end, harmed) in both.into_iter().zip(harmed) {
            if !harmed && self.profiles.harms(end, harmful) {
                let habits = self.profiles.endpoints.get(end).map_or(0, |profile| profile.habits);
                info!(endpoint = %end, habits = habit_names(habits), "it stays on TCP");
            }
        }
        self.decide_again();
    }

    /// A session is on its way out of the map.
    pub(super) fn left(&mut self, report: &SessionReport) {
        let Some(ends) = self.ends(report) else { return };
        let reason = report.leaving.map_or("unknown", Reason::text);
        info!(source = %report.source, destination = %report.destination, reason, "back to TCP");
        if report.leaving.is_some_and(Traffic::counts) {
            self.profiles.remember_traffic(&ends, report.leaving);
            self.decide_again();
        }
    }

    fn ends(&self, report: &SessionReport) -> Option<Ends> {
        let key = (InstanceId(report.source_instance), report.destination);
        self.declared.get(&key).map(|declared| declared.ends.clone())
    }

    /// The profiles have changed: declarations that would now be decided otherwise are replaced.
    fn decide_again(&mut self) {
        self.effect(Effect::Keep(self.profiles.clone()));
        let changed: Vec<_> = self
            .declared
            .iter()
            .map(|(key, declared)| (*key, self.verdict(&declared.ends)))
            .filter(|(key, verdict)| self.declared[key].declare.redirect != *verdict)
            .collect();
        for (key, verdict) in changed {
            if let Some(declared) = self.declared.get_mut(&key) {
                declared.declare.redirect = verdict;
                let declare = declared.declare.clone();
                self.effect(Effect::Declare(declare));
            }
        }
    }
}
