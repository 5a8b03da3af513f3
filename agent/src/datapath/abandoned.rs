//! What a process left pinned that was killed: its programs go on redirecting. It is taken back to TCP without
//! losing a byte, and then removed.

use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData};
use patchbay_ebpf_common as common;
use tracing::warn;

use super::earlier::Earlier;
use super::{Reason, pins};

/// Programs and maps whose process is gone, of whatever layout.
pub struct Abandoned {
    folder: PathBuf,
    layouts: Vec<Earlier>,
    /// Whether programs are attached whose sessions can't be read.
    unreadable: bool,
}

impl Abandoned {
    /// What is pinned in a folder; `None` when nothing there could ever have been used, its process was killed
    /// while it loaded.
    pub fn open(folder: &Path) -> Option<Self> {
        // No layout has this number: all of them are taken.
        let attached = pins::other_layouts(folder, 0).into_iter().filter(|it| pins::is_attached(it)).count();
        if attached == 0 {
            return None;
        }
        let layouts = Earlier::find(folder, 0);
        Some(Self { folder: folder.to_owned(), unreadable: layouts.len() < attached, layouts })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether a socket in its map may have something unread.
    pub fn is_used(&self) -> bool {
        self.unreadable || self.layouts.iter().flat_map(Earlier::sessions).any(|session| !session.outside)
    }

    /// Its programs take no new sessions, and all present ones go back to TCP.
    pub fn begin_to_leave(&mut self) {
        self.switch_off();
        for layout in &mut self.layouts {
            let inside: Vec<_> = layout.sessions().filter(|session| !session.outside).cloned().collect();
            for session in inside {
                if let Err(error) = layout.leave(&session, Reason::SwitchedOff as u64) {
                    warn!(at = %self.folder.display(), "a killed program's session can't be taken back: {error}");
                }
            }
        }
    }

    /// Lets out the sessions that have nothing unread. Returns whether any is still inside.
    pub fn let_out(&mut self) -> bool {
        for layout in &mut self.layouts {
            if let Err(error) = layout.let_out() {
                warn!(at = %self.folder.display(), "a killed program's sessions can't leave the map: {error}");
            }
            if let Err(error) = layout.look() {
                warn!(at = %self.folder.display(), "a killed program's sessions can't be read: {error}");
            }
        }
        self.is_used()
    }

    /// The settings of other layouts are not known here: their programs take new sessions until their cgroup goes.
    fn switch_off(&self) {
        let pinned = pins::of_layout(&self.folder, common::LAYOUT).join("SETTINGS");
        let Ok(map) = MapData::from_pin(pinned) else { return };
        let Ok(mut settings) = Array::<_, common::Settings>::try_from(Map::Array(map)) else { return };
        let off = settings.get(&0, 0).map(|now| common::Settings { redirect: 0, scope: 0, ..now });
        if let Err(error) = off.and_then(|off| settings.set(0, off, 0)) {
            warn!(at = %self.folder.display(), "a killed program's redirection can't be switched off: {error}");
        }
    }
}
