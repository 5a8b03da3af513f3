use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use patchbay_manager::server::{self, Options};
use patchbay_manager::shell::{self, Handle};
use patchbay_manager::store::Store;
use patchbay_manager_core::{Apply, Config, Core};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// How long an answer may take at most: bounded, not measured.
pub const WITHIN: Duration = Duration::from_secs(5);

/// One application: a gateway with a plug to a store.
pub const GRAPH: &str = include_str!("../../../manager-core/src/tests/gate-store.toml");

/// A whole Manager in this process, with its listener on loopback.
pub struct Manager {
    pub at: SocketAddr,
    handle: Handle,
    runtime: Runtime,
    _folder: TempDir,
}

impl Manager {
    pub fn start(options: Options) -> Self {
        let folder = TempDir::new().expect("a folder");
        let store = Store::open(&folder.path().join("manager.db")).expect("a database");
        let runtime = Runtime::new().expect("a runtime");
        let _inside = runtime.enter();
        let core = Core::new(Config::default(), 1, shell::now());
        let (handle, _) = shell::start(core, store, None).expect("started");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("loopback");
        let at = listener.local_addr().expect("bound");
        runtime.spawn(server::serve(listener, handle.clone(), options));
        drop(_inside);
        Self { at, handle, runtime, _folder: folder }
    }

    pub fn apply(&self, graph: &str) {
        let apply = Apply::of_text(graph).expect("a good graph");
        self.runtime.block_on(self.handle.apply(apply)).expect("it runs").expect("applied");
    }

    /// Open sessions.
    pub fn sessions(&self) -> usize {
        self.runtime.block_on(self.handle.ask(|core| core.status().sessions)).expect("answered")
    }

    pub fn connect(&self) -> Peer {
        let stream = TcpStream::connect(self.at).expect("it listens");
        stream.set_read_timeout(Some(WITHIN)).expect("set");
        stream.set_nodelay(true).expect("set");
        Peer(BufReader::new(stream))
    }

    /// An agent that has registered under an address.
    pub fn agent(&self, address: &str) -> Peer {
        let mut peer = self.connect();
        peer.say(&format!("type: initiation_request ~ message_id: 1 ~ agent_network_address: {address} ~ service_repository: (gate, store)"));
        assert!(peer.hear().contains("status: 200"), "registered");
        peer
    }
}

/// The other end of a connection.
pub struct Peer(pub BufReader<TcpStream>);

impl Peer {
    pub fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).expect("connected");
    }

    /// The next line.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("it comes in time");
        line.trim_end().to_owned()
    }

    /// The next line that holds a text; others are passed over.
    pub fn hear_of(&mut self, text: &str) -> String {
        for _ in 0..100 {
            let line = self.hear();
            assert!(!line.is_empty(), "the connection ended before `{text}` came");
            if line.contains(text) {
                return line;
            }
        }
        panic!("`{text}` did not come");
    }

    /// Whether the Manager closes the connection in time.
    pub fn is_closed(&mut self) -> bool {
        let mut line = String::new();
        loop {
            line.clear();
            match self.0.read_line(&mut line) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }
}
