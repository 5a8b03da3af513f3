//! What this node proves with to its Manager that it is the node that registered before: made at the first
//! start, kept in the state folder, so that nobody takes the node's name or address while its agent is away.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// Its file in the state folder.
const FILE: &str = "secret";
/// Random bytes of a secret; it is written in hexadecimal digits.
const BYTES: usize = 32;

/// The node's secret; it is made when there is none.
///
/// # Errors
/// The file can't be read or written, or holds something else.
pub fn of(state: &Path) -> Result<String> {
    let file = state.join(FILE);
    match fs::read_to_string(&file) {
        Ok(text) => {
            let secret = text.trim();
            if secret.len() != 2 * BYTES || !secret.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                bail!(
                    "{} holds no secret: put the node's own back, or remove it and have `patchbay forget NODE` done at its Manager",
                    file.display()
                );
            }
            Ok(secret.to_owned())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(state),
        Err(error) => Err(error).with_context(|| format!("{} can't be read", file.display())),
    }
}

fn make(state: &Path) -> Result<String> {
    let mut bytes = [0; BYTES];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("/dev/urandom")?;
    let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let (file, new) = (state.join(FILE), state.join("secret.new"));
    let write = || {
        let mut new_file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        writeln!(new_file, "{secret}")?;
        // On the disk before the Manager hears it: a node that lost it could not come back.
        new_file.sync_all()?;
        fs::rename(&new, &file)?;
        File::open(state)?.sync_all()
    };
    write().with_context(|| format!("{} can't be written", file.display()))?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = of(folder.path()).expect("made");
        assert_eq!(of(folder.path()).expect("read"), secret);
        let mode = fs::metadata(folder.path().join(FILE)).expect("there").permissions().mode();
        assert_eq!((secret.len(), mode & 0o777), (64, 0o600));
        let other = tempfile::tempdir().expect("a folder");
        assert_ne!(of(other.path()).expect("made"), secret);
        for bad in ["", "x", &"g".repeat(64)] {
            fs::write(folder.path().join(FILE), bad).expect("written");
            let error = of(folder.path()).expect_err("no secret").to_string();
            assert!(error.contains("patchbay forget"), "{error}");
        }
    }
}
