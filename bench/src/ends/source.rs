//! The connecting end.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use super::address::Socket;
use super::clock::Clock;
use super::destination::{BACK, THERE};
use super::drive::Polled;
use super::report::{Counts, EndReport};
use super::talk::{Part, Room, Step, Talk};
use super::{Drive, Kind, Style};

/// Works for the time given.
pub fn run(drive: &Drive) -> Result<EndReport> {
    let clock = Clock::new();
    let mut counts = Counts::new();
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(drive.work.warm_up));
            clock.begin();
            std::thread::sleep(Duration::from_millis(drive.measure));
            clock.stop();
        });
        let result = match drive.work.style {
            Style::Blocking => blocking(drive, &clock, &mut counts),
            Style::Epoll => polled(drive, &clock, &mut counts),
        };
        // Whoever fails does not wait for the rest.
        clock.stop();
        result
    });
    result.with_context(|| format!("working with {}", drive.to))?;
    // A stream that goes there is counted by its reader.
    clock.done();
    Ok(counts.report(&clock))
}

/// The connection with this number, and what this end does on it.
fn connect(drive: &Drive, number: usize) -> io::Result<Talk> {
    let begun = Instant::now();
    let blocking = drive.work.style == Style::Blocking;
    let socket = Socket::connect(&drive.to, drive.work.no_delay, blocking)?;
    let part = match drive.work.kind {
        Kind::Request => Part::Asks(None),
        Kind::Short => Part::Asks(Some(1)),
        Kind::Halves if number % 2 == 1 => {
            socket.write(&[BACK])?;
            Part::Reads
        }
        Kind::Stream | Kind::Halves => {
            socket.write(&[THERE])?;
            Part::Writes
        }
    };
    let talk = Talk::new(socket, part, drive.work.size);
    // Connecting is part of a short connection's request.
    Ok(if drive.work.kind == Kind::Short { talk.begun(begun) } else { talk })
}

fn blocking(drive: &Drive, clock: &Clock, counts: &mut Counts) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..drive.work.connections)
            .map(|number| {
                scope.spawn(move || -> io::Result<Counts> {
                    let mut counts = Counts::new();
                    let mut room = Room::new(drive.work.size);
                    loop {
                        let mut talk = connect(drive, number)?;
                        while talk.step(&mut room, clock, &mut counts)? != Step::Done {}
                        if drive.work.kind != Kind::Short || clock.is_stopped() {
                            return Ok(counts);
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            counts.add(&thread.join().map_err(|_| anyhow!("a thread panicked"))??);
        }
        Ok(())
    })
}

fn polled(drive: &Drive, clock: &Clock, counts: &mut Counts) -> Result<()> {
    let mut polled = Polled::new(clock, Room::new(drive.work.size))?;
    for number in 0..drive.work.connections {
        polled.add(connect(drive, number)?)?;
    }
    while !polled.is_empty() {
        let (_, done) = polled.turn(counts)?;
        let again = drive.work.kind == Kind::Short && !clock.is_stopped();
        for number in 0..if again { done } else { 0 } {
            polled.add(connect(drive, number)?)?;
        }
        // Streams wait for nobody at the end.
        let streams = matches!(drive.work.kind, Kind::Stream | Kind::Halves);
        if streams && clock.is_stopped() {
            break;
        }
    }
    Ok(())
}
