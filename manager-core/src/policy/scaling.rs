//! How many replicas a service should have now (section 4, 18; L1, L5, T6).

use ssmmp::InstanceId;

use crate::graph::policy::Scale;

/// A running instance, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica {
    /// The instance.
    pub id: InstanceId,
    /// Sessions to its sockets and from its plugs.
    pub sessions: u32,
    /// Sessions to its sockets.
    pub accepted: u32,
    /// Answers of 199 in a row.
    pub overloads: u32,
    /// It had no session for the idle time.
    pub is_idle: bool,
}

/// A service's bounds and state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// Fewest instances: the graph's bound, or what people asked for.
    pub least: u32,
    /// Most instances.
    pub most: u32,
    /// Instances that are being started.
    pub starting: u32,
    /// The pause since the last change is over.
    pub is_settled: bool,
    /// Load makes no replicas: it holds state.
    pub is_fixed: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// Start one more, for this reason.
    Up(String),
    /// Shut this one down, for this reason.
    Down(InstanceId, String),
}

/// Decides. One step at a time: what it changes is seen before the next.
pub fn verdict(replicas: &[Replica], situation: Situation, scale: Scale) -> Verdict {
    let Situation { least, most, starting, is_settled, is_fixed } = situation;
    let running = replicas.len() as u32;
    if starting == 0
        && running > least
        && let Some(idle) = replicas.iter().filter(|replica| replica.is_idle).max_by_key(|replica| replica.id)
    {
        return Verdict::Down(idle.id, "no session for the idle time".into());
    }
    if is_fixed || !is_settled || starting > 0 || running == 0 {
        return Verdict::Keep;
    }
    let accepted: u64 = replicas.iter().map(|replica| u64::from(replica.accepted)).sum();
    if running < most {
        if accepted > u64::from(scale.sessions) * u64::from(running) {
            let text = format!("{accepted} sessions are more than {} for each of {running}", scale.sessions);
            return Verdict::Up(text);
        }
        if let Some(replica) = replicas.iter().find(|replica| replica.overloads >= scale.overloads) {
            return Verdict::Up(format!("instance {} is overloaded (199)", replica.id));
        }
    }
    Verdict::Keep
}

/// Whether one replica fewer would carry the sessions with half of its threshold to spare; when that
/// lasts for the idle time, one is shut down.
pub fn is_underused(replicas: &[Replica], situation: Situation, scale: Scale) -> bool {
    let running = replicas.len() as u64;
    let accepted: u64 = replicas.iter().map(|replica| u64::from(replica.accepted)).sum();
    !situation.is_fixed
        && situation.starting == 0
        && running > u64::from(situation.least.max(1))
        && replicas.iter().all(|replica| replica.overloads == 0)
        && accepted * 2 <= u64::from(scale.sessions) * (running - 1)
}

/// The replica that costs least to shut down: the fewest sessions, then the youngest.
pub fn least_used(replicas: &[Replica]) -> Option<InstanceId> {
    replicas.iter().min_by_key(|r| (r.sessions, std::cmp::Reverse(r.id))).map(|replica| replica.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALE: Scale = Scale { sessions: 10, overloads: 2, pause: 0 };
    const CALM: Situation = Situation { least: 1, most: 3, starting: 0, is_settled: true, is_fixed: false };

    /// Replicas by their accepted sessions; `i` is idle, each `!` a 199.
    fn replicas(text: &str) -> Vec<Replica> {
        text.split_whitespace()
            .zip(1..)
            .map(|(text, id)| {
                let sessions = text.trim_matches(['i', '!']).parse().expect("a number");
                let overloads = text.matches('!').count() as u32;
                Replica {
                    id: InstanceId(id),
                    sessions,
                    accepted: sessions,
                    overloads,
                    is_idle: text.contains('i'),
                }
            })
            .collect()
    }

    fn word(text: &str, situation: Situation) -> String {
        match verdict(&replicas(text), situation, SCALE) {
            Verdict::Keep => "keep".into(),
            Verdict::Up(_) => "up".into(),
            Verdict::Down(id, _) => format!("down {id}"),
        }
    }

    #[test]
    fn load_makes_replicas_within_the_bounds() {
        for (text, expected) in [
            ("10", "keep"),
            ("11", "up"),
            ("20 0", "keep"),
            ("21 0", "up"),
            ("99 99 99", "keep"),
            ("", "keep"),
        ] {
            assert_eq!(word(text, CALM), expected, "{text}");
        }
        assert_eq!(word("3!", CALM), "keep");
        assert_eq!(word("3!! 0", CALM), "up");
    }

    #[test]
    fn one_step_at_a_time() {
        assert_eq!(word("99", Situation { starting: 1, ..CALM }), "keep");
        assert_eq!(word("99", Situation { is_settled: false, ..CALM }), "keep");
        assert_eq!(word("99", Situation { is_fixed: true, ..CALM }), "keep");
    }

    #[test]
    fn the_idle_go_but_never_below_the_minimum() {
        assert_eq!(word("5 0i 0i", CALM), "down 3");
        assert_eq!(word("0i", CALM), "keep");
        assert_eq!(word("0i", Situation { least: 0, ..CALM }), "down 1");
        assert_eq!(word("0i", Situation { least: 0, starting: 1, ..CALM }), "keep");
        assert_eq!(word("0i", Situation { least: 0, is_fixed: true, ..CALM }), "down 1");
    }

    #[test]
    fn few_sessions_on_many_replicas_are_underused() {
        assert!(is_underused(&replicas("3 2"), CALM, SCALE));
        assert!(!is_underused(&replicas("3 3"), CALM, SCALE), "one would have more than half of ten");
        assert!(!is_underused(&replicas("1"), CALM, SCALE), "the minimum");
        assert!(!is_underused(&replicas("1! 0"), CALM, SCALE));
        assert_eq!(least_used(&replicas("3 2 2")), Some(InstanceId(3)));
    }
}
