//! How an application is to be run: defaults, what a graph file may say, and for whom (docs/policy.md).

use std::num::NonZeroU32;
use std::time::Duration;

use serde::Deserialize;

/// Longest time a policy may name, milliseconds: thirty days.
const LONGEST: u64 = 30 * 24 * 3_600_000;

/// How instances of a service are chosen, placed, replicated, restarted and watched (L4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Which running instance gets a new session.
    pub balance: Balance,
    /// How much an instance or node near the asker is preferred.
    pub near: Near,
    /// How long an instance may take to start, milliseconds.
    pub start_within: u64,
    /// How long a graceful shutdown may take before it is forced, milliseconds.
    pub stop_within: u64,
    /// How long a session may go on after it was asked to close, milliseconds.
    pub close_within: u64,
    /// An instance without sessions for so long is shut down, milliseconds; `None`: never (T6).
    pub idle: Option<u64>,
    /// When one more replica is started.
    pub scale: Scale,
    /// How many ends of instances are answered with a start at once.
    pub restarts: Restarts,
    /// How instances are polled.
    pub health: Health,
}

/// Which running instance gets a new session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// The one with the fewest.
    #[default]
    LeastSessions,
    /// One after the other.
    RoundRobin,
    /// Of two picked at random, the one with fewer.
    TwoChoices,
}

/// Sessions on one node are redirected in the kernel, so what is near goes first, within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Near {
    /// What is near may have so many times the load of the least loaded; 1 gives nearness no weight
    /// beyond a tie.
    pub weight: u32,
    /// What is near may have at most so much more load than the least loaded.
    pub imbalance: u32,
}

/// When one more replica is started, within the bounds of `replicas`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// Sessions to each replica's sockets, on average, above which one more is started.
    pub sessions: u32,
    /// Answers of 199 (overloaded) in a row from one instance that start one more.
    pub overloads: u32,
    /// Pause between two changes of the number of replicas, milliseconds.
    pub pause: u64,
}

/// The budget of restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restarts {
    /// Unplanned ends within the window before the service counts as failing and pauses grow.
    pub tries: u32,
    /// The window, milliseconds.
    pub within: u64,
}

/// How instances are polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Pause between two polls, milliseconds.
    pub every: u64,
    /// Polls that may go unanswered before the instance counts as failed.
    pub misses: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            balance: Balance::LeastSessions,
            near: Near { weight: 4, imbalance: 64 },
            start_within: 30_000,
            stop_within: 10_000,
            close_within: 5_000,
            idle: Some(600_000),
            scale: Scale { sessions: 100, overloads: 1, pause: 10_000 },
            restarts: Restarts { tries: 5, within: 600_000 },
            health: Health { every: 5_000, misses: 3 },
        }
    }
}

impl Policy {
    /// This policy with what a graph file says.
    #[must_use]
    pub fn with(mut self, said: &Said) -> Self {
        fn set<T: Copy>(place: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *place = value;
            }
        }
        set(&mut self.balance, said.balance);
        set(&mut self.start_within, said.start_within.map(|time| time.0));
        set(&mut self.stop_within, said.stop_within.map(|time| time.0));
        set(&mut self.close_within, said.close_within.map(|time| time.0));
        set(&mut self.idle, said.idle.map(|idle| idle.0));
        set(&mut self.near.weight, said.near.weight.map(NonZeroU32::get));
        set(&mut self.near.imbalance, said.near.imbalance);
        set(&mut self.scale.sessions, said.scale.sessions.map(NonZeroU32::get));
        set(&mut self.scale.overloads, said.scale.overloads.map(NonZeroU32::get));
        set(&mut self.scale.pause, said.scale.pause.map(|time| time.0));
        set(&mut self.restarts.tries, said.restarts.tries.map(NonZeroU32::get));
        set(&mut self.restarts.within, said.restarts.within.map(|time| time.0));
        set(&mut self.health.every, said.health.every.map(|time| time.0));
        set(&mut self.health.misses, said.health.misses.map(NonZeroU32::get));
        self
    }

    /// All settings as the graph file writes them.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("balance", self.balance.as_str().into()),
            ("near.weight", self.near.weight.to_string()),
            ("near.imbalance", self.near.imbalance.to_string()),
            ("start_within", time(self.start_within)),
            ("stop_within", time(self.stop_within)),
            ("close_within", time(self.close_within)),
            ("idle", self.idle.map_or_else(|| "never".into(), time)),
            ("scale.sessions", self.scale.sessions.to_string()),
            ("scale.overloads", self.scale.overloads.to_string()),
            ("scale.pause", time(self.scale.pause)),
            ("restarts.tries", self.restarts.tries.to_string()),
            ("restarts.within", time(self.restarts.within)),
            ("health.every", time(self.health.every)),
            ("health.misses", self.health.misses.to_string()),
        ]
    }
}

impl Balance {
    /// The word in the graph file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LeastSessions => "least-sessions",
            Self::RoundRobin => "round-robin",
            Self::TwoChoices => "two-choices",
        }
    }
}

/// What a graph file says of a policy; what it leaves out stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Said {
    balance: Option<Balance>,
    near: NearSaid,
    start_within: Option<Time>,
    stop_within: Option<Time>,
    close_within: Option<Time>,
    idle: Option<Idle>,
    scale: ScaleSaid,
    restarts: RestartsSaid,
    health: HealthSaid,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NearSaid {
    weight: Option<NonZeroU32>,
    imbalance: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ScaleSaid {
    sessions: Option<NonZeroU32>,
    overloads: Option<NonZeroU32>,
    pause: Option<Time>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RestartsSaid {
    tries: Option<NonZeroU32>,
    within: Option<Time>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HealthSaid {
    every: Option<Time>,
    misses: Option<NonZeroU32>,
}

impl Said {
    /// A service's own words before those for the whole application.
    #[must_use]
    pub fn or(&self, whole: &Self) -> Self {
        Self {
            balance: self.balance.or(whole.balance),
            near: NearSaid {
                weight: self.near.weight.or(whole.near.weight),
                imbalance: self.near.imbalance.or(whole.near.imbalance),
            },
            start_within: self.start_within.or(whole.start_within),
            stop_within: self.stop_within.or(whole.stop_within),
            close_within: self.close_within.or(whole.close_within),
            idle: self.idle.or(whole.idle),
            scale: ScaleSaid {
                sessions: self.scale.sessions.or(whole.scale.sessions),
                overloads: self.scale.overloads.or(whole.scale.overloads),
                pause: self.scale.pause.or(whole.scale.pause),
            },
            restarts: RestartsSaid {
                tries: self.restarts.tries.or(whole.restarts.tries),
                within: self.restarts.within.or(whole.restarts.within),
            },
            health: HealthSaid {
                every: self.health.every.or(whole.health.every),
                misses: self.health.misses.or(whole.health.misses),
            },
        }
    }
}

/// A time such as `500ms`, `30s` or `1h 30m`, in milliseconds, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Time(u64);

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let time = humantime::parse_duration(&text)
            .map_err(|error| format!("`{text}` is no time ({error}); write it like \"30s\" or \"10m\""))?;
        match u64::try_from(time.as_millis()) {
            Ok(time @ 1..=LONGEST) => Ok(Self(time)),
            _ => Err(format!("`{text}` is not between 1ms and 30days")),
        }
    }
}

/// A time, or `never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Idle(Option<u64>);

impl TryFrom<String> for Idle {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self(None));
        }
        Time::try_from(text)
            .map(|time| Self(Some(time.0)))
            .map_err(|problem| format!("{problem}, or \"never\""))
    }
}

/// Milliseconds as the graph file writes them.
pub fn time(milliseconds: u64) -> String {
    humantime::format_duration(Duration::from_millis(milliseconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<Said, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    #[test]
    fn a_services_words_come_before_the_applications_and_the_defaults() {
        let whole = said("balance = \"round-robin\"\nidle = \"never\"\nhealth.misses = 9").expect("good");
        let own = said("idle = \"1m\"\nscale = { sessions = 7 }").expect("good");
        let policy = Policy::default().with(&own.or(&whole));
        assert_eq!(policy.balance, Balance::RoundRobin);
        assert_eq!((policy.idle, policy.scale.sessions, policy.scale.overloads), (Some(60_000), 7, 1));
        assert_eq!((policy.health.misses, policy.health.every), (9, 5_000));
        assert_eq!(Policy::default().with(&Said::default()), Policy::default());
    }

    #[test]
    fn bad_values_say_what_is_wrong() {
        for (text, expected) in [
            ("idle = \"soon\"", "`soon` is no time"),
            ("start_within = \"0s\"", "not between 1ms and 30days"),
            ("start_within = \"1year\"", "not between"),
            ("balance = \"fair\"", "unknown variant `fair`, expected one of `least-sessions`"),
            ("near.weight = 0", "nonzero"),
            ("scale = { session = 1 }", "unknown field `session`, expected one of `sessions`"),
        ] {
            let problem = said(text).expect_err(text);
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }

    #[test]
    fn settings_are_written_as_they_are_read() {
        let settings = Policy::default().settings();
        let text: Vec<String> = settings
            .iter()
            .map(|(name, value)| match value.parse::<u32>() {
                Ok(number) => format!("{name} = {number}"),
                Err(_) => format!("{name} = \"{value}\""),
            })
            .collect();
        let read = Policy { idle: None, ..Policy::default() }.with(&said(&text.join("\n")).expect("good"));
        assert_eq!(read, Policy::default());
    }
}
