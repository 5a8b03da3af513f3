//! What happened: a hash of all of it, and the last of it for people.

use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

use crate::schedule::Millis;

/// Lines kept for people.
const KEPT: usize = 20_000;

/// Who did something, or to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// The Manager.
    Manager,
    /// A node's agent.
    Agent(usize),
    /// An instance.
    Instance(u64),
    /// A fault, or whoever uses the API.
    Outside,
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manager => f.write_str("Manager"),
            Self::Agent(node) => write!(f, "agent {node}"),
            Self::Instance(id) => write!(f, "instance {id}"),
            Self::Outside => f.write_str("outside"),
        }
    }
}

/// The record of a run.
pub struct Trace {
    hash: u64,
    count: u64,
    lines: VecDeque<(Millis, Party, Party, Rc<str>)>,
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, count: 0, lines: VecDeque::new() }
    }
}

impl Trace {
    /// Writes down that something passed between two parties.
    pub fn add(&mut self, now: Millis, from: Party, to: Party, text: &Rc<str>) {
        let party = |party: Party| match party {
            Party::Manager => 1,
            Party::Agent(node) => 16 + node as u64,
            Party::Instance(id) => 4096 + id,
            Party::Outside => 2,
        };
        for number in [now, party(from), party(to)] {
            self.mix(number);
        }
        for bytes in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            self.mix(u64::from_le_bytes(word));
        }
        self.count += 1;
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back((now, from, to, text.clone()));
    }

    /// FNV-1a over words: the order of everything counts.
    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    /// A number that is the same exactly when everything was the same.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How much happened.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The last of it, a line each.
    pub fn last(&self, lines: usize) -> Vec<String> {
        let skipped = self.lines.len().saturating_sub(lines);
        self.lines
            .iter()
            .skip(skipped)
            .map(|(at, from, to, text)| {
                let seconds = *at as f64 / 1000.0;
                match from == to {
                    true => format!("{seconds:>9.3} {from}: {text}"),
                    false => format!("{seconds:>9.3} {from} → {to}: {}", brief(text)),
                }
            })
            .collect()
    }
}

/// A message as `type #id value value …`: names of fields are left out, but for our extensions.
fn brief(line: &str) -> String {
    let mut out = String::new();
    for field in line.trim_end().split(" ~ ") {
        let (name, value) = field.split_once(": ").unwrap_or(("", field));
        match name {
            "type" => out.push_str(value),
            "message_id" => out.push_str(&format!(" #{value}")),
            "sub_type" => {}
            name if name.starts_with("x_") => out.push_str(&format!(" {name}[{value}]")),
            "status" => out.push_str(&format!(" status {value}")),
            _ => {
                out.push(' ');
                out.push_str(value);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_lines_counts() {
        let hash = |texts: &[&str]| {
            let mut trace = Trace::default();
            for text in texts {
                trace.add(1, Party::Manager, Party::Agent(1), &Rc::from(*text));
            }
            trace.hash()
        };
        assert_eq!(hash(&["a", "b"]), hash(&["a", "b"]));
        assert_ne!(hash(&["a", "b"]), hash(&["b", "a"]));
    }

    #[test]
    fn a_message_is_one_short_line() {
        assert_eq!(
            brief("type: session_ack ~ message_id: 7 ~ sub_type: x ~ source_service_name: A ~ status: 200\n"),
            "session_ack #7 A status 200"
        );
    }
}
