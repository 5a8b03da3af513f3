//! Which running instance gets a new session (section 4, 6; L2, L5). Each choice looks at a few instances,
//! however many there are.

use ssmmp::InstanceId;

use super::near_is_fair;
use crate::graph::policy::{Balance, Near};
use crate::inventory::offer::{Peers, Rank};

/// Instances near the asker that a balance that goes round passes over at most, because they have too many
/// sessions; then the least loaded one there is taken.
const PASSED_OVER: usize = 64;

/// What is chosen from: the running instances with the same sockets, without the overloaded ones while there
/// are others.
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    /// All of them.
    pub all: &'a Peers,
    /// Those on the asker's node: their sessions would be redirected.
    pub near: Option<&'a Peers>,
    /// The fewest sessions that one on another node has.
    pub least_elsewhere: Option<u32>,
}

/// What differs from choice to choice.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// The one that was chosen last: [`Balance::RoundRobin`] takes the next one.
    pub latest: InstanceId,
    /// Picks the two of [`Balance::TwoChoices`].
    pub random: u64,
}

/// Chooses; `sessions` are those of an instance, open and promised.
///
/// What is near goes first while the least loaded there is not much more loaded than the least loaded
/// elsewhere; the balance decides among what is left, and passes over what is near and more loaded than that.
pub fn choose(
    fields: &[Field<'_>],
    sessions: impl Fn(InstanceId) -> u32,
    balance: Balance,
    near: Near,
    turn: Turn,
) -> Option<InstanceId> {
    let least_elsewhere = fields.iter().filter_map(|field| field.least_elsewhere).min();
    let is_fair = |sessions| near_is_fair(near, sessions, least_elsewhere);
    let least_near = fields.iter().filter_map(|field| field.near?.first()).min();
    let goes_near = least_near.is_some_and(|(sessions, _)| is_fair(sessions));
    let peers = || fields.iter().filter_map(|field| if goes_near { field.near } else { Some(field.all) });
    let fits = |id: &InstanceId| !goes_near || is_fair(sessions(*id));
    let best = || peers().filter_map(Peers::first).min().map(|(_, id)| id);
    match balance {
        Balance::LeastSessions => best(),
        Balance::RoundRobin => {
            let next = |id| peers().filter_map(|peers| peers.after(id)).min();
            let first = || peers().filter_map(|peers| peers.get(0)).min();
            let round =
                std::iter::successors(next(turn.latest).or_else(first), |id| next(*id).or_else(first));
            round.take(PASSED_OVER).find(fits).or_else(best)
        }
        Balance::TwoChoices => {
            let count = peers().map(Peers::len).sum::<usize>() as u64;
            if count == 0 {
                return None;
            }
            let first = u64::from(turn.random as u32) % count;
            let second = (first + 1 + (turn.random >> 32) % (count.max(2) - 1)) % count;
            let pick = |place| nth(peers(), place);
            let fair = [pick(first), pick(second)].into_iter().flatten().filter(fits);
            fair.map(|id| -> Rank { (sessions(id), id) }).min().map(|(_, id)| id).or_else(best)
        }
    }
}

fn nth<'a>(all: impl Iterator<Item = &'a Peers>, place: u64) -> Option<InstanceId> {
    let mut place = place as usize;
    for peers in all {
        match peers.get(place) {
            Some(id) => return Some(id),
            None => place -= peers.len(),
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use ssmmp::{Address, Name};

    use super::*;
    use crate::graph::policy::Policy;
    use crate::inventory::offer::Offer;

    /// An instance that could take a session.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Candidate {
        pub(crate) id: InstanceId,
        pub(crate) is_near: bool,
        pub(crate) sessions: u32,
        pub(crate) is_overloaded: bool,
    }

    /// The same choice by looking at everybody; candidates in the order of their sockets and ids.
    pub(crate) fn naive(
        candidates: &[Candidate],
        balance: Balance,
        near: Near,
        turn: Turn,
    ) -> Option<InstanceId> {
        let some_fit = candidates.iter().any(|candidate| !candidate.is_overloaded);
        let fit: Vec<Candidate> =
            candidates.iter().filter(|c| !(some_fit && c.is_overloaded)).copied().collect();
        let least_elsewhere = fit.iter().filter(|c| !c.is_near).map(|c| c.sessions).min();
        let fair = |c: &Candidate| c.is_near && near_is_fair(near, c.sessions, least_elsewhere);
        let goes_near = fit.iter().any(fair);
        let pool: Vec<Candidate> = fit.into_iter().filter(|c| !goes_near || c.is_near).collect();
        let fits = |c: &&Candidate| !goes_near || fair(c);
        let best = || pool.iter().filter(fits).min_by_key(|c| (c.sessions, c.id));
        let chosen = match balance {
            Balance::LeastSessions => best(),
            Balance::RoundRobin => {
                let fit = || pool.iter().filter(fits);
                fit()
                    .filter(|c| c.id > turn.latest)
                    .min_by_key(|c| c.id)
                    .or_else(|| fit().min_by_key(|c| c.id))
            }
            Balance::TwoChoices => {
                let count = pool.len().max(1);
                let first = turn.random as u32 as usize % count;
                let second = (first + 1 + (turn.random >> 32) as usize % (count.max(2) - 1)) % count;
                let two = [pool.get(first), pool.get(second)].into_iter().flatten().filter(fits);
                two.min_by_key(|c| (c.sessions, c.id)).or_else(best)
            }
        };
        chosen.map(|candidate| candidate.id)
    }

    fn node(number: u8) -> Address {
        Address::from(std::net::IpAddr::from([10, 0, 0, number]))
    }

    /// The choice for an asker on node 1; also made by looking at everybody.
    #[track_caller]
    fn chosen_from(candidates: &[Candidate], balance: Balance, near: Near, turn: Turn) -> Option<InstanceId> {
        let mut offer = Offer::of([Name::new("s").expect("a name")].into());
        for c in candidates {
            let place = if c.is_near { node(1) } else { node(2 + (c.id.0 % 3) as u8) };
            offer.change(place, None, Some((c.is_overloaded, (c.sessions, c.id))));
        }
        let sessions = |id| candidates.iter().find(|c| c.id == id).map_or(0, |c| c.sessions);
        let field = offer.field(node(1), offer.has_fit());
        let chosen = choose(&[field], sessions, balance, near, turn);
        assert_eq!(chosen, naive(candidates, balance, near, turn), "{candidates:?} {balance:?} {turn:?}");
        chosen
    }

    /// `n` is near, `!` is overloaded, the number are the sessions; ids count from 1.
    #[track_caller]
    fn chosen(candidates: &str, balance: Balance, latest: u64, random: u64) -> Option<u64> {
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
        let turn = Turn { latest: InstanceId(latest), random };
        chosen_from(&candidates, balance, Policy::default().near, turn).map(|id| id.0)
    }

    #[test]
    fn what_is_near_goes_first_within_bounds() {
        let least = |candidates| chosen(candidates, Balance::LeastSessions, 0, 0);
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
        assert_eq!(chosen("0n! 9", Balance::LeastSessions, 0, 0), Some(2));
        assert_eq!(chosen("2! 1!", Balance::LeastSessions, 0, 0), Some(2));
    }

    #[test]
    fn turns_and_random_numbers_decide() {
        let robin = |candidates, latest| chosen(candidates, Balance::RoundRobin, latest, 0);
        // 5 and 9 near sessions are too many beside one without any.
        assert_eq!([0, 1, 2, 3].map(|latest| robin("5n 0n 9n 0", latest)), [Some(2); 4]);
        assert_eq!([0, 1, 2, 3].map(|latest| robin("5 0 9", latest)), [Some(1), Some(2), Some(3), Some(1)]);
        let two = |candidates, random| chosen(candidates, Balance::TwoChoices, 0, random);
        assert_eq!(two("5 0 9", 0), Some(2), "the first two");
        assert_eq!(two("5 0 9", 1 << 32), Some(1), "the first and the last");
        assert_eq!(two("7", 12345), Some(1));
        assert_eq!(two("", 12345), None);
    }

    #[test]
    fn going_round_takes_the_least_loaded_when_too_many_near_have_too_many() {
        let many = "9n ".repeat(PASSED_OVER + 1) + "0n 0";
        let turn = Turn { latest: InstanceId(0), random: 0 };
        let candidates: Vec<Candidate> = many
            .split_whitespace()
            .zip(1..)
            .map(|(text, id)| Candidate {
                id: InstanceId(id),
                is_near: text.contains('n'),
                sessions: if text.starts_with('9') { 9 } else { 0 },
                is_overloaded: false,
            })
            .collect();
        let chosen = chosen_from(&candidates, Balance::RoundRobin, Policy::default().near, turn);
        assert_eq!(chosen, Some(InstanceId(PASSED_OVER as u64 + 2)));
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
            let mut latest = InstanceId(0);
            for random in &turns {
                let candidates: Vec<Candidate> = near.iter().zip(&sessions).zip(1..).map(|((is_near, sessions), id)| {
                    Candidate { id: InstanceId(id), is_near: *is_near, sessions: *sessions, is_overloaded: false }
                }).collect();
                let turn = Turn { latest, random: *random };
                latest = chosen_from(&candidates, balance, policy, turn).expect("there is one");
                sessions[latest.0 as usize - 1] += 1;
            }
            let (most, least) = (sessions.iter().max().unwrap_or(&0), sessions.iter().min().unwrap_or(&0));
            if balance == Balance::LeastSessions {
                prop_assert!(most - least <= policy.imbalance + 1, "{sessions:?}");
            }
            if balance == Balance::RoundRobin && near.iter().all(|is_near| is_near == &near[0]) {
                prop_assert!(most - least <= 1, "{sessions:?}");
            }
            prop_assert_eq!(sessions.iter().sum::<u32>() as usize, turns.len());
        }
    }
}
