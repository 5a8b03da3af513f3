//! How many malformed messages a connection may bring.

/// Malformed messages in a row after which a connection is closed.
const MAX_MALFORMED: u32 = 100;
/// Malformed messages of a connection that are logged one by one; further ones are only counted.
const MAX_LOGGED: u32 = 20;

/// The malformed messages of one connection so far.
#[derive(Debug, Default)]
pub struct Malformed {
    in_a_row: u32,
    in_all: u32,
}

/// What to do about one more malformed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// It is to be logged.
    pub is_logged: bool,
    /// It is the last one that is.
    pub is_last_logged: bool,
    /// Why the connection is to be closed, if it is.
    pub end: Option<String>,
}

impl Malformed {
    /// A message was understood.
    pub fn understood(&mut self) {
        self.in_a_row = 0;
    }

    /// One more was not.
    pub fn count(&mut self) -> Verdict {
        self.in_a_row += 1;
        self.in_all = self.in_all.saturating_add(1);
        let end = (self.in_a_row >= MAX_MALFORMED)
            .then(|| format!("{} malformed messages in a row", self.in_a_row));
        Verdict { is_logged: self.in_all <= MAX_LOGGED, is_last_logged: self.in_all == MAX_LOGGED, end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_logged_and_a_hundred_in_a_row_are_the_end() {
        let mut malformed = Malformed::default();
        let mut logged = Vec::new();
        for number in 1..MAX_MALFORMED {
            let verdict = malformed.count();
            assert_eq!(verdict.end, None, "{number}");
            if verdict.is_logged {
                logged.push(verdict.is_last_logged);
            }
        }
        assert_eq!((logged.len(), logged.iter().position(|is_last| *is_last)), (20, Some(19)));
        malformed.understood();
        assert_eq!(malformed.count(), Verdict { is_logged: false, is_last_logged: false, end: None });
        let last = (2..=MAX_MALFORMED).map(|_| malformed.count()).last();
        assert_eq!(last.and_then(|verdict| verdict.end).as_deref(), Some("100 malformed messages in a row"));
    }
}
