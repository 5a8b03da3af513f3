//! Which cgroups may be redirected, from what the API server says of pods and namespaces and which cgroups there are.
//! Pure: changes in, effects out.

use std::collections::{BTreeMap, BTreeSet};

use super::ANNOTATION;
use super::cgroups::Place;

/// Pods known at once; a node has some hundreds. Further ones are nobody's, their sessions stay on TCP.
pub const MAX_PODS: usize = 4_096;
/// Namespaces known at once.
pub const MAX_NAMESPACES: usize = 16_384;
/// Characters of an annotation that are told back.
const SHOWN: usize = 40;

/// How sessions of a pod are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Redirect {
    /// Redirected once their programs are known to be safe
    Auto,
    /// Redirected from the first connection, whatever is seen
    Always,
    /// Never redirected, counted all the same
    Never,
}

impl Redirect {
    /// The annotation's value.
    ///
    /// # Errors
    /// It is none, for people.
    pub fn read(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            other => {
                let shown: String = other.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
                Err(format!(
                    "{ANNOTATION}: `{shown}` is none of auto, always and never; the pod stays on TCP"
                ))
            }
        }
    }
}

/// A pod of this node as the API server knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// The object's UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The kinds and names of what made it, a Deployment rather than its ReplicaSet.
    pub workloads: Vec<(String, String)>,
    /// The value of its annotation.
    pub redirect: Option<String>,
    /// The UID that kubelet names its cgroup by, if that is another: of a static pod.
    pub cgroup_uid: Option<String>,
    /// Containers: id to name and image.
    pub containers: BTreeMap<String, Container>,
}

/// A container of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// Its name in the pod.
    pub name: String,
    /// Its image by digest, else by name.
    pub image: String,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Change {
    /// A pod is there, or has changed.
    Pod(Pod),
    /// A pod is gone.
    PodGone(String),
    /// These are all pods of the node.
    Pods(Vec<Pod>),
    /// A namespace with its annotation.
    Namespace(String, Option<String>),
    /// A namespace is gone.
    NamespaceGone(String),
    /// These are all namespaces.
    Namespaces(BTreeMap<String, Option<String>>),
    /// These cgroups there are.
    Cgroups(BTreeMap<u64, Place>),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Sessions of a cgroup are treated so from now on.
    Treat(u64, Redirect),
    /// A cgroup is gone, or nobody's any more.
    Forget(u64),
    /// Somebody should know about a pod, by its namespace, name and UID.
    Warn([String; 3], String),
}

/// Who is whose.
#[derive(Debug)]
pub struct PodTable {
    usual: Redirect,
    pods: BTreeMap<String, Pod>,
    /// Object UIDs by what kubelet names cgroups by.
    by_cgroup_uid: BTreeMap<String, String>,
    namespaces: BTreeMap<String, Option<String>>,
    cgroups: BTreeMap<u64, Place>,
    told: BTreeMap<u64, Redirect>,
    /// Warnings given, by pod, so that each is given once.
    warned: BTreeMap<String, String>,
}

impl PodTable {
    /// With what holds for pods and namespaces that say nothing.
    pub fn new(usual: Redirect) -> Self {
        Self {
            usual,
            pods: BTreeMap::new(),
            by_cgroup_uid: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            cgroups: BTreeMap::new(),
            told: BTreeMap::new(),
            warned: BTreeMap::new(),
        }
    }

    /// Takes a change in.
    pub fn apply(&mut self, change: Change) -> Vec<Effect> {
        match change {
            Change::Pod(pod) => self.add(pod),
            Change::PodGone(uid) => self.remove(&uid),
            Change::Pods(pods) => {
                let there: BTreeSet<&String> = pods.iter().map(|pod| &pod.uid).collect();
                let gone: Vec<String> =
                    self.pods.keys().filter(|uid| !there.contains(uid)).cloned().collect();
                gone.iter().for_each(|uid| self.remove(uid));
                pods.into_iter().for_each(|pod| self.add(pod));
            }
            Change::Namespace(name, redirect) => {
                if self.namespaces.len() < MAX_NAMESPACES || self.namespaces.contains_key(&name) {
                    self.namespaces.insert(name, redirect);
                }
            }
            Change::NamespaceGone(name) => drop(self.namespaces.remove(&name)),
            Change::Namespaces(all) => self.namespaces = all.into_iter().take(MAX_NAMESPACES).collect(),
            Change::Cgroups(all) => self.cgroups = all,
        }
        self.effects()
    }

    fn add(&mut self, pod: Pod) {
        if self.pods.len() >= MAX_PODS && !self.pods.contains_key(&pod.uid) {
            return;
        }
        self.remove_name(&pod.uid);
        if let Some(named) = &pod.cgroup_uid {
            self.by_cgroup_uid.insert(named.clone(), pod.uid.clone());
        }
        self.pods.insert(pod.uid.clone(), pod);
    }

    fn remove(&mut self, uid: &str) {
        self.remove_name(uid);
        self.pods.remove(uid);
        self.warned.remove(uid);
    }

    fn remove_name(&mut self, uid: &str) {
        if let Some(named) = self.pods.get(uid).and_then(|pod| pod.cgroup_uid.as_ref()) {
            self.by_cgroup_uid.remove(named);
        }
    }

    /// How a pod is treated: by its own annotation, its namespace's, or what is usual.
    ///
    /// # Errors
    /// The annotation says nothing that is known, for people; then it is [`Redirect::Never`].
    pub fn redirect(&self, pod: &Pod) -> Result<Redirect, String> {
        let namespace = || self.namespaces.get(&pod.namespace).and_then(Option::as_deref);
        match (&pod.redirect, namespace()) {
            (Some(own), _) => Redirect::read(own),
            (None, Some(of_all)) => {
                Redirect::read(of_all).map_err(|problem| format!("namespace {}: {problem}", pod.namespace))
            }
            (None, None) => Ok(self.usual),
        }
    }

    /// The pod and the container that a cgroup belongs to.
    pub fn of(&self, cgroup: u64) -> Option<(&Pod, Option<&Container>)> {
        let place = self.cgroups.get(&cgroup)?;
        let uid = self.by_cgroup_uid.get(&place.pod).unwrap_or(&place.pod);
        let pod = self.pods.get(uid)?;
        Some((pod, place.container.as_ref().and_then(|id| pod.containers.get(id))))
    }

    /// What was told of a cgroup.
    pub fn told(&self, cgroup: u64) -> Option<Redirect> {
        self.told.get(&cgroup).copied()
    }

    /// Names whose programs' profiles a cgroup has: its container's image.
    pub fn image(&self, cgroup: u64) -> Option<&str> {
        self.of(cgroup)?.1.map(|container| &*container.image).filter(|image| !image.is_empty())
    }

    /// Whether a cgroup was there at the last look.
    pub fn knows(&self, cgroup: u64) -> bool {
        self.cgroups.contains_key(&cgroup)
    }

    /// Pods of this node, and those of them that may be redirected.
    pub fn counts(&self) -> (usize, usize) {
        let may = |pod: &&Pod| self.redirect(pod).is_ok_and(|redirect| redirect != Redirect::Never);
        (self.pods.len(), self.pods.values().filter(may).count())
    }

    fn effects(&mut self) -> Vec<Effect> {
        let mut wanted = BTreeMap::new();
        for cgroup in self.cgroups.keys() {
            if let Some((pod, _)) = self.of(*cgroup) {
                wanted.insert(*cgroup, self.redirect(pod).unwrap_or(Redirect::Never));
            }
        }
        let mut effects: Vec<Effect> = self
            .told
            .keys()
            .filter(|cgroup| !wanted.contains_key(cgroup))
            .copied()
            .map(Effect::Forget)
            .collect();
        let news = wanted.iter().filter(|(cgroup, redirect)| self.told.get(cgroup) != Some(redirect));
        effects.extend(news.map(|(cgroup, redirect)| Effect::Treat(*cgroup, *redirect)));
        self.told = wanted;
        let problems: Vec<(String, [String; 3], Option<String>)> = (self.pods.values())
            .map(|pod| {
                let name = [pod.namespace.clone(), pod.name.clone(), pod.uid.clone()];
                (pod.uid.clone(), name, self.redirect(pod).err())
            })
            .collect();
        for (uid, name, problem) in problems {
            match problem {
                Some(problem) if self.warned.get(&uid) != Some(&problem) => {
                    self.warned.insert(uid, problem.clone());
                    effects.push(Effect::Warn(name, problem));
                }
                Some(_) => {}
                None => drop(self.warned.remove(&uid)),
            }
        }
        effects
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
