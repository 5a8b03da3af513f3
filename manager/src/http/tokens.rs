//! Tokens of the HTTP API over TCP: a file of lines `change TOKEN` or `read TOKEN`, read again on SIGHUP.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest as _, Sha256};

/// Largest file, bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// Fewest characters of a token; one that is made has 64.
const FEWEST_CHARACTERS: usize = 32;
/// Random bytes of a token that is made.
const BYTES: usize = 32;

/// What a token's bearer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Look at everything.
    Read,
    /// Look at everything and change it.
    Change,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Change => "change",
        }
    }
}

/// Why a file of tokens can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It can't be read or written.
    #[error("the tokens' file {} can't be {what}: {error}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Read or written.
        what: &'static str,
        /// Why not.
        error: std::io::Error,
    },
    /// Others can read it.
    #[error("the tokens' file {} can be read by others (mode {mode:04o}): `chmod 600` it", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A line is of another form.
    #[error("{}:{line}: {problem}; a line is `change TOKEN` or `read TOKEN`", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// It has none.
    #[error("there is no token in {}: `patchbay-manager token {}` makes one", file.display(), file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
}

type Known = Vec<(Role, [u8; 32])>;

/// The tokens that are known now; kept as hashes, which also makes comparing them say nothing by its time.
#[derive(Clone)]
pub struct Tokens {
    file: PathBuf,
    known: Arc<RwLock<Known>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Reads a file.
    ///
    /// # Errors
    /// It can't be read, others can read it, or a line is wrong.
    pub fn read(file: &Path) -> Result<Self, TokensError> {
        let known = Arc::new(RwLock::new(read(file)?));
        Ok(Self { file: file.to_owned(), known })
    }

    /// Reads the file again; what was known goes on counting when that fails.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn reload(&self) -> Result<(), TokensError> {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = read(&self.file)?;
        Ok(())
    }

    /// What the bearer of a token may do; `None` for a token that is not known.
    pub fn role(&self, token: &str) -> Option<Role> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(_, known)| *known == hash).map(|(role, _)| *role)
    }
}

/// Adds a new token to a file, which is made if it is not there (0600), and returns it.
///
/// # Errors
/// The file can't be written, or can't be used as it is.
pub fn add(file: &Path, role: Role) -> Result<String, TokensError> {
    let failed = |error| TokensError::File { file: file.to_owned(), what: "written", error };
    if file.exists() {
        match read(file) {
            Ok(_) | Err(TokensError::Empty { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let mut bytes = [0; BYTES];
    File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).map_err(failed)?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut open = OpenOptions::new();
    let mut end = open.append(true).create(true).mode(0o600).open(file).map_err(failed)?;
    writeln!(end, "{} {token}", role.as_str()).and_then(|()| end.sync_all()).map_err(failed)?;
    Ok(token)
}

fn read(file: &Path) -> Result<Known, TokensError> {
    let failed = |error| TokensError::File { file: file.to_owned(), what: "read", error };
    let about = fs::metadata(file).map_err(failed)?;
    if about.mode() & 0o077 != 0 {
        return Err(TokensError::Open { file: file.to_owned(), mode: about.mode() & 0o777 });
    }
    if about.len() > MAX_FILE_BYTES {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    let text = fs::read_to_string(file).map_err(failed)?;
    let mut known = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        known.push(parse(line).map_err(|problem| TokensError::Line {
            file: file.to_owned(),
            line: number + 1,
            problem,
        })?);
    }
    if known.is_empty() {
        return Err(TokensError::Empty { file: file.to_owned() });
    }
    Ok(known)
}

fn parse(line: &str) -> Result<(Role, [u8; 32]), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    // The token itself is never told: errors end up in logs.
    let [role, token] = words[..] else { return Err(format!("it has {} words", words.len())) };
    let role = match role {
        "read" => Role::Read,
        "change" => Role::Change,
        _ => return Err("it begins with neither `read` nor `change`".into()),
    };
    if token.len() < FEWEST_CHARACTERS {
        return Err(format!("the token is shorter than {FEWEST_CHARACTERS} characters"));
    }
    Ok((role, Sha256::digest(token.as_bytes()).into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn made_tokens_are_known_with_their_roles_and_others_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tokens");
        let change = add(&file, Role::Change).expect("made");
        let tokens = Tokens::read(&file).expect("read");
        let read = add(&file, Role::Read).expect("made");
        assert_eq!((tokens.role(&change), tokens.role(&read)), (Some(Role::Change), None));
        tokens.reload().expect("read again");
        assert_eq!(tokens.role(&read), Some(Role::Read));
        assert_eq!(tokens.role(""), None);
        fs::write(&file, "nonsense").expect("written");
        assert!(tokens.reload().is_err());
        assert_eq!(tokens.role(&change), Some(Role::Change), "what was known goes on counting");
        assert!(!format!("{tokens:?}").contains(&change));
    }

    #[test]
    fn a_bad_file_says_where_and_never_what() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tokens");
        assert!(Tokens::read(&file).expect_err("absent").to_string().contains("can't be read"));
        let secret = "s".repeat(40);
        for (text, expected) in [
            ("", "there is no token"),
            ("# only this\n", "there is no token"),
            (&format!("\n{secret}\n"), ":2: it has 1 words"),
            (&format!("write {secret}"), ":1: it begins with neither"),
            ("read short", ":1: the token is shorter"),
        ] {
            fs::write(&file, text).expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
            let error = Tokens::read(&file).expect_err(text).to_string();
            assert!(error.contains(expected) && !error.contains(&secret), "{error}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("set");
        assert!(Tokens::read(&file).expect_err("open").to_string().contains("chmod 600"));
    }
}
