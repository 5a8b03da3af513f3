//! The Managers and agents that run on this machine, as `/proc` shows them to this user.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The kernel keeps so many bytes of a program's name.
const NAME_BYTES: usize = 15;

/// A running program of Patchbay.
#[derive(Debug)]
pub struct Running {
    arguments: Vec<Vec<u8>>,
    folder: PathBuf,
}

/// All processes with this program's name; what is hidden from this user is left out.
pub fn of(program: &str) -> Vec<Running> {
    let name = &program[..program.len().min(NAME_BYTES)];
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            entry.file_name().to_str()?.parse::<u32>().ok()?;
            let at = entry.path();
            (fs::read_to_string(at.join("comm")).ok()?.trim_end() == name).then_some(())?;
            let line = fs::read(at.join("cmdline")).ok()?;
            Some(Running {
                arguments: line.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect(),
                folder: fs::read_link(at.join("cwd")).unwrap_or_else(|_| "/".into()),
            })
        })
        .collect()
}

impl Running {
    /// The text that a flag has, as `--flag TEXT` or `--flag=TEXT`.
    pub fn text(&self, flag: &str) -> Option<String> {
        let value = self.value(flag)?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// The file or folder that a flag names, as `--flag FILE` or `--flag=FILE`.
    pub fn path(&self, flag: &str) -> Option<PathBuf> {
        Some(self.folder.join(Path::new(OsStr::from_bytes(self.value(flag)?))))
    }

    fn value(&self, flag: &str) -> Option<&[u8]> {
        let joined = format!("{flag}=");
        let at = self
            .arguments
            .iter()
            .position(|argument| argument == flag.as_bytes() || argument.starts_with(joined.as_bytes()))?;
        match self.arguments[at].strip_prefix(joined.as_bytes()) {
            Some(value) => Some(value),
            None => self.arguments.get(at + 1).map(Vec::as_slice),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flags_path_is_found_in_both_forms_and_taken_from_the_programs_own_folder() {
        let arguments = ["agent", "--state-dir", "state", "--tokens=/etc/tokens", "--last"];
        let running = Running {
            arguments: arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
            folder: "/srv".into(),
        };
        assert_eq!(running.path("--state-dir"), Some("/srv/state".into()));
        assert_eq!(running.path("--tokens"), Some("/etc/tokens".into()));
        assert_eq!((running.path("--last"), running.path("--database")), (None, None));
    }

    #[test]
    fn this_process_is_found_by_its_name() {
        let own = fs::read_to_string("/proc/self/comm").expect("it is there");
        let here = std::env::current_dir().expect("there");
        assert!(of(own.trim_end()).iter().any(|running| running.folder == here));
    }
}
