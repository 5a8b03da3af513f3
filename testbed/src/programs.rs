//! Where the built programs are, as a repository names them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A repository's text with `{bin}` filled in. Instances run as a user who may not reach a checkout in
/// somebody's home: entries that name no user then run as root.
#[must_use]
pub fn for_programs(repository: &str, programs: &Path) -> String {
    let text = repository.replace("{bin}", &programs.display().to_string());
    match is_open(programs) {
        true => text,
        false => text
            .split("\n[service.")
            .map(|entry| match entry.contains("\nuser = ") {
                true => entry.to_owned(),
                false => entry.replacen("\nkind = ", "\nuser = \"root\"\nkind = ", 1),
            })
            .collect::<Vec<_>>()
            .join("\n[service."),
    }
}

/// Whether everybody reaches what is in a folder.
fn is_open(folder: &Path) -> bool {
    let whole = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    whole.ancestors().all(|above| fs::metadata(above).is_ok_and(|found| found.mode() & 0o001 != 0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn programs_in_a_closed_folder_are_executed_as_root_where_nobody_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = "[service.a]\nkind = \"native\"\n[service.b]\nkind = \"native\"\nuser = \"nobody\"\n";
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("ours");
        let closed = for_programs(text, folder.path());
        assert_eq!(closed.matches("user = \"root\"\nkind").count(), 1, "{closed}");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        assert_eq!(for_programs(text, folder.path()), text);
    }
}
