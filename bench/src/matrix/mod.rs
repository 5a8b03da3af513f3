//! The matrix: the same work over plain TCP, redirected, through a Unix socket and through sidecars.

pub mod cell;
pub mod sidecars;
pub mod way;

use cell::Cell;

use crate::case::{Case, Pace};
use crate::ends::{Kind, Style, Work};
use crate::lab::Place;

/// Requests of every pace, in bytes.
const REQUESTS: [usize; 3] = [64, 16 << 10, 64 << 10];
/// The other requests of a full run.
const MORE_REQUESTS: [usize; 5] = [1, 512, 4 << 10, 256 << 10, 1 << 20];
/// Writes of streams of every pace.
const WRITES: [usize; 3] = [512, 16 << 10, 64 << 10];
/// The other writes of a full run.
const MORE_WRITES: [usize; 4] = [64, 4 << 10, 256 << 10, 1 << 20];
/// Connections at once, in a full run.
const CONNECTIONS: [usize; 4] = [8, 64, 256, 1024];

/// All cells of a pace.
pub fn cases(pace: &Pace) -> Vec<Box<dyn Case>> {
    let mut works = quick();
    if pace.full {
        works.extend(full());
    }
    let places = [Place::Loopback, Place::Namespaces];
    let cells = places.iter().flat_map(|place| works.iter().map(|work| (*place, work.clone())));
    // A quick run has many connections on loopback only.
    cells
        .filter(|(place, work)| pace.full || *place == Place::Loopback || work.connections == 1)
        .enumerate()
        .map(|(number, (place, work))| Box::new(Cell::new(number, place, work)) as Box<dyn Case>)
        .collect()
}

fn work(kind: Kind, size: usize) -> Work {
    Work { kind, size, connections: 1, style: Style::Blocking, no_delay: true, warm_up: 0 }
}

fn quick() -> Vec<Work> {
    let mut works: Vec<Work> = REQUESTS.iter().map(|size| work(Kind::Request, *size)).collect();
    works.extend(WRITES.iter().map(|size| Work { style: Style::Epoll, ..work(Kind::Stream, *size) }));
    works.push(Work { connections: 64, style: Style::Epoll, ..work(Kind::Request, 64) });
    works.push(work(Kind::Short, 64));
    works.push(Work { connections: 4, style: Style::Epoll, ..work(Kind::Halves, 16 << 10) });
    works
}

fn full() -> Vec<Work> {
    let mut works: Vec<Work> = MORE_REQUESTS.iter().map(|size| work(Kind::Request, *size)).collect();
    for size in REQUESTS.iter().chain(&MORE_REQUESTS) {
        works.push(Work { style: Style::Epoll, ..work(Kind::Request, *size) });
    }
    for size in MORE_WRITES {
        works.push(Work { style: Style::Epoll, ..work(Kind::Stream, size) });
    }
    for size in WRITES.iter().chain(&MORE_WRITES) {
        works.push(Work { style: Style::Epoll, no_delay: false, ..work(Kind::Stream, *size) });
        works.push(work(Kind::Stream, *size));
    }
    for connections in CONNECTIONS {
        for size in [64, 16 << 10] {
            // The quick matrix has this one.
            if (connections, size) != (64, 64) {
                works.push(Work { connections, style: Style::Epoll, ..work(Kind::Request, size) });
            }
        }
        works.push(Work { connections, style: Style::Epoll, ..work(Kind::Stream, 16 << 10) });
    }
    for connections in [8, 64] {
        works.push(Work { connections, ..work(Kind::Request, 64) });
        works.push(Work { connections, style: Style::Epoll, ..work(Kind::Short, 64) });
    }
    works.push(Work { connections: 64, style: Style::Epoll, ..work(Kind::Halves, 64 << 10) });
    works
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_cell_has_a_name_of_its_own() {
        let cases = cases(&Pace::FULL);
        let names: BTreeSet<String> = cases.iter().map(|case| case.name()).collect();
        assert_eq!(names.len(), cases.len());
    }
}
