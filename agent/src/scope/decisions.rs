//! What the kernel is told of a scope's programs: for each that connects to a port and each that accepts there,
//! whether its sessions may be redirected.

use std::collections::{BTreeMap, BTreeSet};

use patchbay_agent_core::allowance::Allowed;
use patchbay_agent_core::profiles::{Endpoint, Ends, Profiles};

use crate::datapath::{Datapath, Error, Habit, Reason, SessionReport, Source, fixed_port};

use super::programs::{Programs, source, source_of};

/// Programs with ports that the kernel is told of at once; further ones stay on TCP.
const MAX_SOURCES: usize = 4_096;
/// Instead of a port that the system chose.
const ANY: &str = "any";

/// Whether to redirect, or why not, and what that is about.
type Verdict = (Result<(), Reason>, Habit);

struct Told {
    end: Endpoint,
    verdict: Option<Verdict>,
}

/// Who the ends of sessions are, and what was told of them.
pub struct Decisions {
    /// Names the profiles of this scope.
    scope: String,
    /// What is vouched for of all its programs.
    pub allowed: Allowed,
    programs: Programs,
    told: BTreeMap<Source, Told>,
    /// Ends that were seen in this run.
    used: BTreeSet<Endpoint>,
}

impl Decisions {
    /// Programs that were learned about earlier, and are still the same, are decided before they connect.
    pub fn new(scope: String, allowed: Allowed, profiles: &Profiles) -> Self {
        let known = profiles.endpoints.keys().filter_map(|end| {
            let (_, program, accepts, port) = end.parts().filter(|(of, ..)| *of == scope)?;
            let port = if port == ANY { None } else { Some(port.parse().ok()?) };
            let source = source_of(program, profiles.programs.get(program)?, port, accepts)?;
            Some((source, Told { end: end.clone(), verdict: None }))
        });
        let told = known.take(MAX_SOURCES).collect();
        Self { scope, allowed, programs: Programs::default(), told, used: BTreeSet::new() }
    }

    /// The ends of a session; one that can't be told from others counts as tested, which learns nothing.
    /// Returns whether the profiles have changed, too.
    pub fn ends(&mut self, report: &SessionReport, profiles: &mut Profiles) -> (Ends, bool) {
        let mut changed = false;
        let mut end = |index| {
            let (end, new) = self.end(report, index, profiles);
            changed |= new;
            end
        };
        let [source, destination] = [end(0), end(1)];
        let tested = [source.is_none(), destination.is_none()];
        let unknown = |end: Option<Endpoint>| end.unwrap_or_else(|| Endpoint::new(&self.scope, &"?"));
        let ends = Ends {
            source: unknown(source),
            destination: unknown(destination),
            tested,
            allowed: self.allowed,
        };
        (ends, changed)
    }

    fn end(
        &mut self,
        report: &SessionReport,
        index: usize,
        profiles: &mut Profiles,
    ) -> (Option<Endpoint>, bool) {
        let seen = report.programs[index];
        let process = if report.users[index] == 0 { report.processes[index] } else { report.users[index] };
        let is_seen = process == report.processes[index];
        let Some((name, file)) = self.programs.of(process, &seen, is_seen) else { return (None, false) };
        let accepts = index == 1;
        let at = if accepts { report.translated.unwrap_or(report.destination) } else { report.destination };
        let port = fixed_port(at.port());
        let text = port.map_or_else(|| ANY.to_owned(), |port| port.to_string());
        let end = Endpoint::of_program(&self.scope, name, accepts, &text);
        // A socket that listened before it was watched is known by its port, if that says anything.
        let is_known = seen.inode != 0;
        if is_known || (accepts && port.is_some()) {
            let source = source(&seen, file.arguments.is_some(), port, accepts);
            if self.told.get(&source).is_none_or(|told| told.end != end) && self.told.len() < MAX_SOURCES {
                self.told.insert(source, Told { end: end.clone(), verdict: None });
            }
        }
        let changed = is_known && profiles.keep_program(name, file);
        if self.used.len() < MAX_SOURCES {
            self.used.insert(end.clone());
        }
        (Some(end), changed)
    }

    /// Tells the kernel what has changed.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn tell(&mut self, datapath: &mut Datapath, profiles: &Profiles) -> Result<(), Error> {
        for (source, told) in &mut self.told {
            let mut verdict = profiles.verdict_of(&told.end, self.allowed.besides(0));
            if let (Ok(()), false, Some(reason)) =
                (verdict.0, source.accepts, profiles.better_over_tcp(&told.end))
            {
                verdict.0 = Err(reason);
            }
            if told.verdict != Some(verdict) {
                datapath.set_source(*source, verdict.0.err(), verdict.1)?;
                told.verdict = Some(verdict);
            }
        }
        Ok(())
    }

    /// Ends that were seen in this run.
    pub fn used(&self) -> impl Iterator<Item = &Endpoint> {
        self.used.iter()
    }
}
