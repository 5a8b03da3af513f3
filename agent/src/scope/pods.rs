//! The scope of the pods' cgroup: what the API server says, and which cgroups there are, told to the kernel.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Runner;
use crate::datapath::{self, Reason, Scope, SessionReport};
use crate::pods::api::{News, Watched};
use crate::pods::{Change, Effect, PodTable, Redirect, cgroups};

/// How often the cgroups are looked through; one that nobody knew is looked for at once.
const SCAN_EVERY: Duration = Duration::from_millis(500);
/// At most so often.
const SCAN_AT_MOST_EVERY: Duration = Duration::from_millis(20);
/// How long a container counts as new: its processes are looked at before they connect.
const NEW_FOR: Duration = Duration::from_secs(10);
/// Processes of a new container that are looked at.
const MAX_LOOKED_AT: usize = 64;

/// Pods of this node.
pub struct Pods {
    /// Who is whose.
    pub table: PodTable,
    root: PathBuf,
    watched: Watched,
    scanned: Option<Instant>,
    paths: BTreeMap<u64, PathBuf>,
    new: BTreeMap<u64, Instant>,
    /// Whether pods and namespaces were listed once.
    listed: [bool; 2],
    /// Why the API server is away, once it is.
    away: Option<String>,
    /// What was logged of it.
    logged: Option<String>,
}

impl Pods {
    /// Pods below a cgroup.
    pub fn new(root: PathBuf, usual: Redirect, watched: Watched) -> Self {
        Self {
            table: PodTable::new(usual),
            root,
            watched,
            scanned: None,
            paths: BTreeMap::new(),
            new: BTreeMap::new(),
            listed: [false; 2],
            away: None,
            logged: None,
        }
    }

    /// Whose programs are in a cgroup: the image names them.
    pub fn owner(&self, cgroup: u64) -> Option<&str> {
        self.table.image(cgroup)
    }

    /// Whether a session that lives may enter the map: both its pods say so.
    pub fn let_in(&self, session: &SessionReport) -> bool {
        let may = |cgroup| self.table.told(cgroup).is_some_and(|redirect| redirect != Redirect::Never);
        may(session.source_instance) && may(session.destination_instance)
    }

    /// Whether everything was listed once, or why not.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn is_listed(&self) -> Result<(), String> {
        match (self.listed, &self.away) {
            ([true, true], _) => Ok(()),
            (_, Some(why)) => Err(why.clone()),
            (_, None) => Err("pods and namespaces are not listed yet".into()),
        }
    }

    /// Whether the API server answers, as far as is known.
    pub fn is_connected(&self) -> bool {
        self.listed == [true, true] && self.away.is_none()
    }
}

/// The next news of the API server; without pods there is none. Safe to cancel.
pub async fn news(pods: &mut Option<Pods>) -> News {
    match pods {
        Some(pods) => match pods.watched.news.recv().await {
            Some(news) => news,
            // The watches end with the runtime only.
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

impl Runner {
    pub(super) fn hear(&mut self, news: News) {
        let Some(pods) = &mut self.pods else { return };
        match news {
            News::Change(change) => {
                pods.away = None;
                self.apply(change);
            }
            News::Listed(of_pods) => {
                pods.listed[usize::from(of_pods)] = true;
                pods.away = None;
                if pods.logged.take().is_some() || of_pods {
                    info!(pods = pods.table.counts().0, "the API server tells the pods of this node");
                }
            }
            News::Away(why) => {
                if pods.logged.as_ref() != Some(&why) {
                    warn!("{why}; what is known of pods holds until it answers");
                    pods.logged = Some(why.clone());
                }
                pods.away = Some(why);
            }
        }
    }

    fn apply(&mut self, change: Change) {
        let Some(pods) = &mut self.pods else { return };
        let effects = pods.table.apply(change);
        let mut never = Vec::new();
        for effect in effects {
            let done = match effect {
                Effect::Treat(cgroup, redirect) => {
                    if redirect == Redirect::Never {
                        never.push(cgroup);
                    }
                    pods.new.insert(cgroup, Instant::now());
                    self.datapath.set_container(cgroup, scope_of(redirect))
                }
                Effect::Forget(cgroup) => {
                    pods.new.remove(&cgroup);
                    let forgotten = self.decisions.forget(cgroup, &mut self.datapath);
                    self.datapath.forget_container(cgroup).and(forgotten)
                }
                Effect::Warn(pod, text) => {
                    warn!(namespace = pod[0], pod = pod[1], "{text}");
                    pods.watched.warn(pod, text);
                    Ok(())
                }
            };
            if let Err(error) = done {
                warn!("a container's sessions stay on TCP: {error}");
            }
        }
        if !never.is_empty() {
            self.take_back(&never);
        }
    }

    /// Sessions of pods that may be redirected no longer go back to TCP.
    fn take_back(&mut self, cgroups: &[u64]) {
        let sessions = self.datapath.sessions().unwrap_or_default();
        let theirs = |session: &&SessionReport| {
            let ends = [session.source_instance, session.destination_instance];
            !session.outside && session.leaving.is_none() && ends.iter().any(|end| cgroups.contains(end))
        };
        for session in sessions.iter().filter(theirs) {
            if let Err(error) = self.datapath.leave(session, Reason::SwitchedOff) {
                warn!("a session of a pod that says never stays redirected: {error}");
            }
        }
    }

    /// Looks which cgroups there are, when it is time, and at the processes of new containers.
    pub(super) fn follow_pods(&mut self) {
        let Some(pods) = &mut self.pods else { return };
        if pods.scanned.is_none_or(|scanned| scanned.elapsed() >= SCAN_EVERY) {
            self.scan();
        }
        self.look_at_new();
    }

    /// A session of a cgroup that nobody knew: its container has begun since the last look.
    pub(super) fn look_for_unknown(&mut self, report: &SessionReport) {
        let Some(pods) = &self.pods else { return };
        let unknown = |cgroup: u64| cgroup != 0 && !pods.table.knows(cgroup);
        let rested = pods.scanned.is_none_or(|scanned| scanned.elapsed() >= SCAN_AT_MOST_EVERY);
        if rested && (unknown(report.source_instance) || unknown(report.destination_instance)) {
            self.scan();
        }
    }

    fn scan(&mut self) {
        let Some(pods) = &mut self.pods else { return };
        pods.scanned = Some(Instant::now());
        // Without its root there is no pod: `follow_cgroup` says so.
        let Ok(found) = cgroups::scan(&pods.root) else { return };
        let mut places = BTreeMap::new();
        pods.paths.clear();
        for (cgroup, (place, path)) in found {
            places.insert(cgroup, place);
            pods.paths.insert(cgroup, path);
        }
        self.apply(Change::Cgroups(places));
    }

    fn look_at_new(&mut self) {
        let Some(pods) = &mut self.pods else { return };
        pods.new.retain(|_, since| since.elapsed() < NEW_FOR);
        for cgroup in pods.new.keys() {
            let (Some(owner), Some(path)) = (pods.table.image(*cgroup), pods.paths.get(cgroup)) else {
                continue;
            };
            let members = datapath::members(path).unwrap_or_default();
            let processes = members.iter().filter_map(|member| member.parse().ok()).filter(|it| *it != 0);
            for process in processes.take(MAX_LOOKED_AT) {
                self.decisions.expect(owner, *cgroup, process, &self.profiles);
            }
        }
    }
}

/// What the kernel is told of a pod's sessions at first.
fn scope_of(redirect: Redirect) -> Scope {
    match redirect {
        Redirect::Auto => Scope { always: false, refusal: Some(Reason::Learning) },
        Redirect::Always => Scope { always: true, refusal: None },
        Redirect::Never => Scope { always: false, refusal: Some(Reason::SwitchedOff) },
    }
}
