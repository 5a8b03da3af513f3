//! Which container a cgroup belongs to, by its path: what kubelet and the container runtimes name their cgroups.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};

/// Levels above the pods' cgroup that are looked through for it.
const ROOT_WITHIN: usize = 4;
/// Levels below the pods' cgroup that are looked through: classes, pods, containers, and what these make themselves.
const DEPTH: usize = 8;
/// Cgroups known at once; further ones are nobody's, their sessions stay on TCP.
pub const MAX_CGROUPS: usize = 16_384;
/// Characters of a container's id.
const ID_LENGTH: usize = 64;
/// What runtimes put before a container's id, and systemd's ending after it.
const RUNTIMES: [&str; 4] = ["cri-containerd-", "crio-", "docker-", "libpod-"];

/// Whose a cgroup is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The pod's UID as kubelet names cgroups: of a static pod the hash of its file.
    pub pod: String,
    /// The container's id; `None` for the pod's own cgroup.
    pub container: Option<String>,
}

/// Whose a cgroup below the pods' is, by its path from there; `None` for the classes of quality and for what is no
/// pod's.
pub fn place(path: &Path) -> Option<Place> {
    let mut pod = None;
    let mut container = None;
    for name in path.iter().map(|name| name.to_string_lossy()) {
        match &pod {
            None => pod = pod_of(&name),
            // What a container makes in its own cgroup is the container's.
            Some(_) if container.is_none() => container = container_of(&name),
            Some(_) => {}
        }
    }
    Some(Place { pod: pod?, container })
}

/// `pod1234…` of the cgroupfs driver, `kubepods-burstable-pod1234_….slice` of systemd's.
fn pod_of(name: &str) -> Option<String> {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let uid = match name.strip_prefix("pod") {
        Some(uid) => uid.to_owned(),
        None if name.contains("kubepods") => name.rsplit_once("-pod")?.1.replace('_', "-"),
        None => return None,
    };
    let hexadecimal = uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (uid.len() >= 32 && hexadecimal).then_some(uid)
}

/// `0123…` of the cgroupfs driver, `cri-containerd-0123….scope` of systemd's.
fn container_of(name: &str) -> Option<String> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let id = RUNTIMES.iter().find_map(|runtime| name.strip_prefix(runtime)).unwrap_or(name);
    (id.len() == ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}

/// Whether a cgroup of this name holds the pods.
fn is_root(name: &str) -> bool {
    name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice")
}

/// The pods' cgroup below one of the mounts of cgroup v2.
///
/// # Errors
/// There is none: says where it was looked for.
pub fn find_root(mounts: &[PathBuf]) -> Result<PathBuf, String> {
    for mount in mounts {
        let mut level = vec![mount.clone()];
        for _ in 0..ROOT_WITHIN {
            let mut next = Vec::new();
            for folder in level.iter().flat_map(|folder| folders(folder)) {
                match folder.file_name().is_some_and(|name| is_root(&name.to_string_lossy())) {
                    true => return Ok(folder),
                    false => next.push(folder),
                }
            }
            level = next;
        }
    }
    let places: Vec<String> = mounts.iter().map(|mount| mount.display().to_string()).collect();
    Err(format!(
        "no cgroup `kubepods` or `kubepods.slice` below {}: does kubelet run here? In a container the host's \
         cgroup v2 must be mounted; --cgroup PATH names another place",
        places.join(", ")
    ))
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// All cgroups of pods below their root that are there now, by their ids, with their folders; at most [`MAX_CGROUPS`].
///
/// # Errors
/// The root can't be read.
pub fn scan(root: &Path) -> io::Result<BTreeMap<u64, (Place, PathBuf)>> {
    let mut found = BTreeMap::new();
    let mut level = vec![root.to_owned()];
    fs::read_dir(root)?;
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for folder in &level {
            // One that is removed meanwhile is as if it had never been seen.
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let path = entry.path();
                if let Some(place) = path.strip_prefix(root).ok().and_then(place) {
                    if found.len() >= MAX_CGROUPS {
                        return Ok(found);
                    }
                    found.insert(entry.ino(), (place, path.clone()));
                }
                next.push(path);
            }
        }
        level = next;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "0b1d9e7a-3c52-4f0e-9a61-5f4f4a0a7c11";

    fn id() -> String {
        "0123456789abcdef".repeat(4)
    }

    fn of(path: &str) -> Option<(String, Option<String>)> {
        place(Path::new(path)).map(|place| (place.pod, place.container))
    }

    #[test]
    fn pods_and_containers_are_found_in_the_paths_of_every_driver_and_runtime() {
        let (uid, id) = (UID.to_owned(), id());
        let both = Some((uid.clone(), Some(id.clone())));
        let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
        for path in [
            format!("besteffort/pod{uid}/{id}"),
            format!("pod{uid}/{id}"),
            format!("burstable/pod{uid}/crio-{id}"),
            format!("kubepods-burstable.slice/{slice}/cri-containerd-{id}.scope"),
            format!("kubepods-burstable.slice/{slice}/crio-{id}.scope"),
            format!("kubepods-burstable.slice/{slice}/docker-{id}.scope"),
            // crun and systemd inside a container make cgroups of their own.
            format!("kubepods-burstable.slice/{slice}/crio-{id}.scope/container"),
            format!("burstable/pod{uid}/{id}/init.scope"),
        ] {
            assert_eq!(of(&path), both, "{path}");
        }
        let nested = format!("kubelet-kubepods-pod{}.slice/cri-containerd-{id}.scope", uid.replace('-', "_"));
        assert_eq!(of(&nested), both);
        assert_eq!(of(&format!("besteffort/pod{uid}")), Some((uid.clone(), None)));
        assert_eq!(
            of(&format!("pod{uid}/crio-conmon-{id}.scope")),
            Some((uid, None)),
            "conmon is no container"
        );
        assert_eq!(
            of("pod0123456789abcdef0123456789abcdef"),
            Some((id[..32].to_owned(), None)),
            "a static pod"
        );
        for path in ["besteffort", "kubepods-burstable.slice", "podman/x", "system.slice/pod.service", ""] {
            assert_eq!(of(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_pod_is_found_again(uid in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
                                  id in "[0-9a-f]{64}", class in "(burstable|besteffort|)", systemd: bool,
                                  runtime in 0..RUNTIMES.len(), below in "(|/init.scope|/a/b)") {
            let path = if systemd {
                let prefix = if class.is_empty() { "kubepods".into() } else { format!("kubepods-{class}") };
                let runtime = RUNTIMES[runtime];
                format!("{prefix}.slice/{prefix}-pod{}.slice/{runtime}{id}.scope{below}", uid.replace('-', "_"))
            } else {
                format!("{class}/pod{uid}/{id}{below}").trim_start_matches('/').to_owned()
            };
            prop_assert_eq!(of(&path), Some((uid, Some(id))));
        }

        #[test]
        fn any_path_is_no_fault(path in "(/?[a-z0-9._-]{0,80}){0,6}") {
            let _ = place(Path::new(&path));
        }
    }

    #[test]
    fn the_root_is_found_at_any_usual_depth() {
        let folder = tempfile::tempdir().expect("a folder");
        let none = find_root(&[folder.path().to_owned()]).expect_err("nothing is there");
        assert!(none.contains("does kubelet run here"), "{none}");
        let root = folder.path().join("kubelet.slice/kubelet-kubepods.slice");
        fs::create_dir_all(&root).expect("made");
        assert_eq!(find_root(&[folder.path().to_owned()]), Ok(root.clone()));
        let container = root.join(format!("pod{UID}")).join(id());
        fs::create_dir_all(&container).expect("made");
        let found = scan(&root).expect("it is there");
        assert_eq!(found.len(), 2);
        assert!(found.values().any(|(place, _)| place.container.as_deref() == Some(&*id())));
    }
}
