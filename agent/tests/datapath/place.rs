//! Where a test's two ends live: cgroups and network namespaces, removed even when the test fails.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use patchbay_agent::datapath::{cgroup_id, cgroup2_mount};

static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct Place {
    name: String,
    cgroup: PathBuf,
    two: bool,
}

impl Place {
    /// Both ends in one namespace of their own.
    pub fn one_namespace() -> Self {
        let place = Self::make(false);
        place.ip(&["netns", "add", &place.namespace("s")]);
        place.ip(&["-n", &place.namespace("s"), "link", "set", "lo", "up"]);
        place
    }

    /// The ends in two namespaces, 10.99.0.1 and .2, fd99::1 and ::2.
    pub fn two_namespaces() -> Self {
        let place = Self::make(true);
        let (s, d) = (place.namespace("s"), place.namespace("d"));
        place.ip(&["netns", "add", &s]);
        place.ip(&["netns", "add", &d]);
        place.ip(&["-n", &s, "link", "add", "v0", "type", "veth", "peer", "name", "v0", "netns", &d]);
        for (namespace, host) in [(&s, "1"), (&d, "2")] {
            place.ip(&["-n", namespace, "addr", "add", &format!("10.99.0.{host}/24"), "dev", "v0"]);
            place.ip(&["-n", namespace, "addr", "add", &format!("fd99::{host}/64"), "dev", "v0", "nodad"]);
            place.ip(&["-n", namespace, "link", "set", "v0", "up"]);
            place.ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        place
    }

    fn make(two: bool) -> Self {
        let name = format!("pbt{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let cgroup = cgroup2_mount().expect("cgroup v2 is mounted").join(&name);
        for end in ["s", "d"] {
            fs::create_dir_all(cgroup.join(end)).expect("root makes cgroups");
        }
        Self { name, cgroup, two }
    }

    /// The network namespace of an end, `s` or `d`.
    pub fn namespace(&self, end: &str) -> String {
        format!("{}-{}", self.name, if self.two { end } else { "s" })
    }

    /// The cgroup above both ends.
    pub fn cgroup(&self) -> PathBuf {
        self.cgroup.clone()
    }

    pub fn source_cgroup(&self) -> u64 {
        cgroup_id(&self.cgroup.join("s")).expect("made above")
    }

    pub fn destination_cgroup(&self) -> u64 {
        cgroup_id(&self.cgroup.join("d")).expect("made above")
    }

    /// Where programs may be pinned.
    pub fn pins(&self) -> PathBuf {
        std::env::temp_dir().join(&self.name)
    }

    fn ip(&self, arguments: &[&str]) {
        let status = Command::new("ip").args(arguments).status().expect("iproute2 is installed");
        assert!(status.success(), "ip {arguments:?}: {status}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = patchbay_agent::datapath::Datapath::detach(&self.pins());
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        for end in if self.two { &["s", "d"][..] } else { &["s"] } {
            let _ = Command::new("ip").args(["netns", "delete", &self.namespace(end)]).status();
        }
        for folder in ["s", "d", ""] {
            for _ in 0..100 {
                if fs::remove_dir(self.cgroup.join(folder)).is_ok() || !self.cgroup.join(folder).exists() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}
