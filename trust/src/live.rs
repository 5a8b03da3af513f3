//! Certificates that are read again while connections go on: each new connection takes what is there then.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use crate::folder::{Expected, Identity, Problem, load};
use crate::role::Role;

/// A folder's identity, as it was read last.
#[derive(Debug)]
pub struct Live {
    folder: PathBuf,
    current: RwLock<Arc<Identity>>,
}

impl Live {
    /// Reads a folder.
    ///
    /// # Errors
    /// As [`load`].
    pub fn read(folder: PathBuf, expected: Expected<'_>) -> Result<Self, Problem> {
        let identity = load(&folder, expected, SystemTime::now())?;
        Ok(Self { folder, current: RwLock::new(Arc::new(identity)) })
    }

    /// What was read last.
    pub fn current(&self) -> Arc<Identity> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the folder again, for the same role.
    ///
    /// # Errors
    /// As [`load`]; then everything is as before.
    pub fn reload(&self) -> Result<Arc<Identity>, Problem> {
        let role = self.current().role.clone();
        let expected = match &role {
            Role::Manager => Expected::Manager,
            Role::Node(name) => Expected::Node(name),
            Role::Person(_) => Expected::Person,
        };
        let identity = Arc::new(load(&self.folder, expected, SystemTime::now())?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = identity.clone();
        Ok(identity)
    }
}
