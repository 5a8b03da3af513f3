//! The codec, on the catalogue's own examples: one of each message on each hop.

use std::hint::black_box;

use serde_json::Value;
use ssmmp::Envelope;

const VECTORS: &str = include_str!("../../../ssmmp/tests/vectors-canonical.jsonl");

fn lines() -> Vec<String> {
    VECTORS
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok()?["wire"].as_str().map(str::to_owned))
        .map(|wire| wire.trim_end().to_owned())
        .collect()
}

fn envelopes(lines: &[String]) -> Vec<Envelope> {
    lines.iter().map(|line| Envelope::parse(line).expect("a canonical message")).collect()
}

/// From text to messages.
pub fn read(times: u32) {
    let lines = lines();
    for _ in 0..times {
        black_box(envelopes(black_box(&lines)));
    }
}

/// From messages to text.
pub fn write(times: u32) {
    let envelopes = envelopes(&lines());
    for _ in 0..times {
        for envelope in &envelopes {
            black_box(black_box(envelope).encode());
        }
    }
}
