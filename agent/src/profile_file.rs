//! Where the programs' profiles are kept between two agents.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::core::profiles::Profiles;

const NAME: &str = "profiles.toml";

/// Reads the profiles of a state folder; none when it has no such file.
///
/// # Errors
/// The file can't be read or is none of this agent's.
pub fn read(state: &Path) -> Result<Profiles> {
    let file = state.join(NAME);
    match fs::read_to_string(&file) {
        Ok(text) => toml::from_str(&text)
            .with_context(|| format!("{} is damaged; remove it to learn anew", file.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Profiles::default()),
        Err(error) => Err(error).with_context(|| format!("{} can't be read", file.display())),
    }
}

/// Writes the profiles, whole or not at all.
///
/// # Errors
/// The folder can't be written.
pub fn write(state: &Path, profiles: &Profiles) -> Result<()> {
    let (file, next) = (state.join(NAME), state.join("profiles.next"));
    let text = format!("# What the agent learned of programs' habits.\n{}", toml::to_string(profiles)?);
    fs::write(&next, text).with_context(|| format!("{} can't be written", next.display()))?;
    fs::rename(&next, &file).with_context(|| format!("{} can't be written", file.display()))
}
