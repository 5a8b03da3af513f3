//! Which processes are an instance's: those in its cgroup, and of an instance that runs as root also those
//! that have left it. Only root can: nobody else may write another cgroup's `cgroup.procs`.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// When a process began, in clock ticks since boot (proc_pid_stat(5)): with its id it names one process only.
pub(super) fn start_time(process: i32) -> Option<u64> {
    stat(process)?.get(19)?.parse().ok()
}

/// What follows the program's name in brackets, which may hold anything.
fn stat(process: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, behind) = text.rsplit_once(')')?;
    Some(behind.split_whitespace().map(str::to_owned).collect())
}

/// Whether a process is in a cgroup or below it.
pub(super) fn is_in(cgroup: &Path, process: i32) -> bool {
    let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let below = || fs::read_dir(cgroup).into_iter().flatten().flatten();
    members.lines().any(|line| line.parse() == Ok(process))
        || below()
            .any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_in(&entry.path(), process))
}

/// Puts a process into a cgroup.
pub(super) fn put_back(cgroup: &Path, process: i32) -> std::io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), process.to_string())
}

/// Living processes of an instance's session, or with its folder in their environment, wherever they are.
pub(super) fn strays(main: i32, folder: &Path) -> Vec<i32> {
    let marker = format!("PATCHBAY_STATE={}", folder.display());
    let is_ours = |process: i32| {
        let Some(stat) = stat(process) else { return false };
        let is_dead = matches!(stat.first().map(String::as_str), Some("Z" | "X"));
        let session = stat.get(3).and_then(|session| session.parse::<i32>().ok());
        let environment = || fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        !is_dead
            && (session == Some(main)
                || environment().split(|byte| *byte == 0).any(|line| line == marker.as_bytes()))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.filter(|process| *process != main && is_ours(*process)).collect()
}

/// Ends processes.
pub(super) fn end(processes: &[i32]) {
    for process in processes {
        let _ = kill(Pid::from_raw(*process), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_known_by_when_it_began_whatever_it_is_called() {
        let own = std::process::id().cast_signed();
        let began = start_time(own).expect("it lives");
        assert_eq!(start_time(own), Some(began));
        assert_eq!(start_time(0), None);
        let mut child = Command::new("sleep").arg0(") 1 2 (").arg("60").spawn().expect("it starts");
        assert!(start_time(child.id().cast_signed()).expect("it lives") >= began);
        child.kill().expect("ours");
        child.wait().expect("it ends");
    }

    #[test]
    fn what_left_session_and_parent_is_found_by_its_environment() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut parent = Command::new("sh")
            .args(["-c", "setsid sleep 60 >/dev/null 2>&1 & sleep 0.2"])
            .env("PATCHBAY_STATE", folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        let main = parent.id().cast_signed();
        parent.wait().expect("it ends");
        let found = strays(main, folder.path());
        assert_eq!(found.len(), 1, "the sleeper, which nobody waits for");
        end(&found);
        let begun = std::time::Instant::now();
        while !strays(main, folder.path()).is_empty() {
            assert!(begun.elapsed() < std::time::Duration::from_secs(10), "it does not end");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
