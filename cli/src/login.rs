//! Tokens for Managers over TCP: from PATCHBAY_TOKEN, or kept by `patchbay login` in a file of the user's.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use patchbay_api as api;

use crate::client::{Client, Failure};
use crate::https::Https;
use crate::output;

/// The environment variable of a token.
const VARIABLE: &str = "PATCHBAY_TOKEN";

/// The token for a Manager, if there is one.
pub fn token_for(url: &str) -> Option<String> {
    if let Some(token) = std::env::var(VARIABLE).ok().filter(|token| !token.is_empty()) {
        return Some(token);
    }
    let text = fs::read_to_string(file()?).ok()?;
    kept(&text, url)
}

fn kept(text: &str, url: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.split_once(' ').filter(|(of, _)| *of == url))
        .map(|(_, token)| token.to_owned())
}

/// Where this user's tokens are kept.
pub fn file() -> Option<PathBuf> {
    let configuration =
        std::env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let folder = configuration.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))?;
    Some(folder.join("patchbay/tokens"))
}

/// Reads a token from the standard input, tries it, and keeps it for this Manager.
pub fn login(url: &str, https: &Https) -> Result<(), Failure> {
    eprint!("token for {url}: ");
    let mut token = String::new();
    std::io::stdin().lock().read_line(&mut token).map_err(|error| Failure::Said(error.to_string()))?;
    let token = token.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(Failure::Said("a token is one word; `patchbay-manager token FILE` makes one".into()));
    }
    let client = Client::over_tcp(url, Some(token.to_owned()), https)?;
    client.get::<api::ManagerStatus>("/v1/status")?;
    let file = keep(url, Some(token))?;
    output::print(&format!("kept in {}", file.display()))
}

/// Forgets the token of this Manager.
pub fn logout(url: &str) -> Result<(), Failure> {
    let file = keep(url, None)?;
    output::print(&format!("{} has no token for {url}", file.display()))
}

fn keep(url: &str, token: Option<&str>) -> Result<PathBuf, Failure> {
    let file = file().ok_or_else(|| Failure::Said("there is no HOME to keep the token in".into()))?;
    let unwritten = |error| Failure::Said(format!("{} can't be written: {error}", file.display()));
    let earlier = fs::read_to_string(&file).unwrap_or_default();
    let mut lines: Vec<String> = earlier
        .lines()
        .filter(|line| line.split_once(' ').is_some_and(|(of, _)| of != url))
        .map(str::to_owned)
        .collect();
    lines.extend(token.map(|token| format!("{url} {token}")));
    let write = || {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        let new = file.with_extension("new");
        // Anew each time: its mode is then this one, whatever an earlier one had.
        let _ = fs::remove_file(&new);
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        for line in &lines {
            writeln!(out, "{line}")?;
        }
        out.sync_all()?;
        fs::rename(&new, &file)
    };
    write().map_err(unwritten)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_manager_has_its_own_token() {
        let text = "http://a:1 one\nhttp://b:1 two\n";
        assert_eq!(kept(text, "http://b:1").as_deref(), Some("two"));
        assert_eq!(kept(text, "http://c:1"), None);
        assert_eq!(kept("", "http://a:1"), None);
    }
}
