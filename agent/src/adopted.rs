//! What an agent writes down about an instance, so that its successor can take it over.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use patchbay_agent_core::Start;
use serde::{Deserialize, Serialize};
use ssmmp::{Address, InstanceId, Name, PlugConfiguration, SocketConfiguration};
use tokio::io::unix::AsyncFd;
use tracing::warn;

use crate::private;

/// An execution and its process.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    id: u64,
    #[serde(default)]
    app: Option<String>,
    #[serde(default)]
    vertex: Option<String>,
    service: String,
    address: IpAddr,
    sockets: String,
    plugs: String,
    process: i32,
    /// When it began, which tells it from a later one with its id.
    #[serde(default)]
    started: Option<u64>,
    /// It runs as root, and may leave its cgroup.
    #[serde(default)]
    root: bool,
    /// Its sockets have listened.
    #[serde(default)]
    listened: bool,
    #[serde(default)]
    plug_addresses: BTreeMap<String, SocketAddr>,
    /// The numbers of the descriptors of their listeners in the process.
    #[serde(default)]
    plug_listeners: BTreeMap<String, i32>,
}

impl Record {
    /// Of an instance whose process was started.
    pub fn new(
        start: &Start,
        process: i32,
        started: Option<u64>,
        root: bool,
        plug_listeners: BTreeMap<String, i32>,
    ) -> Self {
        Self {
            id: start.id.0,
            app: start.app.as_ref().map(ToString::to_string),
            vertex: start.vertex.as_ref().map(ToString::to_string),
            service: start.service.to_string(),
            address: start.address.0,
            sockets: start.sockets.encode(),
            plugs: start.plugs.encode(),
            process,
            started,
            root,
            listened: false,
            plug_addresses: start.plug_addresses.clone(),
            plug_listeners,
        }
    }

    /// Writes the record, whole or not at all.
    ///
    /// # Errors
    /// The folder can't be written.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        private::write(file, &toml::to_string(self).map_err(io::Error::other)?)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn read(file: &Path) -> Result<(Self, Start), String> {
        let text = fs::read_to_string(file).map_err(|error| format!("no record of it: {error}"))?;
        let record: Self =
            toml::from_str(&text).map_err(|error| format!("its record is damaged: {error}"))?;
        let start = Start {
            id: InstanceId(record.id),
            app: record.app.as_deref().map(Name::new).transpose()?,
            vertex: record.vertex.as_deref().map(Name::new).transpose()?,
            service: Name::new(&record.service)?,
            address: Address(record.address),
            sockets: SocketConfiguration::parse(&record.sockets)?,
            plugs: PlugConfiguration::parse(&record.plugs)?,
            plug_addresses: record.plug_addresses.clone(),
        };
        Ok((record, start))
    }

    /// The main process.
    pub fn process(&self) -> i32 {
        self.process
    }

    /// When it began, in clock ticks since boot; not known of one that an older agent started.
    pub fn started(&self) -> Option<u64> {
        self.started
    }

    /// Whether it runs as root.
    pub fn is_root(&self) -> bool {
        self.root
    }

    /// Whether its sockets have listened.
    pub fn has_listened(&self) -> bool {
        self.listened
    }

    /// The number of the process's descriptor of a plug's listener.
    pub fn plug_listener(&self, plug: &str) -> Option<i32> {
        self.plug_listeners.get(plug).copied()
    }

    /// Its sockets listen.
    pub fn note_listening(&mut self) {
        self.listened = true;
    }
}

/// A process that is no child of this one (pidfd, Linux 5.3).
pub struct AdoptedProcess {
    /// Its id, which no other process gets while it is not known to have ended.
    pub id: i32,
    ended: AsyncFd<OwnedFd>,
}

impl AdoptedProcess {
    /// Begins to watch a process.
    ///
    /// # Errors
    /// There is no such process.
    #[expect(unsafe_code, reason = "no library of ours has pidfd_open")]
    pub fn open(id: i32) -> io::Result<Self> {
        // SAFETY: the call takes two numbers and returns a new descriptor or an error.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, id, libc::PIDFD_NONBLOCK) };
        let descriptor = match i32::try_from(descriptor) {
            Ok(descriptor) if descriptor >= 0 => descriptor,
            _ => return Err(io::Error::last_os_error()),
        };
        // SAFETY: the kernel has just made the descriptor for this process.
        let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // SAFETY: an owned descriptor stays the same until it is dropped.
        Ok(Self { id, ended: unsafe { AsyncFd::register(owned) }? })
    }

    /// A descriptor of the process, shared with it (Linux 5.6).
    ///
    /// # Errors
    /// It has no such descriptor, or the kernel refused.
    #[expect(unsafe_code, reason = "no library of ours has pidfd_getfd")]
    pub fn descriptor(&self, number: i32) -> io::Result<OwnedFd> {
        let process = self.ended.get_ref().as_raw_fd();
        // SAFETY: the call takes three numbers and returns a new descriptor or an error.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process, number, 0) };
        match i32::try_from(descriptor) {
            // SAFETY: the kernel has just made it for this process.
            Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Waits until it has ended.
    pub async fn wait(&mut self) {
        if let Err(error) = self.ended.readable().await {
            warn!(process = self.id, "it can't be watched: {error}");
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_back_what_was_started() {
        let start = Start {
            id: InstanceId(7),
            app: Some(Name::new("shop").expect("a name")),
            vertex: Some(Name::new("basket").expect("a name")),
            service: Name::new("shop").expect("a name"),
            address: Address("10.0.0.1".parse().expect("an address")),
            sockets: SocketConfiguration::parse("in, 54000").expect("good"),
            plugs: PlugConfiguration::parse("P, in, B").expect("good"),
            plug_addresses: BTreeMap::from([(
                "P".to_owned(),
                "127.0.0.1:40001".parse().expect("an address"),
            )]),
        };
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("shop-7.toml");
        let listeners = BTreeMap::from([("P".to_owned(), 5)]);
        let mut record = Record::new(&start, 99, Some(7), true, listeners);
        record.note_listening();
        record.write(&file).expect("written");
        assert_eq!(Record::read(&file), Ok((record, start)));
        fs::write(&file, "id = 7").expect("written");
        assert!(Record::read(&file).is_err_and(|reason| reason.contains("damaged")));
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_seen() {
        let mut child = std::process::Command::new("sleep").arg("0.05").spawn().expect("it starts");
        let mut process = AdoptedProcess::open(child.id().cast_signed()).expect("it runs");
        tokio::time::timeout(std::time::Duration::from_secs(10), process.wait()).await.expect("it ends");
        child.wait().expect("it has ended");
    }
}
