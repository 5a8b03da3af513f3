//! What is known of programs' habits, learned from sessions over plain TCP before any is redirected.

use std::collections::BTreeMap;

use patchbay_ebpf_common::{Reason, habit};
use serde::{Deserialize, Serialize};

/// Sending and receiving calls that must have been seen in one session before a program counts as known.
pub const ENOUGH_CALLS: u32 = 1_000;
/// Or sessions that must have ended.
pub const ENOUGH_SESSIONS: u32 = 50;

/// Habits of programs that Patchbay knows, by file name, so that they need not be found out.
const KNOWN_HABITS: [(&str, u32); 4] = [
    ("haproxy", habit::SPLICE),
    ("java", habit::UNREAD_SIZE),
    ("nginx", habit::UNREAD_SIZE),
    ("dotnet", habit::UNREAD_SIZE),
];

/// The habits that a program is known for, by its file name.
pub fn known_habits(program: &str) -> u32 {
    KNOWN_HABITS.iter().find(|(name, _)| *name == program).map_or(0, |(_, habits)| *habits)
}

/// A plug or socket of a service, `service.name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Endpoint(String);

impl Endpoint {
    /// The plug or socket of a service.
    pub fn new(service: &dyn std::fmt::Display, name: &dyn std::fmt::Display) -> Self {
        Self(format!("{service}.{name}"))
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What was seen at one plug or socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Sessions that ended while they were observed.
    pub sessions: u32,
    /// Sending and receiving calls that were seen.
    pub calls: u32,
    /// Bits of [`habit`].
    pub habits: u32,
}

impl Profile {
    /// Whether the program may be redirected, or why not.
    ///
    /// # Errors
    /// The reason for TCP.
    pub fn verdict(self, harmful: u32) -> Result<(), Reason> {
        if habit::is_harmful(self.habits, harmful) {
            Err(Reason::Habit)
        } else if self.calls >= ENOUGH_CALLS || self.sessions >= ENOUGH_SESSIONS {
            Ok(())
        } else {
            Err(Reason::Learning)
        }
    }
}

/// All profiles of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profiles {
    /// By plug or socket.
    #[serde(default)]
    pub endpoints: BTreeMap<Endpoint, Profile>,
    /// Traffic of abstract connections, by `plug → socket`.
    #[serde(default)]
    pub connections: BTreeMap<String, Traffic>,
}

/// What an abstract connection's sessions carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Redirected sessions that have ended.
    pub sessions: u32,
    /// Those that went back to TCP because they were streams of small writes.
    pub small_writes: u32,
    /// Those that went back because they outran their reader.
    #[serde(default)]
    pub outran: u32,
}

/// Sessions that outran their reader before it counts as usual: once it may have been the machine's fault.
const ENOUGH_OUTRAN: u32 = 4;

impl Traffic {
    /// Why TCP carries it better, when that is usual; one among many sessions, a bulk load say, is taken back
    /// alone.
    pub fn better_over_tcp(self) -> Option<Reason> {
        if self.small_writes > self.sessions / 2 {
            return Some(Reason::SmallWrites);
        }
        (self.outran >= ENOUGH_OUTRAN && self.outran > self.sessions / 2).then_some(Reason::OutrunsReader)
    }

    /// Whether what is remembered says something about a session that left for this reason.
    pub fn counts(reason: Reason) -> bool {
        matches!(reason, Reason::SmallWrites | Reason::OutrunsReader)
    }
}

/// The two ends of a session, and which of them need no learning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// The source's plug.
    pub source: Endpoint,
    /// The destination's socket.
    pub destination: Endpoint,
    /// Whether each is known to be safe.
    pub tested: [bool; 2],
}

impl Ends {
    fn connection(&self) -> String {
        format!("{} → {}", self.source, self.destination)
    }

    /// Whether nothing has to be observed.
    pub fn all_tested(&self) -> bool {
        self.tested == [true, true]
    }
}

impl Profiles {
    /// Whether a session between two ends may be redirected, or why not.
    ///
    /// # Errors
    /// The reason for TCP.
    pub fn verdict(&self, ends: &Ends, harmful: u32) -> Result<(), Reason> {
        if let Some(reason) = self.connections.get(&ends.connection()).and_then(|it| it.better_over_tcp()) {
            return Err(reason);
        }
        let of = |end: &Endpoint, tested| match tested {
            true => Ok(()),
            false => self.endpoints.get(end).copied().unwrap_or_default().verdict(harmful),
        };
        // A habit of one end says more than that the other is still observed.
        match (of(&ends.source, ends.tested[0]), of(&ends.destination, ends.tested[1])) {
            (_, Err(Reason::Habit)) => Err(Reason::Habit),
            (source, destination) => source.and(destination),
        }
    }

    /// Learns from a session so far; `ended` when there is nothing more to come from it. Returns whether
    /// anything changed that should be kept.
    pub fn learn(&mut self, ends: &Ends, habits: [u32; 2], calls: [u32; 2], ended: bool) -> bool {
        let mut changed = false;
        for (index, end) in [&ends.source, &ends.destination].into_iter().enumerate() {
            if ends.tested[index] || (calls[index] == 0 && habits[index] == 0) {
                continue;
            }
            let profile = self.endpoints.entry(end.clone()).or_default();
            let before = *profile;
            profile.habits |= habits[index];
            // More than enough says no more, and would be written down again and again.
            profile.calls = profile.calls.max(calls[index].min(ENOUGH_CALLS));
            profile.sessions = (profile.sessions + u32::from(ended)).min(ENOUGH_SESSIONS);
            changed |= *profile != before;
        }
        changed
    }

    /// Whether what is known of an end forbids redirection.
    pub fn harms(&self, end: &Endpoint, harmful: u32) -> bool {
        self.endpoints.get(end).is_some_and(|profile| habit::is_harmful(profile.habits, harmful))
    }

    /// Adds habits that are known without having been seen.
    pub fn know(&mut self, end: &Endpoint, habits: u32) -> bool {
        if habits == 0 || self.endpoints.get(end).is_some_and(|profile| profile.habits & habits == habits) {
            return false;
        }
        self.endpoints.entry(end.clone()).or_default().habits |= habits;
        true
    }

    /// Remembers what a redirected session carried, when it has ended, or has left for a reason that
    /// [counts](Traffic::counts).
    pub fn remember_traffic(&mut self, ends: &Ends, left: Option<Reason>) {
        let traffic = self.connections.entry(ends.connection()).or_default();
        if traffic.sessions == u32::MAX {
            return;
        }
        traffic.sessions += 1;
        traffic.small_writes += u32::from(left == Some(Reason::SmallWrites));
        traffic.outran += u32::from(left == Some(Reason::OutrunsReader));
    }
}

/// The names of habits, for people; `-` for none.
pub fn habit_names(habits: u32) -> String {
    let names: Vec<&str> =
        habit::NAMES.iter().filter(|(bit, _)| habits & bit != 0).map(|(_, name)| *name).collect();
    if names.is_empty() { "-".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(tested: [bool; 2]) -> Ends {
        Ends { source: Endpoint::new(&"web", &"cache"), destination: Endpoint::new(&"redis", &"in"), tested }
    }

    #[test]
    fn a_program_is_known_after_enough_calls_or_sessions() {
        let mut profiles = Profiles::default();
        let ends = ends([true, false]);
        assert_eq!(profiles.verdict(&ends, u32::MAX), Err(Reason::Learning));
        assert!(profiles.learn(&ends, [0, 0], [9, ENOUGH_CALLS - 1], true));
        assert_eq!(profiles.verdict(&ends, u32::MAX), Err(Reason::Learning));
        assert!(profiles.learn(&ends, [0, 0], [9, ENOUGH_CALLS], false));
        assert_eq!(profiles.verdict(&ends, u32::MAX), Ok(()));
        assert!(!profiles.endpoints.contains_key(&ends.source), "what is tested is not learned");
    }

    #[test]
    fn a_habit_is_never_forgotten_and_counts_where_it_harms() {
        let mut profiles = Profiles::default();
        let ends = ends([false, false]);
        profiles.learn(&ends, [0, habit::SPLICE], [0, 1], false);
        for _ in 0..ENOUGH_SESSIONS {
            profiles.learn(&ends, [0, 0], [ENOUGH_CALLS, ENOUGH_CALLS], true);
        }
        assert_eq!(profiles.verdict(&ends, u32::MAX), Err(Reason::Habit));
        assert_eq!(profiles.verdict(&ends, !habit::SPLICE), Ok(()));
        assert_eq!(habit_names(habit::SPLICE | habit::URGENT), "urgent data, splice");
    }

    #[test]
    fn a_session_without_a_call_teaches_nothing() {
        let mut profiles = Profiles::default();
        assert!(!profiles.learn(&ends([false, false]), [0, 0], [0, 0], true));
        assert_eq!(profiles, Profiles::default());
    }

    #[test]
    fn small_writes_are_remembered_for_their_connection_only_and_when_they_are_usual() {
        let mut profiles = Profiles::default();
        profiles.remember_traffic(&ends([true, true]), Some(Reason::SmallWrites));
        assert_eq!(profiles.verdict(&ends([true, true]), u32::MAX), Err(Reason::SmallWrites));
        let other = Ends { source: Endpoint::new(&"shop", &"cache"), ..ends([true, true]) };
        assert_eq!(profiles.verdict(&other, u32::MAX), Ok(()));
        profiles.remember_traffic(&ends([true, true]), None);
        assert_eq!(profiles.verdict(&ends([true, true]), u32::MAX), Ok(()));
    }

    #[test]
    fn outrunning_a_reader_is_remembered_when_it_happened_often_enough() {
        let mut profiles = Profiles::default();
        for _ in 1..ENOUGH_OUTRAN {
            profiles.remember_traffic(&ends([true, true]), Some(Reason::OutrunsReader));
            assert_eq!(profiles.verdict(&ends([true, true]), u32::MAX), Ok(()));
        }
        profiles.remember_traffic(&ends([true, true]), Some(Reason::OutrunsReader));
        assert_eq!(profiles.verdict(&ends([true, true]), u32::MAX), Err(Reason::OutrunsReader));
        for _ in 0..ENOUGH_OUTRAN {
            profiles.remember_traffic(&ends([true, true]), None);
        }
        assert_eq!(profiles.verdict(&ends([true, true]), u32::MAX), Ok(()));
    }

    #[test]
    fn programs_that_are_known_need_not_be_found_out() {
        assert_eq!(known_habits("nginx"), habit::UNREAD_SIZE);
        assert_eq!(known_habits("redis-server"), 0);
    }

    #[test]
    fn profiles_survive_their_file() {
        let mut profiles = Profiles::default();
        profiles.learn(&ends([false, false]), [1, 2], [3, 4], true);
        profiles.remember_traffic(&ends([false, false]), Some(Reason::SmallWrites));
        let text = toml::to_string(&profiles).expect("plain values");
        assert_eq!(toml::from_str::<Profiles>(&text).expect("its own text"), profiles);
    }
}
