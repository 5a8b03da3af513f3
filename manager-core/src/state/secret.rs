//! What a node's agent proves with that it is the one that registered before. The agent makes it and keeps it
//! in its state folder; the first registration that tells one binds the node to it (docs/protocol.md).

use std::fmt;

use sha2::{Digest as _, Sha256};

/// Fewest and most characters of a secret.
const CHARACTERS: std::ops::RangeInclusive<usize> = 32..=128;

/// The SHA-256 hash of an agent's secret: the database and its backups hold nothing that lets anybody in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash([u8; 32]);

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

impl SecretHash {
    /// The hash of what an agent tells; `None` when that is no secret: 32 to 128 letters and digits.
    pub fn of(text: &str) -> Option<Self> {
        let is_secret = CHARACTERS.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
        is_secret.then(|| Self(Sha256::digest(text.as_bytes()).into()))
    }

    /// The hash as the database has it, in hexadecimal digits.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// From the database; `None` when it is no such text.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_survives_the_database_and_tells_secrets_apart() {
        let one = SecretHash::of(&"a".repeat(32)).expect("long enough");
        assert_eq!(SecretHash::from_hex(&one.to_hex()), Some(one));
        assert_ne!(SecretHash::of(&"b".repeat(32)), Some(one));
        assert!(!format!("{one:?}").contains(&one.to_hex()));
        for bad in ["", "short", &"a".repeat(129), &"ä".repeat(20), &"a b".repeat(20)] {
            assert_eq!(SecretHash::of(bad), None, "{bad}");
        }
        for bad in ["", "ab", &"x".repeat(64), &"+1".repeat(32)] {
            assert_eq!(SecretHash::from_hex(bad), None, "{bad}");
        }
    }
}
