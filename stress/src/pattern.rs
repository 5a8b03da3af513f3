//! What every byte must be, by its stream and its position.

use std::sync::LazyLock;

use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};

/// A prime, so that no shift by a usual size maps the table onto itself.
pub const PERIOD: usize = 1_048_573;
/// The longest piece that is checked or sent at once, in bytes.
pub const LONGEST: usize = 4 << 20;

/// Random bytes, long enough that a piece from any place in the period is in one slice.
pub static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut period = vec![0; PERIOD];
    StdRng::seed_from_u64(1).fill_bytes(&mut period);
    period.iter().copied().cycle().take(PERIOD + LONGEST).collect()
});

/// One direction of one session.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    key: u64,
    /// Bytes so far.
    pub position: u64,
}

impl Stream {
    pub fn new(key: u64) -> Self {
        Self { key, position: 0 }
    }

    /// As a word for another process.
    pub fn describe(&self) -> String {
        format!("{}+{}", self.key, self.position)
    }

    /// The stream that was described.
    pub fn read(text: &str) -> Option<Self> {
        let (key, position) = text.split_once('+')?;
        Some(Self { key: key.parse().ok()?, position: position.parse().ok()? })
    }

    /// Where in the table the next byte is.
    pub fn index(&self) -> usize {
        (self.key.wrapping_mul(0x9e37_79b9).wrapping_add(self.position) % PERIOD as u64) as usize
    }

    /// The next bytes to send.
    pub fn next(&self, length: usize) -> &'static [u8] {
        let index = self.index();
        &TABLE[index..index + length.min(LONGEST)]
    }

    pub fn advance(&mut self, length: usize) {
        self.position += length as u64;
    }

    /// Checks received bytes and goes on behind them.
    pub fn check(&mut self, bytes: &[u8]) -> Result<(), String> {
        for piece in bytes.chunks(LONGEST) {
            let expected = self.next(piece.len());
            if piece != expected {
                let at = piece.iter().zip(expected).position(|(found, wanted)| found != wanted);
                let at = at.unwrap_or_default();
                let elsewhere = TABLE[..PERIOD]
                    .windows(16.min(piece.len() - at))
                    .position(|window| piece[at..].starts_with(window))
                    .map(|place| (place as i64) - ((self.index() + at) % PERIOD) as i64);
                return Err(format!(
                    "wrong byte at position {}; what came belongs {elsewhere:?} bytes away",
                    self.position + at as u64
                ));
            }
            self.advance(piece.len());
        }
        Ok(())
    }
}
