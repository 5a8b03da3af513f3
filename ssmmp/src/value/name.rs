use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Value;
use crate::fields::stands_alone;

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

    /// What stands for a name that nobody could tell: `-`.
    pub fn unnamed() -> Self {
        Self("-".into())
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
    fn unknown() -> Option<Self> {
        Some(Self::unnamed())
    }

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > MAX_ACCEPTED_NAME_BYTES || text.chars().any(char::is_control) {
            return Err(format!("expected a name of 1 to {MAX_ACCEPTED_NAME_BYTES} printable bytes"));
        }
        // A list's name may begin with what would separate fields behind a blank.
        if text.match_indices('~').any(|(at, _)| stands_alone(text, at)) {
            return Err("expected a name that holds no separator of fields".into());
        }
        Ok(Self(text.into()))
    }

    fn write(&self, out: &mut String) {
        out.push_str(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_smuggles_no_field_into_the_message_that_echoes_it() {
        for smuggler in ["~ message_id: 30000", "a ~ status: 200", "a ~", "~", "a:~ b: 1"] {
            assert!(Name::read(smuggler).is_err(), "{smuggler}");
        }
        for name in ["a~b", "a ~~ b", "~a", "Api Gateway", "A"] {
            assert_eq!(Name::read(name).map(|name| name.to_string()).as_deref(), Ok(name));
        }
    }
}
