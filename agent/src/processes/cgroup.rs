//! Instances' cgroups: limits, stopped processes, removal.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use patchbay_agent_core::repository::Limits;

/// Controllers that limits need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// How long a cgroup may take to become empty after its processes were killed before that is said, and looked
/// at more seldom.
const EMPTY_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks until then.
const EMPTY_CHECK: Duration = Duration::from_millis(5);

/// Whether all processes of an instance are stopped (SIGSTOP) or frozen, so that it can't do anything.
pub fn is_stopped(cgroup: &Path) -> bool {
    let read = |file: &str| fs::read_to_string(cgroup.join(file)).unwrap_or_default();
    let is_stopped = |process: &str| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:\tT") || line.starts_with("State:\tt"))
    };
    let members = read("cgroup.procs");
    read("cgroup.events").contains("frozen 1") || (!members.is_empty() && members.lines().all(is_stopped))
}

/// Gives the controllers that limits need to the cgroups of instances, down from the mount, where they
/// exist and nobody has done so yet.
pub fn pass_controllers_on(mount: &Path, node: &Path) {
    let instances = node.join("instances");
    let mut above: Vec<&Path> = instances.ancestors().take_while(|path| path.starts_with(mount)).collect();
    above.reverse();
    for cgroup in above {
        let available = fs::read_to_string(cgroup.join("cgroup.controllers")).unwrap_or_default();
        for controller in
            CONTROLLERS.iter().filter(|wanted| available.split(' ').any(|c| c.trim() == **wanted))
        {
            // What fails here shows when a limit is applied.
            let _ = fs::write(cgroup.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

/// Applies limits where the controllers exist, and says which do not: a sentence for people, empty when all are.
pub fn limit(cgroup: &Path, limits: &Limits) -> String {
    let period = 100_000.0;
    let wanted = [
        ("memory", limits.memory.clone()),
        ("pids", limits.processes.map(|count| count.to_string())),
        ("cpu", limits.cpus.map(|cpus| format!("{} {period}", (cpus * period).round()))),
    ];
    let mut missing = Vec::new();
    for (controller, value) in wanted {
        let Some(value) = value else { continue };
        let file = cgroup.join(format!("{controller}.max"));
        if !file.exists() {
            missing.push(format!("this machine has no {controller} controller"));
        } else if let Err(error) = fs::write(&file, &value) {
            missing.push(format!("{controller}.max can't be {value}: {error}"));
        }
    }
    if missing.is_empty() { String::new() } else { format!("limit not applied: {}", missing.join(", ")) }
}

/// Ends everything in a cgroup and removes it, with those below it. Returns when nothing lives in it any more: a
/// process that hangs in the kernel is waited for.
pub async fn remove_cgroup(cgroup: &Path) {
    let mut said_after = EMPTY_WITHIN;
    let begun = Instant::now();
    loop {
        let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        match remove_all(cgroup) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {}
            _ => return,
        }
        if begun.elapsed() > said_after {
            warn!(cgroup = %cgroup.display(), waited = ?said_after, "its processes do not end");
            said_after *= 2;
        }
        sleep(if begun.elapsed() > EMPTY_WITHIN { EMPTY_WITHIN } else { EMPTY_CHECK }).await;
    }
}

/// Programs may have made cgroups of their own below theirs.
fn remove_all(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_all(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// Ends whatever is left of a node's instances and their outputs' keepers; what hangs in the kernel stays.
pub async fn end_all(node: &Path) {
    let instances = node.join("instances");
    for entry in fs::read_dir(&instances).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            warn!(cgroup = %entry.path().display(), "something was left and is ended");
            let _ = timeout(EMPTY_WITHIN, remove_cgroup(&entry.path())).await;
        }
    }
    let _ = timeout(EMPTY_WITHIN, remove_cgroup(&crate::output::keepers(node))).await;
    let _ = fs::remove_dir(&instances);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_without_a_controller_are_named_and_the_others_applied() {
        let cgroup = tempfile::tempdir().expect("a folder");
        fs::write(cgroup.path().join("pids.max"), "max").expect("written");
        let limits = Limits { memory: Some("512M".into()), processes: Some(9), cpus: None };
        let told = limit(cgroup.path(), &limits);
        assert_eq!(told, "limit not applied: this machine has no memory controller");
        assert_eq!(fs::read_to_string(cgroup.path().join("pids.max")).expect("there"), "9");
        fs::write(cgroup.path().join("memory.max"), "max").expect("written");
        assert_eq!(limit(cgroup.path(), &limits), "");
        assert_eq!(limit(cgroup.path(), &Limits::default()), "");
    }

    #[test]
    fn controllers_are_passed_down_where_they_exist() {
        let mount = tempfile::tempdir().expect("a folder");
        let node = mount.path().join("patchbay/a");
        fs::create_dir_all(node.join("instances")).expect("made");
        for cgroup in [mount.path(), &node.join("instances")] {
            fs::write(cgroup.join("cgroup.controllers"), "io memory hugetlb\n").expect("written");
        }
        pass_controllers_on(mount.path(), &node);
        let control = |cgroup: &Path| fs::read_to_string(cgroup.join("cgroup.subtree_control")).ok();
        assert_eq!(control(mount.path()).as_deref(), Some("+memory"));
        assert_eq!(control(&node.join("instances")).as_deref(), Some("+memory"));
        assert_eq!(control(&node), None, "it has none to pass on");
    }

    #[test]
    fn a_stopped_instance_is_known_by_its_processes() {
        let cgroup = tempfile::tempdir().expect("a folder");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("it starts");
        fs::write(cgroup.path().join("cgroup.procs"), format!("{}\n", child.id())).expect("written");
        assert!(!is_stopped(cgroup.path()));
        let process = nix::unistd::Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGSTOP).expect("ours");
        let begun = std::time::Instant::now();
        while !is_stopped(cgroup.path()) {
            assert!(begun.elapsed() < Duration::from_secs(10), "it is not seen");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("ours");
        child.wait().expect("it ends");
        fs::write(cgroup.path().join("cgroup.procs"), "").expect("written");
        assert!(!is_stopped(cgroup.path()), "an empty one is not stopped");
    }
}
