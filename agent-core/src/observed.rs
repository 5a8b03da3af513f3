//! What the kernel saw of programs' habits becomes their profiles, and decides further sessions.

use patchbay_ebpf_common::Reason;
use ssmmp::{AgentHealthControlResponse, Envelope, Hop, InstanceId, Status};

use super::profiles::{Ends, Traffic};
use super::{Core, Declare, Declared, Effect, Notice, Redirects};
use crate::session_report::SessionReport;

impl Core {
    /// Decides a session that may come to be and tells the kernel.
    pub(super) fn declare(&mut self, mut declare: Declare, ends: Ends) {
        let decided = declare.redirect.is_err() || declare.always;
        if !decided {
            declare.redirect = self.verdict(&ends);
            declare.about = self.profiles.about(&ends, self.redirects.harmless);
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
        let verdict = self.profiles.verdict(ends, self.redirects.harmless);
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
        let harmless = ends.allowed.besides(self.redirects.harmless);
        let both = [&ends.source, &ends.destination];
        let harmed = both.map(|end| self.profiles.harms(end, harmless));
        if !self.profiles.learn(&ends, report, ended) {
            return;
        }
        for (end, harmed) in both.into_iter().zip(harmed) {
            if let (None, Some(habit)) = (harmed, self.profiles.harms(end, harmless)) {
                let disproved = ends.allowed.disproved_by(habit);
                self.notice(Notice::StaysOnTcp { endpoint: end.clone(), habit, disproved });
            }
        }
        self.decide_again();
    }

    /// A session is on its way out of the map.
    pub(super) fn left(&mut self, report: &SessionReport) {
        let reason = report.leaving.map_or("unknown".into(), |reason| report.text(reason));
        let SessionReport { source, destination, .. } = *report;
        self.notice(Notice::BackToTcp { source, destination, reason });
        let Some(ends) = self.ends(report) else { return };
        if report.leaving.is_some_and(Traffic::counts) {
            self.profiles.remember_traffic(&ends, report.leaving);
            self.decide_again();
        }
    }

    fn ends(&self, report: &SessionReport) -> Option<Ends> {
        let key = (InstanceId(report.source_instance), report.destination);
        self.declared.get(&key).map(|declared| declared.ends.clone())
    }

    /// The self-test has ended: the Manager is told, and sessions that may come to be are decided by what it found.
    pub(super) fn tested(&mut self, redirects: Redirects) {
        self.redirects = redirects;
        self.replace_declarations();
        if self.registered {
            self.tell_redirection();
        }
    }

    /// Tells the Manager whether this node redirects, if that has changed since it was told.
    pub(super) fn tell_redirection(&mut self) {
        let redirection = self.redirects.redirection.clone();
        if self.redirection_told.as_ref() == Some(&redirection) || !self.extended {
            return;
        }
        self.redirection_told = Some(redirection.clone());
        let response = AgentHealthControlResponse {
            message_id: self.message_id(),
            agent_network_address: self.address,
            status: Status::OK,
        };
        let envelope = Envelope::new(response, Hop::AgentToManager);
        self.effect(Effect::ToManager(envelope.with(redirection)));
    }

    /// The profiles have changed.
    fn decide_again(&mut self) {
        self.effect(Effect::Keep);
        self.replace_declarations();
    }

    /// Declarations that would now be decided otherwise are replaced.
    fn replace_declarations(&mut self) {
        let changed: Vec<_> = self
            .declared
            .iter()
            .map(|(key, declared)| (*key, self.verdict(&declared.ends)))
            .filter(|(key, verdict)| self.declared[key].declare.redirect != *verdict)
            .collect();
        for (key, verdict) in changed {
            if let Some(declared) = self.declared.get_mut(&key) {
                declared.declare.redirect = verdict;
                declared.declare.about = self.profiles.about(&declared.ends, self.redirects.harmless);
                let declare = declared.declare.clone();
                self.effect(Effect::Declare(declare));
            }
        }
    }
}
