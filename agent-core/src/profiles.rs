//! What is known of programs' habits, learned from sessions over plain TCP before any is redirected.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use patchbay_ebpf_common::{Habit, Reason};
use serde::{Deserialize, Serialize};

use super::allowance::Allowed;
use super::habit_names;
use crate::session_report::SessionReport;

/// Sending and receiving calls that must have been seen in one session before a program counts as known.
pub const ENOUGH_CALLS: u32 = 1_000;
/// Or sessions that must have ended.
pub const ENOUGH_SESSIONS: u32 = 50;

/// Habits kept of one plug or socket; further ones are not, the first one has decided already.
pub const MAX_HABITS: usize = 16;

/// A plug or socket of a service, `service.name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Endpoint(String);

impl Endpoint {
    /// The plug or socket of a service.
    pub fn new(service: &dyn std::fmt::Display, name: &dyn std::fmt::Display) -> Self {
        Self(format!("{service}.{name}"))
    }

    /// The end of a program without a service.
    pub fn of_program(scope: &str, program: &str, accepts: bool, port: &str) -> Self {
        let side = if accepts { "at" } else { "to" };
        Self(format!("{scope}/{program} {side} {port}"))
    }

    /// What it is the end of, if that is a program without a service: the scope, the program, whether it accepts,
    /// and the port.
    pub fn parts(&self) -> Option<(&str, &str, bool, &str)> {
        let (rest, port) = self.0.rsplit_once(' ')?;
        let (rest, side) = rest.rsplit_once(' ')?;
        let (scope, program) = rest.split_once('/')?;
        (side == "at" || side == "to").then_some((scope, program, side == "at", port))
    }

    /// What sorts before every end whose text begins so.
    pub fn prefix(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Whether its text begins so.
    pub fn starts_with(&self, text: &str) -> bool {
        self.0.starts_with(text)
    }

    fn program(&self) -> Option<&str> {
        self.parts().map(|(_, program, ..)| program)
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What was seen at one plug or socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Sessions that ended while they were observed.
    pub sessions: u32,
    /// Sending and receiving calls that were seen.
    pub calls: u32,
    /// Whether the program's files were asked what it could do.
    pub examined: bool,
    /// The day of its latest session, seconds since 1970.
    #[serde(default)]
    pub used: u64,
    /// What it does that is not on the list; at most [`MAX_HABITS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub habits: Vec<SeenHabit>,
}

/// A habit and when it was seen first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenHabit {
    /// For people.
    pub name: String,
    /// [`Habit`]
    pub code: u64,
    /// Seconds since 1970.
    pub seen: u64,
}

impl Profile {
    fn merge(&mut self, theirs: Self) {
        self.sessions = self.sessions.max(theirs.sessions);
        self.calls = self.calls.max(theirs.calls);
        self.examined |= theirs.examined;
        self.used = self.used.max(theirs.used);
        for habit in theirs.habits {
            self.add(Habit(habit.code), habit.seen);
        }
    }

    /// Whether the program may be redirected, or why not; `harmless` are bits of
    /// [`patchbay_ebpf_common::habit::tried`].
    ///
    /// # Errors
    /// The reason for TCP.
    pub fn verdict(&self, harmless: u32) -> Result<(), Reason> {
        if self.harmful(harmless).is_some() {
            Err(Reason::Habit)
        } else if self.examined && (self.calls >= ENOUGH_CALLS || self.sessions >= ENOUGH_SESSIONS) {
            Ok(())
        } else {
            Err(Reason::Learning)
        }
    }

    /// The first habit that keeps it on TCP.
    pub fn harmful(&self, harmless: u32) -> Option<Habit> {
        self.habits.iter().map(|seen| Habit(seen.code)).find(|habit| habit.harms(harmless))
    }

    fn add(&mut self, habit: Habit, seen: u64) {
        if self.habits.len() < MAX_HABITS && self.habits.iter().all(|known| known.code != habit.0) {
            self.habits.push(SeenHabit { name: habit_names::name(habit), code: habit.0, seen });
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
    /// Programs without a service, by the names that they have in `endpoints`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub programs: BTreeMap<String, ProgramFile>,
}

/// The files of a program, by which it is known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramFile {
    /// Its name as the kernel keeps it for its processes.
    pub name: String,
    /// The device of its file, as the kernel numbers it.
    pub device: u32,
    /// The inode of its file.
    pub inode: u64,
    /// Its file.
    pub program: PathBuf,
    /// What it runs, if it is an interpreter and that is a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<PathBuf>,
    /// The kernel programs' hash of its arguments, if it is an interpreter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<u64>,
}

/// Plugs and sockets that are kept; one more takes the place of that which was used longest ago.
pub const MAX_ENDPOINTS: usize = 1_024;
/// Abstract connections that are kept; one more takes the place of that which had the fewest sessions.
pub const MAX_CONNECTIONS: usize = 1_024;
/// Programs without a service that are kept.
pub const MAX_PROGRAMS: usize = 512;
/// A profile's time of use is kept to the day: that it is used is no news to be written down.
const DAY: u64 = 86_400;

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
    /// What a person vouches for at this connection.
    pub allowed: Allowed,
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
    pub fn verdict(&self, ends: &Ends, harmless: u32) -> Result<(), Reason> {
        if let Some(reason) = self.connections.get(&ends.connection()).and_then(|it| it.better_over_tcp()) {
            return Err(reason);
        }
        let harmless = ends.allowed.besides(harmless);
        let of = |end: &Endpoint, tested| match (tested, self.endpoints.get(end)) {
            (true, _) => Ok(()),
            (false, Some(profile)) => profile.verdict(harmless),
            (false, None) => Err(Reason::Learning),
        };
        // A habit of one end says more than that the other is still observed.
        match (of(&ends.source, ends.tested[0]), of(&ends.destination, ends.tested[1])) {
            (_, Err(Reason::Habit)) => Err(Reason::Habit),
            (source, destination) => source.and(destination),
        }
    }

    /// What the verdict is about, if it is [`Reason::Habit`].
    pub fn about(&self, ends: &Ends, harmless: u32) -> Habit {
        let harmless = ends.allowed.besides(harmless);
        [(&ends.source, ends.tested[0]), (&ends.destination, ends.tested[1])]
            .into_iter()
            .filter(|(_, tested)| !tested)
            .find_map(|(end, _)| self.endpoints.get(end)?.harmful(harmless))
            .unwrap_or(Habit::NONE)
    }

    /// Learns from a session so far; `ended` when there is nothing more to come from it. Returns whether
    /// anything changed that should be kept.
    pub fn learn(&mut self, ends: &Ends, report: &SessionReport, ended: bool) -> bool {
        let mut changed = false;
        for (index, end) in [&ends.source, &ends.destination].into_iter().enumerate() {
            let (calls, habits) = (report.calls[index], &report.habits[index]);
            if ends.tested[index] || (calls == 0 && habits.is_empty()) {
                continue;
            }
            self.make_room(end);
            let profile = self.endpoints.entry(end.clone()).or_default();
            profile.used = profile.used.max(report.read_at - report.read_at % DAY);
            let before = (profile.sessions, profile.calls, profile.examined, profile.habits.len());
            for habit in habits {
                profile.add(*habit, report.read_at);
            }
            profile.examined |= report.examined[index];
            // More than enough says no more, and would be written down again and again.
            profile.calls = profile.calls.max(calls.min(ENOUGH_CALLS));
            profile.sessions = (profile.sessions + u32::from(ended)).min(ENOUGH_SESSIONS);
            changed |= (profile.sessions, profile.calls, profile.examined, profile.habits.len()) != before;
        }
        changed
    }

    /// Whether one end may be redirected, or why not, and what that is about.
    pub fn verdict_of(&self, end: &Endpoint, harmless: u32) -> (Result<(), Reason>, Habit) {
        let Some(profile) = self.endpoints.get(end) else { return (Err(Reason::Learning), Habit::NONE) };
        (profile.verdict(harmless), profile.harmful(harmless).unwrap_or(Habit::NONE))
    }

    /// Why TCP carries what goes out of an end better, if it does so for one of its connections.
    pub fn better_over_tcp(&self, source: &Endpoint) -> Option<Reason> {
        let from = format!("{source} → ");
        let mut own = self.connections.range(from.clone()..).take_while(|(name, _)| name.starts_with(&from));
        own.find_map(|(_, traffic)| traffic.better_over_tcp())
    }

    /// Keeps the files of a program. Returns whether they were not known.
    pub fn keep_program(&mut self, name: &str, file: &ProgramFile) -> bool {
        if self.programs.get(name) == Some(file) {
            return false;
        }
        if self.programs.len() >= MAX_PROGRAMS {
            // One of which nothing is known any more, else any: it is found again when it is seen.
            let known: BTreeSet<&str> = self.endpoints.keys().filter_map(|end| end.program()).collect();
            let unused = self.programs.keys().find(|name| !known.contains(&***name));
            if let Some(name) = unused.or_else(|| self.programs.keys().next()).cloned() {
                self.programs.remove(&name);
            }
        }
        self.programs.insert(name.to_owned(), file.clone());
        true
    }

    /// Makes room for one more end.
    fn make_room(&mut self, end: &Endpoint) {
        while self.endpoints.len() >= MAX_ENDPOINTS && !self.endpoints.contains_key(end) {
            let oldest = self.endpoints.iter().min_by_key(|(_, profile)| (profile.used, profile.calls));
            let Some(oldest) = oldest.map(|(end, _)| end.clone()) else { return };
            self.endpoints.remove(&oldest);
        }
    }

    /// Adds what another has learned.
    pub fn merge(&mut self, other: Self) {
        for (name, file) in other.programs {
            if self.programs.len() < MAX_PROGRAMS {
                self.programs.entry(name).or_insert(file);
            }
        }
        for (end, theirs) in other.endpoints {
            self.make_room(&end);
            self.endpoints.entry(end).or_default().merge(theirs);
        }
        for (connection, theirs) in other.connections {
            self.make_room_for_connection(&connection);
            let ours = self.connections.entry(connection).or_default();
            // What both have from one file counts once.
            if theirs.sessions > ours.sessions {
                *ours = theirs;
            }
        }
    }

    /// What is known of an end that forbids redirection.
    pub fn harms(&self, end: &Endpoint, harmless: u32) -> Option<Habit> {
        self.endpoints.get(end).and_then(|profile| profile.harmful(harmless))
    }

    fn make_room_for_connection(&mut self, connection: &str) {
        while self.connections.len() >= MAX_CONNECTIONS && !self.connections.contains_key(connection) {
            let least = self.connections.iter().min_by_key(|(_, traffic)| traffic.sessions);
            let Some(least) = least.map(|(name, _)| name.clone()) else { return };
            self.connections.remove(&least);
        }
    }

    /// Remembers what a redirected session carried, when it has ended, or has left for a reason that
    /// [counts](Traffic::counts).
    pub fn remember_traffic(&mut self, ends: &Ends, left: Option<Reason>) {
        self.make_room_for_connection(&ends.connection());
        let traffic = self.connections.entry(ends.connection()).or_default();
        if traffic.sessions == u32::MAX {
            return;
        }
        traffic.sessions += 1;
        traffic.small_writes += u32::from(left == Some(Reason::SmallWrites));
        traffic.outran += u32::from(left == Some(Reason::OutrunsReader));
    }
}

#[cfg(test)]
mod tests {
    use patchbay_ebpf_common::habit::{FIONREAD, could, tried};
    use ssmmp::extension::Allowance;

    use super::*;

    fn ends(tested: [bool; 2]) -> Ends {
        Ends {
            source: Endpoint::new(&"web", &"cache"),
            destination: Endpoint::new(&"redis", &"in"),
            tested,
            allowed: Allowed::default(),
        }
    }

    fn report(calls: [u32; 2], habits: [&[Habit]; 2]) -> SessionReport {
        let mut report = SessionReport::between(1, 2, "127.0.0.1:1".parse().expect("an address"));
        report.calls = calls;
        report.habits = habits.map(<[Habit]>::to_vec);
        report.examined = [true, true];
        report
    }

    #[test]
    fn a_program_is_known_after_enough_calls_or_sessions() {
        let mut profiles = Profiles::default();
        let ends = ends([true, false]);
        assert_eq!(profiles.verdict(&ends, 0), Err(Reason::Learning));
        assert!(profiles.learn(&ends, &report([9, ENOUGH_CALLS - 1], [&[], &[]]), true));
        assert_eq!(profiles.verdict(&ends, 0), Err(Reason::Learning));
        assert!(profiles.learn(&ends, &report([9, ENOUGH_CALLS], [&[], &[]]), false));
        assert_eq!(profiles.verdict(&ends, 0), Ok(()));
        assert!(!profiles.endpoints.contains_key(&ends.source), "what is tested is not learned");
    }

    #[test]
    fn a_program_whose_files_were_not_asked_is_not_known() {
        let mut profiles = Profiles::default();
        let mut seen = report([ENOUGH_CALLS; 2], [&[], &[]]);
        seen.examined = [true, false];
        profiles.learn(&ends([false, false]), &seen, true);
        assert_eq!(profiles.verdict(&ends([false, false]), 0), Err(Reason::Learning));
        seen.examined = [true, true];
        assert!(profiles.learn(&ends([false, false]), &seen, true));
        assert_eq!(profiles.verdict(&ends([false, false]), 0), Ok(()));
    }

    #[test]
    fn a_habit_is_named_never_forgotten_and_counts_where_it_harms() {
        let mut profiles = Profiles::default();
        let ends = ends([false, false]);
        let asks = Habit::ioctl(FIONREAD);
        profiles.learn(&ends, &report([0, 1], [&[], &[asks]]), false);
        for _ in 0..ENOUGH_SESSIONS {
            profiles.learn(&ends, &report([ENOUGH_CALLS; 2], [&[], &[]]), true);
        }
        assert_eq!(profiles.verdict(&ends, 0), Err(Reason::Habit));
        assert_eq!(profiles.about(&ends, 0), asks);
        assert_eq!(profiles.endpoints[&ends.destination].habits[0].name, "ioctl FIONREAD");
        assert_eq!(profiles.verdict(&ends, tried::UNREAD_SIZE), Ok(()));
        assert_eq!(profiles.about(&ends, tried::UNREAD_SIZE), Habit::NONE);
    }

    #[test]
    fn what_a_person_vouches_for_counts_until_it_is_seen() {
        let mut profiles = Profiles::default();
        let plain = ends([false, false]);
        let vouched = Ends { allowed: [Allowance::Splice].into_iter().collect(), ..plain.clone() };
        let (could, does) = (Habit::could(could::SPLICE), Habit::call(libc::SYS_splice as u32));
        profiles.learn(&plain, &report([ENOUGH_CALLS; 2], [&[could], &[]]), true);
        assert_eq!(profiles.verdict(&plain, 0), Err(Reason::Habit));
        assert_eq!(profiles.verdict(&vouched, 0), Ok(()));
        assert_eq!(profiles.about(&vouched, 0), Habit::NONE);
        profiles.learn(&vouched, &report([ENOUGH_CALLS; 2], [&[does], &[]]), false);
        assert_eq!(profiles.verdict(&vouched, 0), Err(Reason::Habit));
        assert_eq!(profiles.about(&vouched, 0), does);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_longest_unused_goes() {
        let mut profiles = Profiles::default();
        let ends = |number: usize| Ends {
            source: Endpoint::of_program("app", &format!("p{number}"), false, "any"),
            destination: Endpoint::of_program("app", "server", true, "80"),
            ..self::ends([false, false])
        };
        for number in 0..2 * MAX_ENDPOINTS {
            let mut seen = report([1, 1], [&[], &[]]);
            seen.read_at = DAY * number as u64 + 5;
            profiles.learn(&ends(number), &seen, true);
            profiles.remember_traffic(&ends(number), None);
            let file = ProgramFile {
                name: "p".into(),
                device: 1,
                inode: number as u64,
                program: "/bin/p".into(),
                script: None,
                arguments: None,
            };
            assert!(profiles.keep_program(&format!("p{number}"), &file));
            assert!(!profiles.keep_program(&format!("p{number}"), &file), "it is known");
        }
        assert_eq!(profiles.endpoints.len(), MAX_ENDPOINTS);
        assert_eq!(profiles.connections.len(), MAX_CONNECTIONS);
        assert_eq!(profiles.programs.len(), MAX_PROGRAMS);
        assert!(!profiles.endpoints.contains_key(&ends(0).source));
        assert!(profiles.endpoints.contains_key(&ends(2 * MAX_ENDPOINTS - 1).source));
        assert!(profiles.endpoints.contains_key(&ends(0).destination), "it is used all the time");
        assert!(profiles.programs.contains_key(&format!("p{}", 2 * MAX_ENDPOINTS - 1)));
        let text = toml::to_string(&profiles).expect("plain values");
        assert!(text.len() < 1 << 20, "{} bytes", text.len());
        let mut other = profiles.clone();
        other.merge(profiles.clone());
        assert_eq!(other, profiles, "what both have counts once");
    }

    #[test]
    fn each_end_has_a_verdict_and_a_source_what_its_traffic_says() {
        let mut profiles = Profiles::default();
        let ends = ends([false, false]);
        assert_eq!(profiles.verdict_of(&ends.source, 0), (Err(Reason::Learning), Habit::NONE));
        profiles.learn(&ends, &report([ENOUGH_CALLS; 2], [&[], &[Habit::ioctl(FIONREAD)]]), true);
        assert_eq!(profiles.verdict_of(&ends.source, 0), (Ok(()), Habit::NONE));
        assert_eq!(profiles.verdict_of(&ends.destination, 0), (Err(Reason::Habit), Habit::ioctl(FIONREAD)));
        assert_eq!(profiles.better_over_tcp(&ends.source), None);
        profiles.remember_traffic(&ends, Some(Reason::SmallWrites));
        assert_eq!(profiles.better_over_tcp(&ends.source), Some(Reason::SmallWrites));
        assert_eq!(profiles.better_over_tcp(&ends.destination), None);
    }

    #[test]
    fn habits_are_bounded() {
        let mut profiles = Profiles::default();
        for option in 0..100 {
            profiles.learn(&ends([false, true]), &report([1, 1], [&[Habit::set(99, option)], &[]]), false);
        }
        assert_eq!(profiles.endpoints[&ends([false, true]).source].habits.len(), MAX_HABITS);
    }

    #[test]
    fn a_session_without_a_call_teaches_nothing() {
        let mut profiles = Profiles::default();
        assert!(!profiles.learn(&ends([false, false]), &report([0, 0], [&[], &[]]), true));
        assert_eq!(profiles, Profiles::default());
    }

    #[test]
    fn small_writes_are_remembered_for_their_connection_only_and_when_they_are_usual() {
        let mut profiles = Profiles::default();
        profiles.remember_traffic(&ends([true, true]), Some(Reason::SmallWrites));
        assert_eq!(profiles.verdict(&ends([true, true]), 0), Err(Reason::SmallWrites));
        let other = Ends { source: Endpoint::new(&"shop", &"cache"), ..ends([true, true]) };
        assert_eq!(profiles.verdict(&other, 0), Ok(()));
        profiles.remember_traffic(&ends([true, true]), None);
        assert_eq!(profiles.verdict(&ends([true, true]), 0), Ok(()));
    }

    #[test]
    fn outrunning_a_reader_is_remembered_when_it_happened_often_enough() {
        let mut profiles = Profiles::default();
        for _ in 1..ENOUGH_OUTRAN {
            profiles.remember_traffic(&ends([true, true]), Some(Reason::OutrunsReader));
            assert_eq!(profiles.verdict(&ends([true, true]), 0), Ok(()));
        }
        profiles.remember_traffic(&ends([true, true]), Some(Reason::OutrunsReader));
        assert_eq!(profiles.verdict(&ends([true, true]), 0), Err(Reason::OutrunsReader));
        for _ in 0..ENOUGH_OUTRAN {
            profiles.remember_traffic(&ends([true, true]), None);
        }
        assert_eq!(profiles.verdict(&ends([true, true]), 0), Ok(()));
    }

    #[test]
    fn profiles_survive_their_file() {
        let mut profiles = Profiles::default();
        let seen = report([3, 4], [&[Habit::received_with(0x20)], &[Habit::manner(1), Habit(u64::MAX >> 8)]]);
        profiles.learn(&ends([false, false]), &seen, true);
        profiles.remember_traffic(&ends([false, false]), Some(Reason::SmallWrites));
        let text = toml::to_string(&profiles).expect("plain values");
        assert_eq!(toml::from_str::<Profiles>(&text).expect("its own text"), profiles);
    }
}
