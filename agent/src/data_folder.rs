//! A service's data on this node: a folder that outlives its instances, for one of them at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, lchown};
use std::path::{Path, PathBuf};

use patchbay_agent_core::Start;

use crate::private::{self, Owner};

/// A claimed folder. The claim lasts as long as any process has the lock open.
pub struct DataFolder {
    /// The folder.
    pub path: PathBuf,
    /// Locked; to be inherited by the instance's process.
    pub lock: File,
}

impl DataFolder {
    /// Where the data of an instance's service is: `SERVICE@APPLICATION`, and no name
    /// has an `@` in it. The graph's service counts, whatever entry of the repository it is executed from.
    pub fn place(state: &Path, start: &Start) -> PathBuf {
        let service = start.vertex.as_ref().unwrap_or(&start.service);
        let name = match &start.app {
            Some(app) => format!("{service}@{app}"),
            None => service.to_string(),
        };
        state.join("data").join(name)
    }

    /// That a service whose entry asks for no data has none.
    ///
    /// # Errors
    /// It has a folder, which its instance would not get; for people.
    pub fn none(state: &Path, start: &Start) -> Result<(), String> {
        let path = Self::place(state, start);
        match path.exists() {
            false => Ok(()),
            true => Err(format!(
                "its service has data in {}, and the entry `{}` of the repository has no `data = true`: say so \
                 there, or remove the folder",
                path.display(),
                start.service
            )),
        }
    }

    /// Claims the folder for an instance, and makes it if it is not there.
    ///
    /// # Errors
    /// Another instance has it, or it can't be made; for people.
    pub fn claim(state: &Path, start: &Start, owner: Owner) -> Result<Self, String> {
        let path = Self::place(state, start);
        let fail = |error: std::io::Error| format!("the data folder {} failed: {error}", path.display());
        private::passage(&state.join("data")).map_err(fail)?;
        let mut lock = path.clone().into_os_string();
        lock.push(".lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(lock)
            .map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {
                let earlier = fs::symlink_metadata(&path).ok().map(|found| found.uid());
                private::folder(&path, owner).map_err(fail)?;
                if earlier.is_some_and(|uid| uid != owner.0.as_raw()) {
                    give(&path, owner).map_err(fail)?;
                }
                Ok(Self { path, lock })
            }
            Err(TryLockError::WouldBlock) => {
                Err(format!("another instance still uses the data folder {}", path.display()))
            }
            Err(TryLockError::Error(error)) => Err(fail(error)),
        }
    }
}

/// Gives what is in a folder to the user whom its service runs as now. Links are not followed.
fn give(folder: &Path, owner: Owner) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        lchown(entry.path(), Some(owner.0.as_raw()), Some(owner.1.as_raw()))?;
        if entry.file_type()?.is_dir() {
            give(&entry.path(), owner)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(state: &Path, start: &Start) -> Result<DataFolder, String> {
        DataFolder::claim(state, start, (nix::unistd::geteuid(), nix::unistd::getegid()))
    }

    fn start(service: &str, id: u64, app: Option<&str>) -> Start {
        let name = |text: &str| ssmmp::Name::new(text).expect("a name");
        Start { app: app.map(name), ..Start::of(name(service), ssmmp::InstanceId(id)) }
    }

    #[test]
    fn one_instance_at_a_time_has_a_services_data() {
        let state = tempfile::tempdir().expect("a folder");
        let first = claim(state.path(), &start("redis", 3, Some("social"))).expect("free");
        assert!(first.path.ends_with("data/redis@social"));
        fs::write(first.path.join("kept"), "x").expect("written");
        let refused = claim(state.path(), &start("redis", 4, Some("social")));
        assert!(refused.is_err_and(|reason| reason.contains("another instance still uses")));
        let other = claim(state.path(), &start("redis", 5, Some("shop"))).expect("another's");
        assert!(!other.path.join("kept").exists());
        let from_another_entry = |entry, id| Start {
            vertex: Some(start("redis", 0, None).service),
            ..start(entry, id, Some("social"))
        };
        let refused = claim(state.path(), &from_another_entry("valkey", 6));
        assert!(refused.is_err(), "the data is the service's, not the entry's");
        let refused = DataFolder::none(state.path(), &from_another_entry("cache", 7));
        assert!(
            refused.is_err_and(|reason| reason.contains("`cache` of the repository has no `data = true`"))
        );
        assert_eq!(DataFolder::none(state.path(), &start("cache", 8, Some("social"))), Ok(()));
        drop(first);
        let next = claim(state.path(), &start("redis", 4, Some("social"))).expect("free again");
        assert!(next.path.join("kept").exists());
    }
}
