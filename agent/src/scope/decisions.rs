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
    /// The cgroup that it was seen in, with which its file may go.
    cgroup: u64,
}

/// Who the ends of sessions are, and what was told of them.
pub struct Decisions {
    /// What is vouched for of all its programs.
    pub allowed: Allowed,
    programs: Programs,
    told: BTreeMap<Source, Told>,
    /// Ends that were seen in this run.
    used: BTreeSet<Endpoint>,
}

impl Decisions {
    /// Programs that were learned about earlier, and are still the same, are decided before they connect.
    pub fn new(scope: &str, allowed: Allowed, profiles: &Profiles) -> Self {
        let known = profiles.endpoints.keys().filter_map(|end| {
            let (_, program, accepts, port) = end.parts().filter(|(of, ..)| *of == scope)?;
            let port = if port == ANY { None } else { Some(port.parse().ok()?) };
            let source = source_of(program, profiles.programs.get(program)?, port, accepts)?;
            Some((source, Told { end: end.clone(), verdict: None, cgroup: 0 }))
        });
        let told = known.take(MAX_SOURCES).collect();
        Self { allowed, programs: Programs::default(), told, used: BTreeSet::new() }
    }

    /// The ends of a session; one that can't be told from others counts as tested, which learns nothing. `owner` names
    /// whose programs are in a cgroup. Returns whether the profiles have changed, too.
    pub fn ends<'a>(
        &mut self,
        report: &SessionReport,
        profiles: &mut Profiles,
        owner: impl Fn(u64) -> Option<&'a str>,
    ) -> (Ends, bool) {
        let mut changed = false;
        let cgroups = [report.source_instance, report.destination_instance];
        let mut end = |index: usize| {
            let owner = owner(cgroups[index])?;
            let (end, new) = self.end(report, index, profiles, (owner, cgroups[index]));
            changed |= new;
            end
        };
        let [source, destination] = [end(0), end(1)];
        let tested = [source.is_none(), destination.is_none()];
        let unknown = |end: Option<Endpoint>| end.unwrap_or_else(|| Endpoint::new(&"?", &"?"));
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
        (owner, cgroup): (&str, u64),
    ) -> (Option<Endpoint>, bool) {
        let seen = report.programs[index];
        let process = if report.users[index] == 0 { report.processes[index] } else { report.users[index] };
        let is_seen = process == report.processes[index];
        let by_image = self.programs.by_image;
        let Some((name, file)) = self.programs.of(process, &seen, is_seen) else { return (None, false) };
        let accepts = index == 1;
        let at = if accepts { report.translated.unwrap_or(report.destination) } else { report.destination };
        let port = fixed_port(at.port());
        let text = port.map_or_else(|| ANY.to_owned(), |port| port.to_string());
        let end = Endpoint::of_program(owner, name, accepts, &text);
        // A socket that listened before it was watched is known by its port, if that says anything.
        let is_known = seen.inode != 0;
        if is_known || (accepts && port.is_some()) {
            let source = source(&seen, file.arguments.is_some(), port, accepts);
            if self.told.get(&source).is_none_or(|told| told.end != end) && self.told.len() < MAX_SOURCES {
                self.told.insert(source, Told { end: end.clone(), verdict: None, cgroup });
            }
        }
        // By images programs are found again in every container: their files have other numbers there.
        let changed = is_known && !by_image && profiles.keep_program(name, file);
        if self.used.len() < MAX_SOURCES {
            self.used.insert(end.clone());
        }
        (Some(end), changed)
    }

    /// Programs are known by their containers' images and the paths of their files, wherever that image runs.
    pub fn by_image(&mut self) {
        self.programs.by_image = true;
    }

    /// A process of a container is there: what is known of its program holds from its first connection on.
    pub fn expect(&mut self, owner: &str, cgroup: u64, process: u32, profiles: &Profiles) {
        let Some((seen, name, file)) = self.programs.running(process) else { return };
        let of_program = format!("{owner}/{name} ");
        let from = Endpoint::prefix(&of_program);
        let own = profiles.endpoints.keys().skip_while(|end| **end < from);
        for end in own.take_while(|end| end.starts_with(&of_program)) {
            let Some((_, _, accepts, port)) = end.parts() else { continue };
            let port = if port == ANY { None } else { port.parse().ok() };
            if self.told.len() < MAX_SOURCES {
                let source = source(&seen, file.arguments.is_some(), port, accepts);
                self.told.entry(source).or_insert(Told { end: end.clone(), verdict: None, cgroup });
            }
        }
    }

    /// A cgroup is gone, and with it its programs' files, whose numbers others may get.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn forget(&mut self, cgroup: u64, datapath: &mut Datapath) -> Result<(), Error> {
        let mut result = Ok(());
        self.told.retain(|source, told| {
            let stays = told.cgroup != cgroup;
            if !stays && let Err(error) = datapath.forget_source(*source) {
                result = Err(error);
            }
            stays
        });
        self.programs.forget();
        result
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
