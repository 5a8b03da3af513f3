//! The data types of fields (catalogue, section 2): what is accepted and what is emitted.

mod address;
mod name;
mod status;

use std::fmt;

pub use address::Address;
pub use name::Name;
pub use status::Status;

/// A field's value: read from and written to text.
pub(crate) trait Value: Sized {
    /// What stands on the wire for a value that is absent and may be.
    fn unknown() -> Option<Self> {
        None
    }
    /// Reads the trimmed text; the error says what was expected.
    fn read(text: &str) -> Result<Self, String>;
    /// Appends the emitted form.
    fn write(&self, out: &mut String);
}

/// Most digits of an integer token that is accepted.
const MAX_DIGITS: usize = 20;

/// A message's id, chosen by its originator and echoed byte for byte.
///
/// Unique for its originator only: match it together with the connection and the instance.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId {
    digits: [u8; MAX_DIGITS],
    length: u8,
}

impl MessageId {
    /// The id as a number, when it fits.
    pub fn number(&self) -> Option<u64> {
        self.as_str().parse().ok()
    }

    /// The digits as they stand on the wire.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.digits[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl From<u64> for MessageId {
    fn from(number: u64) -> Self {
        let text = number.to_string();
        let mut digits = [0; MAX_DIGITS];
        digits[..text.len()].copy_from_slice(text.as_bytes());
        Self { digits, length: text.len() as u8 }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Value for MessageId {
    fn read(text: &str) -> Result<Self, String> {
        let valid = !text.is_empty() && text.len() <= MAX_DIGITS && text.bytes().all(|b| b.is_ascii_digit());
        if !valid || text.bytes().all(|b| b == b'0') {
            return Err(format!("expected a positive integer of at most {MAX_DIGITS} digits"));
        }
        let mut digits = [0; MAX_DIGITS];
        digits[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { digits, length: text.len() as u8 })
    }

    fn write(&self, out: &mut String) {
        out.push_str(self.as_str());
    }
}

/// An instance's id, unique in the cluster; 0 stands for unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(pub u64);

impl InstanceId {
    /// An instance nobody could name.
    pub const UNKNOWN: Self = Self(0);

    /// Whether the id names an instance.
    pub fn is_known(self) -> bool {
        self != Self::UNKNOWN
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Value for InstanceId {
    fn unknown() -> Option<Self> {
        Some(Self::UNKNOWN)
    }

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "" | "-" => Ok(Self::UNKNOWN),
            _ if text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().map(Self).map_err(|_| "the number is too large".to_owned())
            }
            _ => Err("expected a positive integer".to_owned()),
        }
    }

    fn write(&self, out: &mut String) {
        out.push_str(&self.0.to_string());
    }
}

/// A TCP port; 0 stands for unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(pub u16);

impl Port {
    /// A port nobody could tell.
    pub const UNKNOWN: Self = Self(0);

    /// Whether the port is a real one.
    pub fn is_known(self) -> bool {
        self != Self::UNKNOWN
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Value for Port {
    fn unknown() -> Option<Self> {
        Some(Self::UNKNOWN)
    }

    fn read(text: &str) -> Result<Self, String> {
        // The public Java peer sends the letters `l` and `m` for ports it does not know.
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(Self::UNKNOWN);
        }
        text.parse().map(Self).map_err(|_| "expected a port of 1 to 65535".to_owned())
    }

    fn write(&self, out: &mut String) {
        out.push_str(&self.0.to_string());
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::Value;

    /// Asserts what is emitted of a text that was read; `None` where reading refuses it.
    #[track_caller]
    pub(crate) fn check<T: Value>(text: &str, emitted: Option<&str>) {
        let read = T::read(text).ok().map(|value| {
            let mut out = String::new();
            value.write(&mut out);
            out
        });
        assert_eq!(read.as_deref(), emitted, "reading {text:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::testing::check;
    use super::*;

    #[test]
    fn message_ids_are_opaque_digits() {
        check::<MessageId>("00042", Some("00042"));
        check::<MessageId>("99999999999999999999", Some("99999999999999999999"));
        check::<MessageId>("999999999999999999999", None);
        check::<MessageId>("0", None);
        check::<MessageId>("-1", None);
    }

    #[test]
    fn ports_may_be_unknown_but_not_out_of_range() {
        check::<Port>("54000", Some("54000"));
        check::<Port>("l", Some("0"));
        check::<Port>("", Some("0"));
        check::<Port>("65536", None);
    }
}
