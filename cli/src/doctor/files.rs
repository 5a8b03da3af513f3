//! Files that let in: tokens and nodes' secrets.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::running::Running;
use super::{Finding, STATE, State, finding};
use crate::login;

/// Hexadecimal digits of a node's secret.
const SECRET_DIGITS: usize = 64;

/// Looks at the tokens of this user and of the Managers that run here, and at the secrets of this machine's nodes.
pub fn find(managers: &[Running], agents: &[Running]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(file) = login::file().filter(|file| file.exists()) {
        let again = "`patchbay login` keeps a token again";
        findings.push(look("tokens of this user", &file, again, |text| {
            text.lines().all(|line| line.split(' ').count() == 2)
        }));
    }
    for file in managers.iter().filter_map(|manager| manager.path("--tokens")) {
        let again = "`patchbay-manager token FILE` adds one, SIGHUP has the Manager read them again";
        findings.push(look("tokens of the Manager", &file, again, |text| {
            let mut lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
            lines.clone().next().is_some()
                && lines.all(|line| line.starts_with("change ") || line.starts_with("read "))
        }));
    }
    let named = agents.iter().filter_map(|agent| agent.path("--state-dir"));
    let usual = fs::read_dir(Path::new(STATE).join("nodes")).into_iter().flatten().flatten();
    let mut states: Vec<PathBuf> = usual.map(|entry| entry.path()).chain(named).collect();
    states.sort();
    states.dedup();
    for file in states.iter().map(|state| state.join("secret")).filter(|file| file.exists()) {
        let again = "put the node's own back, or remove it and have `patchbay forget NODE` done";
        findings.push(look("secret of a node", &file, again, |text| {
            let secret = text.trim();
            secret.len() == SECRET_DIGITS && secret.bytes().all(|byte| byte.is_ascii_hexdigit())
        }));
    }
    findings
}

fn look(what: &str, file: &Path, again: &str, is_good: impl Fn(&str) -> bool) -> Finding {
    let what = format!("node: {what}");
    let shown = file.display().to_string();
    let mode = match fs::metadata(file) {
        Ok(found) if !found.is_file() => {
            return finding(&what, State::Broken, format!("{shown} is no file"), again);
        }
        Ok(found) => found.mode() & 0o777,
        Err(error) => return finding(&what, State::Broken, format!("{shown}: {error}"), again),
    };
    if mode & 0o077 != 0 {
        let found = format!("{shown} is open to others (mode {mode:04o})");
        return finding(&what, State::Broken, found, &format!("`chmod 600 {shown}`, and make a new one"));
    }
    match fs::read_to_string(file) {
        Ok(text) if is_good(&text) => finding(&what, State::Fine, shown, again),
        Ok(_) => finding(&what, State::Broken, format!("{shown} holds something else"), again),
        // Its owner may see more.
        Err(error) => {
            let remedy = "as root, `patchbay doctor` looks into it";
            finding(&what, State::Degraded, format!("{shown}: {error}"), remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_that_others_can_read_or_that_is_none_is_told() {
        let file = std::env::temp_dir().join(format!("patchbay-doctor-{}", std::process::id()));
        let state = |text: &str, mode: u32| {
            fs::write(&file, text).expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("ours");
            let found = look("secret", &file, "again", |text| text == "good");
            fs::remove_file(&file).expect("ours");
            assert_eq!(found.remedy.is_none(), found.state == State::Fine, "{found:?}");
            found.state
        };
        assert_eq!(state("good", 0o600), State::Fine);
        assert_eq!(state("good", 0o640), State::Broken);
        assert_eq!(state("bad", 0o600), State::Broken);
        assert_eq!(look("secret", &file, "again", |_| true).state, State::Broken, "it is absent");
    }
}
