//! What the fuzz targets of the two listeners share: the fuzzer's bytes as a script of steps.

/// The fuzzer's bytes, taken from the front.
pub struct Script<'a>(pub &'a [u8]);

impl<'a> Script<'a> {
    /// The next byte, until there is none.
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number below a bound; 0 at the end of the bytes.
    pub fn below(&mut self, bound: u64) -> u64 {
        u64::from(self.byte().unwrap_or(0)) % bound
    }

    /// The next so many bytes, or as many as there are.
    pub fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
