use std::fmt;

use super::Value;

/// A status: three digits in HTTP's classes (section 2), its meaning set by the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Status(u16);

impl Status {
    /// Understood so far: the answer follows.
    pub const CONTINUE: Self = Self(100);
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

    /// Whether a response with it is the last one: 1xx only informs, except for the three codes that
    /// SSMMP gives a meaning of their own (111, 122, 199).
    pub fn is_final(self) -> bool {
        self.0 >= 200 || matches!(self, Self::CLOSED | Self::BROKEN | Self::OVERLOADED)
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
    use super::super::testing::check;
    use super::*;

    #[test]
    fn a_status_is_the_first_three_digits() {
        check::<Status>("200", Some("200"));
        check::<Status>("404 not found", Some("404"));
        check::<Status>("20", None);
        check::<Status>("2000", None);
        check::<Status>("999", None);
    }
}
