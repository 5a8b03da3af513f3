//! On which node an instance is executed (X1, L3).

use ssmmp::Address;

use super::near_is_fair;
use crate::graph::policy::Near;

/// A node that could execute it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The node.
    pub address: Address,
    /// It is the asker's.
    pub is_near: bool,
    /// Instances of the same service there.
    pub replicas: u32,
    /// All instances there.
    pub load: u32,
}

/// Nodes in the order in which they are tried: the near one first while it is not much more loaded than
/// the least loaded; then where the service has the fewest replicas, so that losing a node costs few;
/// then the least loaded.
pub fn order(mut places: Vec<Place>, near: Near) -> Vec<Address> {
    let least_elsewhere = places.iter().filter(|place| !place.is_near).map(|place| place.load).min();
    places.sort_by_key(|place| {
        let goes_first = place.is_near && near_is_fair(near, place.load, least_elsewhere);
        (!goes_first, place.replicas, place.load, place.address)
    });
    places.into_iter().map(|place| place.address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::policy::Policy;

    /// Places as `replicas load`, a near one with `n` behind it, are tried in this order.
    #[track_caller]
    fn check(places: &[&str], expected: &[u8]) {
        let places = places.iter().zip(1u8..).map(|(text, number)| {
            let mut numbers =
                text.trim_end_matches('n').split(' ').map(|number| number.parse().expect("a number"));
            Place {
                address: Address(std::net::IpAddr::from([10, 0, 0, number])),
                is_near: text.ends_with('n'),
                replicas: numbers.next().expect("two"),
                load: numbers.next().expect("two"),
            }
        });
        let expected: Vec<Address> =
            expected.iter().map(|number| Address(std::net::IpAddr::from([10, 0, 0, *number]))).collect();
        assert_eq!(order(places.collect(), Policy::default().near), expected);
    }

    #[test]
    fn near_then_spread_then_least_loaded() {
        check(&["0 5", "0 3", "0 4"], &[2, 3, 1]);
        check(&["1 0", "0 3", "0 4"], &[2, 3, 1]);
        check(&["2 9", "0 3n"], &[2, 1]);
        check(&["0 2", "2 11n"], &[2, 1]);
        check(&["0 2", "2 12n"], &[1, 2]);
        check(&["0 100n"], &[1]);
        check(&[], &[]);
    }
}
