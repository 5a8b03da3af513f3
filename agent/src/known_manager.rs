//! Whose this node's running instances are: the Manager that has accepted the node, by its identity (`x_manager`),
//! kept in the state folder. A Manager with another or an empty database would end what it does not know: it does not
//! get the running instances of another one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::private;

/// Its file in the state folder.
const FILE: &str = "manager";
/// Identities that are kept: the Manager's own, and those that have sent this node on to it.
const MAX_KEPT: usize = 8;

/// The Manager that this node's running instances belong to.
#[derive(Debug, Default)]
pub struct KnownManager {
    /// In the state folder; nowhere in tests.
    file: Option<PathBuf>,
    /// Its identity, and those of the Managers that have sent this node on to it; none where none is known.
    ids: Vec<String>,
}

/// Another Manager answers than the one whose instances run here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this node's running instances belong to the Manager {known}, and {answers} answers: they go on, and this node does \
     not register there. Start the Manager with its own database (`--database`), or give up what runs to this one by \
     starting the agent again with `--new-manager`"
)]
pub struct Stranger {
    known: String,
    answers: String,
}

impl KnownManager {
    /// What an earlier agent has left word of; with `is_new` nobody is known, and the next Manager gets everything.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn read(state: &Path, is_new: bool) -> io::Result<Self> {
        let file = state.join(FILE);
        let ids = match fs::read_to_string(&file) {
            _ if is_new => Vec::new(),
            Ok(text) => text.lines().take(MAX_KEPT).map(str::to_owned).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { file: Some(file), ids })
    }

    /// A Manager accepts this node: it is the known one, or was told of no running instance, or the known one, or one that
    /// had sent the node to it, has sent the node on (`senders`). It is the known one from now on, also for the
    /// next agent.
    ///
    /// # Errors
    /// It is none of these.
    pub fn accepts(
        &mut self,
        manager: Option<&str>,
        senders: &[String],
        has_instances: bool,
    ) -> Result<(), Stranger> {
        let is_known = |id: &str| self.ids.iter().any(|known| known == id);
        let own = self.ids.first().map(String::as_str);
        let was_sent = senders.iter().any(|sender| is_known(sender));
        if let Some(known) = own.filter(|known| has_instances && manager != Some(*known) && !was_sent) {
            let answers = match manager {
                Some(manager) => format!("another one, {manager},"),
                None => "one that does not say who it is".to_owned(),
            };
            return Err(Stranger { known: known.to_owned(), answers });
        }
        let mut ids: Vec<String> = manager.map(str::to_owned).into_iter().collect();
        if !ids.is_empty() {
            // The same one keeps who had sent the node to it before.
            let earlier = self.ids.iter().filter(|_| own == manager);
            for id in senders.iter().chain(earlier) {
                if ids.len() < MAX_KEPT && !ids.contains(id) {
                    ids.push(id.clone());
                }
            }
        }
        if ids != self.ids {
            self.ids = ids;
            self.write();
        }
        Ok(())
    }

    fn write(&self) {
        let Some(file) = &self.file else { return };
        let mut text = self.ids.join("\n");
        text.push('\n');
        // On the disk before anything is executed for this Manager.
        let written = private::write(file, &text)
            .and_then(|()| File::open(file)?.sync_all())
            .and_then(|()| file.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()));
        if let Err(error) = written {
            warn!(file = %file.display(), "the next agent here won't know whose this node's instances are: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn running_instances_go_to_no_other_manager_also_after_a_restart() {
        let state = tempfile::tempdir().expect("a folder");
        let read = |is_new| KnownManager::read(state.path(), is_new).expect("readable");
        assert_eq!(read(false).accepts(Some("a"), &[], true), Ok(()), "none was known");
        for answers in [Some("b"), None] {
            let stranger = read(false).accepts(answers, &[], true).expect_err("another").to_string();
            assert!(stranger.contains("the Manager a,") && stranger.contains("--new-manager"), "{stranger}");
        }
        assert_eq!(read(false).accepts(Some("a"), &[], true), Ok(()));
        assert_eq!(read(false).accepts(Some("b"), &[], false), Ok(()), "nothing runs");
        assert!(read(false).accepts(Some("a"), &[], true).is_err(), "b is known now");
        assert_eq!(read(true).accepts(Some("a"), &[], true), Ok(()), "a person has said so");
        assert!(read(false).accepts(Some("b"), &[], true).is_err(), "it counts for the next agent too");
    }

    #[test]
    fn who_sent_the_node_to_its_manager_may_send_it_to_another() {
        let mut known = KnownManager::default();
        assert_eq!(known.accepts(Some("east"), &ids(&["home"]), true), Ok(()));
        assert_eq!(known.accepts(Some("east"), &[], true), Ok(()), "it comes back without being sent");
        assert!(known.accepts(Some("west"), &ids(&["stranger"]), true).is_err());
        assert_eq!(known.accepts(Some("west"), &ids(&["home"]), true), Ok(()));
        assert!(known.accepts(Some("east"), &ids(&["east"]), true).is_err(), "it is not the owner any more");
        assert_eq!(known.accepts(Some("east"), &ids(&["west"]), true), Ok(()), "the owner sends it on");
    }
}
