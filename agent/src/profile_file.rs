//! Where the programs' profiles are kept between two agents. What was learned can be learned again: a file that
//! is no good is said and ignored, and never keeps anything from starting.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use ssmmp::Repeated;
use tracing::warn;

use patchbay_agent_core::profiles::Profiles;

const NAME: &str = "profiles.toml";
/// Held by who reads, adds to and writes the file.
const LOCK: &str = "profiles.lock";
/// The form of the file and the meaning of what it says.
const VERSION: u32 = 2;
/// Longest file that is read, in bytes; what may be kept is shorter.
pub const MAX_FILE_BYTES: u64 = 4 << 20;
/// The file is written at most once in this time.
pub const WRITE_EVERY: Duration = Duration::from_secs(1);
/// How long the last write waits for others who write, in steps of [`TRY_EVERY`].
const WRITE_WITHIN: Duration = Duration::from_millis(500);
/// Between two tries.
const TRY_EVERY: Duration = Duration::from_millis(10);

/// What the file says.
#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    #[serde(flatten)]
    profiles: Profiles,
}

/// Only this, so that a file of another version is known as such.
#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    version: u32,
}

/// The profiles of a state folder: none when there is no such file, or when it is no good, which is said.
pub fn read(state: &Path) -> Profiles {
    find(state).unwrap_or_else(|error| {
        warn!("{error:#}: it is ignored, and programs are learned anew");
        Profiles::default()
    })
}

/// The same for those who want to know.
///
/// # Errors
/// The file is damaged, of another version, too large, not this user's, or can't be read.
pub fn find(state: &Path) -> Result<Profiles> {
    let path = state.join(NAME);
    // A link or a pipe is nothing that was written here.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Profiles::default()),
        file => file.with_context(|| format!("{} can't be read", path.display()))?,
    };
    parse(file).with_context(|| format!("the profiles in {} are no good", path.display()))
}

fn parse(file: File) -> Result<Profiles> {
    let found = file.metadata()?;
    ensure!(found.is_file(), "it is no file");
    let (owner, own) = (found.uid(), nix::unistd::geteuid().as_raw());
    ensure!(owner == own || owner == 0, "it belongs to user {owner}");
    ensure!(found.mode() & 0o022 == 0, "others may write to it (mode {:o})", found.mode() & 0o777);
    let mut text = String::new();
    let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).context("it is damaged")?;
    ensure!(read as u64 <= MAX_FILE_BYTES, "it is longer than {MAX_FILE_BYTES} bytes");
    let Version { version } = toml::from_str(&text).context("it is damaged")?;
    ensure!(version == VERSION, "it is of version {version}, this program writes version {VERSION}");
    let content: Content = toml::from_str(&text).context("it is damaged")?;
    Ok(content.profiles)
}

/// Keeps profiles in a state folder, which others may do at the same time.
#[derive(Debug)]
pub struct Keeper {
    state: PathBuf,
    changed: bool,
    written: Option<Instant>,
    trouble: Repeated,
}

impl Keeper {
    /// A keeper of a folder, which is made when it is needed.
    pub fn new(state: PathBuf) -> Self {
        Self { state, changed: false, written: None, trouble: Repeated::new() }
    }

    /// There is something to write.
    pub fn changed(&mut self) {
        self.changed = true;
    }

    /// Writes what has changed, unless it has just done so. To be called every now and then.
    pub fn write_if_due(&mut self, profiles: &mut Profiles) {
        if self.changed && self.written.is_none_or(|at| at.elapsed() >= WRITE_EVERY) {
            self.write(profiles);
        }
    }

    /// Writes what has changed at last. Waits a moment for others who write.
    pub fn write_at_last(&mut self, profiles: &mut Profiles) {
        let begun = Instant::now();
        while self.changed {
            self.write(profiles);
            if begun.elapsed() > WRITE_WITHIN {
                return;
            }
            if self.changed {
                std::thread::sleep(TRY_EVERY);
            }
        }
    }

    fn write(&mut self, profiles: &mut Profiles) {
        self.written = Some(Instant::now());
        match write(&self.state, profiles) {
            Ok(written) => self.changed = !written,
            // It stays to be written: there may be room again.
            Err(error) => {
                if let Some(times) = crate::again(&self.trouble) {
                    warn!(times, "what was learned of programs can't be kept, it is tried again: {error:#}");
                }
            }
        }
    }
}

/// Adds what others have written meanwhile, and writes all of it, whole or not at all. Returns whether it did:
/// not, while another is about to.
///
/// # Errors
/// The folder can't be made or written.
pub fn write(state: &Path, profiles: &mut Profiles) -> Result<bool> {
    fs::create_dir_all(state).with_context(|| format!("{} can't be made", state.display()))?;
    let lock = state.join(LOCK);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&lock)
        .with_context(|| format!("{} can't be opened", lock.display()))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(error)) => bail!("{} can't be locked: {error}", state.display()),
    }
    // What is no good was said when it was read.
    profiles.merge(find(state).unwrap_or_default());
    let (path, next) = (state.join(NAME), state.join("profiles.next"));
    let fail = || format!("{} can't be written", next.display());
    let content = toml::to_string(&Content { version: VERSION, profiles: profiles.clone() })?;
    // A next one that somebody was killed at is in the way.
    let _ = fs::remove_file(&next);
    let mut file =
        OpenOptions::new().create_new(true).write(true).mode(0o600).open(&next).with_context(fail)?;
    file.write_all(format!("# What was learned of programs' habits.\n{content}").as_bytes())
        .with_context(fail)?;
    fs::rename(&next, &path).with_context(fail)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use patchbay_agent_core::profiles::{Endpoint, Profile};

    fn profiles(name: &str, calls: u32) -> Profiles {
        let mut profiles = Profiles::default();
        let profile = Profile { sessions: 1, calls, ..Profile::default() };
        profiles.endpoints.insert(Endpoint::new(&"app", &name), profile);
        profiles
    }

    /// What is said of a file with this text.
    fn said(text: &[u8], mode: u32, prepare: impl Fn(&Path)) -> String {
        let state = tempfile::tempdir().expect("a folder");
        let file = state.path().join(NAME);
        fs::write(&file, text).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("ours");
        prepare(&file);
        assert_eq!(read(state.path()), Profiles::default(), "it is ignored");
        let mut learned = profiles("in", 3);
        assert!(write(state.path(), &mut learned).expect("it is in nobody's way"));
        let error = find(state.path()).map(|found| assert_eq!(found, learned));
        assert!(error.is_ok(), "{error:?}");
        fs::write(&file, text).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("ours");
        prepare(&file);
        find(state.path()).map_or_else(|error| format!("{error:#}"), |_| "nothing".into())
    }

    #[test]
    fn what_is_no_good_is_said_and_ignored_and_replaced() {
        let nothing = |_: &Path| {};
        assert!(said(b"version = ", 0o600, nothing).contains("damaged"));
        assert!(said(b"\xff\xfe\0\0", 0o600, nothing).contains("damaged"));
        assert!(said(b"version = 2\nendpoints = 7", 0o600, nothing).contains("damaged"));
        assert!(said(b"version = 1", 0o600, nothing).contains("of version 1"));
        assert!(said(b"[endpoints]", 0o600, nothing).contains("of version 0"));
        assert!(said(b"version = 2", 0o666, nothing).contains("others may write"));
        assert!(said(&vec![b'#'; MAX_FILE_BYTES as usize + 1], 0o600, nothing).contains("longer than"));
        let elsewhere = |file: &Path| {
            fs::remove_file(file).expect("ours");
            symlink("/etc/passwd", file).expect("a link");
        };
        assert!(said(b"", 0o600, elsewhere).contains("can't be read"));
        if nix::unistd::geteuid().is_root() {
            let gives = |file: &Path| nix::unistd::chown(file, Some(1_234.into()), None).expect("root may");
            assert!(said(b"version = 2", 0o600, gives).contains("belongs to user 1234"));
        }
    }

    #[test]
    fn those_who_write_at_the_same_time_lose_nothing() {
        let state = tempfile::tempdir().expect("a folder");
        let (mut one, mut other) = (profiles("one", 5), profiles("other", 7));
        assert!(write(state.path(), &mut one).expect("written"));
        assert!(write(state.path(), &mut other).expect("written"));
        assert_eq!(read(state.path()).endpoints.len(), 2);
        let busy = File::open(state.path().join(LOCK)).expect("made");
        busy.try_lock().expect("nobody has it");
        assert!(!write(state.path(), &mut one).expect("tried"), "another is about to write");
        let mut keeper = Keeper::new(state.path().to_owned());
        keeper.changed();
        keeper.write_at_last(&mut one);
        assert!(keeper.changed, "it gives up after a while");
        drop(busy);
        keeper.write_at_last(&mut one);
        assert_eq!(read(state.path()).endpoints.len(), 2);
    }

    #[test]
    fn what_a_full_disk_kept_from_being_written_is_written_when_there_is_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        fs::write(&state, "no folder").expect("written");
        let mut keeper = Keeper::new(state.clone());
        keeper.changed();
        keeper.write_if_due(&mut profiles("in", 1));
        fs::remove_file(&state).expect("ours");
        keeper.write_at_last(&mut profiles("in", 1));
        assert_eq!(read(&state), profiles("in", 1));
    }

    #[test]
    fn a_folder_is_written_once_in_a_while_only() {
        let state = tempfile::tempdir().expect("a folder");
        let mut keeper = Keeper::new(state.path().join("new"));
        keeper.write_if_due(&mut profiles("in", 1));
        assert!(!state.path().join("new").exists(), "nothing has changed");
        for calls in 1..100 {
            keeper.changed();
            keeper.write_if_due(&mut profiles("in", calls));
        }
        let found = read(&state.path().join("new"));
        assert_eq!(found, profiles("in", 1), "the first, and no other within a second");
        keeper.write_at_last(&mut profiles("in", 100));
        assert_eq!(read(&state.path().join("new")), profiles("in", 100));
    }
}
