//! What a start has made is removed again when it fails: folders that were not there before, as far as nothing is in them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::datapath::{Datapath, is_pinned};

/// Folders that were not there when this was made.
#[derive(Debug)]
pub struct Fresh {
    /// The innermost first.
    folders: Vec<PathBuf>,
    pins: Option<PathBuf>,
}

impl Fresh {
    /// Looks which of these folders, and of those that they are in, are missing.
    pub fn look(pins: &Path, folders: &[&Path]) -> Self {
        let mut missing: Vec<PathBuf> = folders
            .iter()
            .copied()
            .chain([pins])
            .flat_map(|folder| folder.ancestors().take_while(|above| !above.exists()))
            .map(Path::to_owned)
            .collect();
        missing.sort_by_key(|folder| std::cmp::Reverse(folder.components().count()));
        missing.dedup();
        Self { folders: missing, pins: (!pins.exists()).then(|| pins.to_owned()) }
    }

    /// Removes those that are there now and empty.
    pub fn remove(&self) {
        if let Some(pins) = self.pins.as_ref().filter(|pins| !is_pinned(pins)) {
            // With the file system that was mounted there.
            let _ = Datapath::detach(pins);
        }
        for folder in &self.folders {
            let _ = fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_goes_and_what_was_there_or_is_used_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("earlier")).expect("made");
        let fresh = Fresh::look(&at("pins/a"), &[&at("new/inner"), &at("earlier"), &at("used")]);
        for path in ["pins/a", "new/inner", "used"] {
            fs::create_dir_all(at(path)).expect("made");
        }
        fs::write(at("used/file"), "x").expect("written");
        fresh.remove();
        let left = ["pins", "new", "earlier", "used/file"].map(|path| at(path).exists());
        assert_eq!(left, [false, false, true, true]);
    }
}
