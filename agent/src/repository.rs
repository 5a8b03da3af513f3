//! The repository's file, and what this machine has of what it names.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use patchbay_agent_core::repository::{self, Lack, Problem, Repository};

use crate::processes::User;

/// Reads and checks a repository file.
///
/// # Errors
/// Every problem found, with its place.
pub fn read(file: &Path) -> Result<Repository, Vec<Problem>> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        let message = format!("can't be read: {error}");
        vec![Problem { file: file.display().to_string(), line: 1, column: 1, message }]
    })?;
    parse(&file.display().to_string(), &text)
}

/// Reads and checks a repository file's text, on this machine.
///
/// # Errors
/// Every problem found, with its place.
pub fn parse(file: &str, text: &str) -> Result<Repository, Vec<Problem>> {
    repository::parse(file, text, lacks)
}

/// What this machine has not of an entry's program and user.
fn lacks(program: &Path, user: Option<&str>) -> Option<Lack> {
    let lack = |message: String| Some(Lack::Program(message));
    match std::fs::metadata(program) {
        // A path that is wrong in itself is another problem.
        _ if !program.is_absolute() => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return lack(format!("there is no program {}", program.display()));
        }
        Err(error) => return lack(format!("{} can't be looked at: {error}", program.display())),
        Ok(found) if !found.is_file() => return lack(format!("{} is no file", program.display())),
        Ok(found) if found.mode() & 0o111 == 0 => {
            return lack(format!("{} is not executable (chmod +x)", program.display()));
        }
        Ok(_) => {}
    }
    User::of(user).err().map(Lack::User)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_makes_one_entry_unavailable_and_not_the_file() {
        let text = "[service.good]\nkind = \"native\"\nprogram = \"/bin/sh\"\n\
            [service.gone]\nkind = \"native\"\nprogram = \"/no/such\"\n\
            [service.data]\nkind = \"native\"\nprogram = \"/etc/passwd\"\n\
            [service.folder]\nkind = \"native\"\nprogram = \"/etc\"\n\
            [service.who]\nkind = \"native\"\nprogram = \"/bin/sh\"\nuser = \"no-such-user\"\n";
        let repository = parse("r.toml", text).expect("the file is good");
        let found: Vec<String> = repository
            .iter()
            .filter_map(|(name, entry)| Some(format!("{name} {}", entry.unavailable.as_ref()?)))
            .collect();
        let expected = [
            "data r.toml:9:11: /etc/passwd is not executable (chmod +x)",
            "folder r.toml:12:11: /etc is no file",
            "gone r.toml:6:11: there is no program /no/such",
            "who r.toml:16:8: this machine has no user `no-such-user`",
        ];
        assert_eq!(found, expected);
    }
}
