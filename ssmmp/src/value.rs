//! The data types of fields (catalogue, section 2): what is accepted and what is emitted.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

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

/// A name of a service, plug or socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// Longest name that is emitted, in characters.
    pub const MAX_CHARACTERS: usize = 64;

    /// A name fit to be emitted: `[A-Za-z0-9_.-]{1,64}`.
    ///
    /// # Errors
    /// Says which rule the text breaks.
    pub fn new(text: &str) -> Result<Self, String> {
        let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if text.is_empty() || text.len() > Self::MAX_CHARACTERS || !text.chars().all(fit) {
            return Err(format!(
                "`{}` is no name: use 1 to {} of the letters A-Z a-z, digits, `_`, `.` and `-`",
                crate::error::quote(text),
                Self::MAX_CHARACTERS
            ));
        }
        Ok(Self(text.into()))
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::new(text)
    }
}

/// Longest name that is accepted from a peer, in bytes.
const MAX_ACCEPTED_NAME_BYTES: usize = 256;

impl Value for Name {
    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > MAX_ACCEPTED_NAME_BYTES || text.chars().any(char::is_control) {
            return Err(format!("expected a name of 1 to {MAX_ACCEPTED_NAME_BYTES} printable bytes"));
        }
        Ok(Self(text.into()))
    }

    fn write(&self, out: &mut String) {
        out.push_str(&self.0);
    }
}

/// A network address; `::` stands for unknown. An IPv4 address mapped into IPv6 is the IPv4 one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(pub IpAddr);

impl Address {
    /// An address nobody could tell.
    pub const UNKNOWN: Self = Self(IpAddr::V6(Ipv6Addr::UNSPECIFIED));

    /// Whether the address names a host.
    pub fn is_known(self) -> bool {
        !self.0.is_unspecified()
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Value for Address {
    fn unknown() -> Option<Self> {
        Some(Self::UNKNOWN)
    }

    fn read(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        let bare = bare.split_once('%').map_or(bare, |(address, _zone)| address);
        if bare.is_empty() || bare == "-" {
            return Ok(Self::UNKNOWN);
        }
        let address: IpAddr = bare.parse().map_err(|_| "expected an IPv6 or IPv4 address".to_owned())?;
        Ok(Self(address.to_canonical()))
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

/// A status: three digits in HTTP's classes (section 2), its meaning set by the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Status(u16);

impl Status {
    /// A session closed by business logic.
    pub const CLOSED: Self = Self(111);
    /// A session whose connection broke.
    pub const BROKEN: Self = Self(122);
    /// Alive, overloaded with sessions.
    pub const OVERLOADED: Self = Self(199);
    /// Done.
    pub const OK: Self = Self(200);
    /// Another Manager owns this.
    pub const OTHER_MANAGER: Self = Self(307);
    /// Malformed.
    pub const BAD_REQUEST: Self = Self(400);
    /// Not allowed: no such edge in the graph, or another's instance id.
    pub const FORBIDDEN: Self = Self(403);
    /// No such service, socket, instance or session.
    pub const NOT_FOUND: Self = Self(404);
    /// In use, or ambiguous.
    pub const CONFLICT: Self = Self(409);
    /// Over a quota.
    pub const TOO_MANY: Self = Self(429);
    /// The responder failed.
    pub const INTERNAL: Self = Self(500);
    /// The connection to the destination failed.
    pub const CONNECT_FAILED: Self = Self(502);
    /// No capacity, or not in time.
    pub const UNAVAILABLE: Self = Self(503);
    /// No answer in time.
    pub const NO_ANSWER: Self = Self(504);

    /// A status of three digits.
    pub fn new(code: u16) -> Option<Self> {
        (100..=599).contains(&code).then_some(Self(code))
    }

    /// The three digits.
    pub fn code(self) -> u16 {
        self.0
    }

    /// 2xx.
    pub fn is_success(self) -> bool {
        (200..300).contains(&self.0)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Value for Status {
    fn read(text: &str) -> Result<Self, String> {
        text.split(|c: char| !c.is_ascii_digit())
            .find(|token| token.len() == 3)
            .and_then(|token| token.parse().ok())
            .and_then(Self::new)
            .ok_or_else(|| "expected three digits, 100 to 599".to_owned())
    }

    fn write(&self, out: &mut String) {
        out.push_str(&self.0.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Value>(text: &str, emitted: Option<&str>) {
        let read = T::read(text).ok().map(|value| {
            let mut out = String::new();
            value.write(&mut out);
            out
        });
        assert_eq!(read.as_deref(), emitted, "reading {text:?}");
    }

    #[test]
    fn addresses_are_liberal_in_and_canonical_out() {
        check::<Address>("2001:db8:0:0:0:0:0:1", Some("2001:db8::1"));
        check::<Address>("[fe80::1%eth0]", Some("fe80::1"));
        check::<Address>("::ffff:10.0.0.1", Some("10.0.0.1"));
        check::<Address>("10.0.0.1", Some("10.0.0.1"));
        check::<Address>("", Some("::"));
        check::<Address>("10.0.0", None);
    }

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

    #[test]
    fn a_status_is_the_first_three_digits() {
        check::<Status>("200", Some("200"));
        check::<Status>("404 not found", Some("404"));
        check::<Status>("20", None);
        check::<Status>("2000", None);
        check::<Status>("999", None);
    }
}
