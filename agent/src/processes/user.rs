//! Who an instance runs as.

use nix::unistd::{Gid, Uid, User as Account};

use crate::private::Owner;

/// Whom instances run as whose repository entry names nobody, the first that this machine has: never root.
pub const USUAL: [&str; 2] = ["patchbay", "nobody"];
/// Where programs are looked for by users other than root.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// The same for root.
const ROOTS_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A user of this machine.
#[derive(Debug, Clone)]
pub struct User {
    /// The name.
    pub name: String,
    uid: Uid,
    gid: Gid,
    home: String,
}

impl User {
    /// The user of an entry, or the usual one.
    ///
    /// # Errors
    /// This machine has no such user; for people.
    pub fn of(named: Option<&str>) -> Result<Self, String> {
        let account = |name: &str| Account::from_name(name).ok().flatten();
        let found = match named {
            Some(name) => account(name).ok_or_else(|| format!("this machine has no user `{name}`"))?,
            None => USUAL.into_iter().find_map(account).ok_or_else(|| {
                format!("this machine has no user `{}`: say `user` in the repository", USUAL.join("` or `"))
            })?,
        };
        let home = found.dir.display().to_string();
        Ok(Self { name: found.name, uid: found.uid, gid: found.gid, home })
    }

    /// Whether nothing holds it back.
    pub fn is_root(&self) -> bool {
        self.uid.is_root()
    }

    /// For files and folders.
    pub fn owner(&self) -> Owner {
        (self.uid, self.gid)
    }

    /// What its programs find in their environment.
    pub fn environment(&self) -> [(&'static str, &str); 5] {
        let path = if self.is_root() { ROOTS_PATH } else { PATH };
        [
            ("PATH", path),
            ("HOME", &self.home),
            ("USER", &self.name),
            ("LOGNAME", &self.name),
            ("LANG", "C.UTF-8"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_not_named_is_not_root() {
        let usual = User::of(None).expect("every machine has `nobody`");
        assert!(!usual.is_root() && USUAL.contains(&usual.name.as_str()));
        let root = User::of(Some("root")).expect("there");
        assert!(root.is_root());
        assert_eq!(root.environment()[1], ("HOME", "/root"));
        assert!(User::of(Some("no-such-user")).is_err_and(|said| said.contains("no user `no-such-user`")));
    }
}
