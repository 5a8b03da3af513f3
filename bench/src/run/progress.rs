//! One line that says where the run is and how long it still takes.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::estimate;
use crate::case::{Case, Pace};

/// Width of the line, so that a shorter one covers a longer one.
const WIDTH: usize = 100;

/// The line.
pub struct Progress {
    begun: Instant,
    all: Duration,
    /// Estimated time of the cases that are done.
    done: Duration,
    pace: Pace,
    cases: usize,
    finished: usize,
    terminal: bool,
}

impl Progress {
    /// Nothing is done yet.
    pub fn new(cases: &[Box<dyn Case>], pace: &Pace) -> Self {
        let all = cases.iter().map(|case| estimate(case.as_ref(), pace)).sum();
        eprintln!("{} cases, about {} s", cases.len(), Self::seconds(all));
        Self {
            begun: Instant::now(),
            all,
            done: Duration::ZERO,
            pace: *pace,
            cases: cases.len(),
            finished: 0,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    fn seconds(time: Duration) -> u64 {
        time.as_secs().max(1)
    }

    /// What is left, by how wrong the estimates were so far.
    fn left(&self) -> Duration {
        let left = self.all.saturating_sub(self.done);
        match self.done.as_secs_f64() {
            done if done > 1.0 => left.mul_f64(self.begun.elapsed().as_secs_f64() / done),
            _ => left,
        }
    }

    /// A measurement begins.
    pub fn show(&self, case: &str, alternative: &str, round: usize) {
        if self.terminal {
            let text = format!(
                "[{}/{}] {case}: {alternative}, round {}; {} s left",
                self.finished + 1,
                self.cases,
                round + 1,
                Self::seconds(self.left())
            );
            eprint!("\r{text:<WIDTH$}");
            let _ = std::io::stderr().flush();
        }
    }

    /// A case is done.
    pub fn done(&mut self, case: &dyn Case) {
        self.done += estimate(case, &self.pace);
        self.finished += 1;
        if !self.terminal {
            let left = Self::seconds(self.left());
            eprintln!("[{}/{}] {}; {left} s left", self.finished, self.cases, case.name());
        }
    }

    /// All is done.
    pub fn end(&self) {
        let lead = if self.terminal { "\r" } else { "" };
        let text = format!("done after {} s", Self::seconds(self.begun.elapsed()));
        eprintln!("{lead}{text:<WIDTH$}");
    }
}
