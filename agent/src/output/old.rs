//! Folders and outputs of instances that have ended are kept for a while.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long what an ended instance left is kept.
pub const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Ended instances whose outputs and folders are kept at most; the oldest go first.
pub const MAX_ENDED: usize = 100;

/// Removes what is too old or too much in the folder of instances, but for those that exist.
///
/// # Errors
/// The folder can't be read.
pub fn remove_old(instances: &Path, exist: impl Fn(&str) -> bool) -> io::Result<()> {
    remove_older(instances, exist, SystemTime::now())
}

fn remove_older(instances: &Path, exist: impl Fn(&str) -> bool, now: SystemTime) -> io::Result<()> {
    let mut ended: BTreeMap<String, (SystemTime, Vec<PathBuf>)> = BTreeMap::new();
    for entry in fs::read_dir(instances)?.flatten() {
        let path = entry.path();
        let Some(name) = entry.file_name().to_str().and_then(instance_of).map(str::to_owned) else {
            continue;
        };
        if exist(&name) {
            continue;
        }
        let changed = entry.metadata().and_then(|found| found.modified()).unwrap_or(now);
        let of = ended.entry(name).or_insert_with(|| (changed, Vec::new()));
        of.0 = of.0.max(changed);
        of.1.push(path);
    }
    let mut all: Vec<_> = ended.into_values().collect();
    all.sort_by_key(|(changed, _)| std::cmp::Reverse(*changed));
    for (number, (changed, paths)) in all.into_iter().enumerate() {
        // A clock that was set back makes nothing old.
        let age = now.duration_since(changed).unwrap_or_default();
        if number >= MAX_ENDED || age > KEPT_FOR {
            for path in paths {
                let is_folder = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
                let _ = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            }
        }
    }
    Ok(())
}

/// The instance that a file or folder belongs to: `SERVICE-ID`, with an ending of ours or without.
fn instance_of(file: &str) -> Option<&str> {
    let is_ours = |ending: &str| matches!(ending, "log" | "out" | "toml" | "next");
    let mut name = file;
    for _ in 0..2 {
        if let Some((before, ending)) = name.rsplit_once('.')
            && (is_ours(ending) || (ending.parse::<u32>().is_ok() && before.ends_with(".log")))
        {
            name = before;
        }
    }
    let (_, id) = name.rsplit_once('-')?;
    id.parse::<u64>().is_ok().then_some(name)
}

/// The folder of an instance by its id, for one whose service is not known any more.
pub(super) fn folder_of(instances: &Path, id: u64) -> Option<PathBuf> {
    let ending = format!("-{id}");
    let names = fs::read_dir(instances).ok()?.flatten().map(|entry| entry.file_name());
    let found = names.filter_map(|name| instance_of(OsStr::to_str(&name)?).map(str::to_owned));
    found.into_iter().find(|name| name.ends_with(&ending)).map(|name| instances.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_instance() {
        for (file, instance) in [
            ("a-1", Some("a-1")),
            ("a-1.log", Some("a-1")),
            ("a-1.log.3", Some("a-1")),
            ("a.b-12.toml", Some("a.b-12")),
            ("a-1.out", Some("a-1")),
            ("profiles.toml", None),
            ("a-b", None),
        ] {
            assert_eq!(instance_of(file), instance, "{file}");
        }
    }

    #[test]
    fn what_ended_long_ago_or_is_too_much_goes_and_what_exists_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        for id in 0..MAX_ENDED as u64 + 20 {
            fs::create_dir(file(&format!("a-{id}"))).expect("made");
            fs::write(file(&format!("a-{id}.log")), "x").expect("written");
        }
        fs::write(file("profiles.toml"), "x").expect("written");
        let exists = |name: &str| name == "a-3";
        remove_older(folder.path(), exists, SystemTime::now()).expect("readable");
        let left = || fs::read_dir(folder.path()).expect("there").count();
        assert_eq!(left(), 2 * (MAX_ENDED + 1) + 1);
        assert_eq!(folder_of(folder.path(), 3), Some(file("a-3")));
        let later = SystemTime::now() + KEPT_FOR + Duration::from_secs(60);
        remove_older(folder.path(), exists, later).expect("readable");
        assert_eq!(left(), 3, "the one that exists, and what is no instance's");
    }
}
