//! Which running instance gets a new session (section 4, 6; L2, L5).

use ssmmp::InstanceId;

use super::near_is_fair;
use crate::graph::policy::{Balance, Near};

/// An instance that could take a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The instance.
    pub id: InstanceId,
    /// On the asker's node: the session would be redirected.
    pub is_near: bool,
    /// Its sessions, open and promised.
    pub sessions: u32,
    /// It answered 199: it gets a session only when all did.
    pub is_overloaded: bool,
}

/// Chooses. `turn` is a number that differs from call to call: a counter for [`Balance::RoundRobin`], a
/// random one for [`Balance::TwoChoices`].
///
/// What is near goes first while it is not much more loaded than the least loaded elsewhere; the balance
/// decides among what is left.
pub fn choose(
    candidates: impl Iterator<Item = Candidate> + Clone,
    balance: Balance,
    near: Near,
    turn: u64,
) -> Option<InstanceId> {
    let fit = candidates.clone().any(|candidate| !candidate.is_overloaded);
    let candidates = candidates.filter(move |candidate| !(fit && candidate.is_overloaded));
    let least_elsewhere = candidates.clone().filter(|c| !c.is_near).map(|c| c.sessions).min();
    let fair = move |c: &Candidate| c.is_near && near_is_fair(near, c.sessions, least_elsewhere);
    let any_fair = candidates.clone().any(|candidate| fair(&candidate));
    balanced(candidates.filter(move |candidate| !any_fair || fair(candidate)), balance, turn)
}

fn balanced(
    candidates: impl Iterator<Item = Candidate> + Clone,
    balance: Balance,
    turn: u64,
) -> Option<InstanceId> {
    let count = candidates.clone().count() as u64;
    let pick = |number: u64| candidates.clone().nth((number % count) as usize);
    let fewer = |candidate: &Candidate| (candidate.sessions, candidate.id);
    match balance {
        _ if count == 0 => None,
        Balance::LeastSessions => candidates.clone().min_by_key(fewer),
        Balance::RoundRobin => pick(turn),
        Balance::TwoChoices => {
            let first = u64::from(turn as u32) % count;
            let second = (first + 1 + (turn >> 32) % (count.max(2) - 1)) % count;
            [pick(first), pick(second)].into_iter().flatten().min_by_key(fewer)
        }
    }
    .map(|candidate| candidate.id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::graph::policy::Policy;

    /// `n` is near, `!` is overloaded, the number are the sessions; ids count from 1.
    fn chosen(candidates: &str, balance: Balance, turn: u64) -> Option<u64> {
        let candidates: Vec<Candidate> = candidates
            .split_whitespace()
            .zip(1..)
            .map(|(text, id)| Candidate {
                id: InstanceId(id),
                is_near: text.contains('n'),
                is_overloaded: text.contains('!'),
                sessions: text.trim_matches(['n', '!']).parse().expect("a number"),
            })
            .collect();
        choose(candidates.into_iter(), balance, Policy::default().near, turn).map(|id| id.0)
    }

    #[test]
    fn what_is_near_goes_first_within_bounds() {
        let least = |candidates| chosen(candidates, Balance::LeastSessions, 0);
        assert_eq!(least(""), None);
        assert_eq!(least("3 1 2"), Some(2));
        assert_eq!(least("3n 0"), Some(1), "below four times the least");
        assert_eq!(least("4n 0"), Some(2), "not below it");
        assert_eq!(least("4n 0 3n"), Some(3), "another near one is");
        assert_eq!(least("1065n 1000"), Some(2), "65 sessions more are too many");
        assert_eq!(least("1064n 1000"), Some(1));
        assert_eq!(least("9n"), Some(1), "there is no other");
    }

    #[test]
    fn the_overloaded_go_last() {
        assert_eq!(chosen("0n! 9", Balance::LeastSessions, 0), Some(2));
        assert_eq!(chosen("2! 1!", Balance::LeastSessions, 0), Some(2));
    }

    #[test]
    fn turns_and_random_numbers_decide() {
        let robin: Vec<_> = (0..4).map(|turn| chosen("5n 0n 9n 0", Balance::RoundRobin, turn)).collect();
        // 5 and 9 near sessions are too many beside one without any.
        assert_eq!(robin, [Some(2); 4]);
        let robin: Vec<_> = (0..4).map(|turn| chosen("5 0 9", Balance::RoundRobin, turn)).collect();
        assert_eq!(robin, [Some(1), Some(2), Some(3), Some(1)]);
        assert_eq!(chosen("5 0 9", Balance::TwoChoices, 0), Some(2), "the first two");
        assert_eq!(chosen("5 0 9", Balance::TwoChoices, 1 << 32), Some(1), "the first and the last");
        assert_eq!(chosen("7", Balance::TwoChoices, 12345), Some(1));
    }

    proptest! {
        #[test]
        fn the_spread_stays_bounded(
            balance in prop_oneof![Just(Balance::LeastSessions), Just(Balance::TwoChoices), Just(Balance::RoundRobin)],
            near in prop::collection::vec(any::<bool>(), 1..6),
            turns in prop::collection::vec(any::<u64>(), 1..400),
        ) {
            let policy = Near { weight: 4, imbalance: 8 };
            let mut sessions = vec![0u32; near.len()];
            for (count, turn) in turns.iter().enumerate() {
                let candidates: Vec<Candidate> = near.iter().zip(&sessions).zip(1..).map(|((is_near, sessions), id)| {
                    Candidate { id: InstanceId(id), is_near: *is_near, sessions: *sessions, is_overloaded: false }
                }).collect();
                let turn = if balance == Balance::RoundRobin { count as u64 } else { *turn };
                let chosen = choose(candidates.into_iter(), balance, policy, turn).expect("there is one");
                sessions[chosen.0 as usize - 1] += 1;
            }
            if balance == Balance::LeastSessions {
                let (most, least) = (sessions.iter().max().unwrap_or(&0), sessions.iter().min().unwrap_or(&0));
                prop_assert!(most - least <= policy.imbalance + 1, "{sessions:?}");
            }
            prop_assert_eq!(sessions.iter().sum::<u32>() as usize, turns.len());
        }
    }
}
