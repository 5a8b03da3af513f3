//! Agents and people over TLS, and everyone else who comes to that port: the real program, and peers that speak SSMMP
//! over rustls and bare TCP.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use patchbay_trust::{AuthorityFolder, Expected, Identity, MANAGER_NAME, Names, Role, load};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use ssmmp::extension::{Node, Secret};
use ssmmp::{Envelope, Hop, InitiationRequest, MessageId, NameList};
use tempfile::TempDir;

/// How long anything may take to come true.
const WITHIN: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(24 * 3600);

struct Manager {
    process: Child,
    folder: TempDir,
    agents: SocketAddr,
}

fn node(name: &str) -> Role {
    Role::Node(name.into())
}

fn ca(folder: &TempDir) -> AuthorityFolder {
    AuthorityFolder::at(folder.path().join("c"))
}

/// A folder with a CA and the Manager's certificate.
fn installation() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let (ca, now) = (ca(&folder), SystemTime::now());
    ca.make(now, 100 * DAY).expect("made");
    let names = Names { hosts: vec!["localhost".into()], addresses: vec![[127, 0, 0, 1].into()] };
    ca.issue(&Role::Manager, &names, now, 10 * DAY).expect("issued");
    folder
}

fn program(folder: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_patchbay-manager"));
    command.stdin(Stdio::null()).env_remove("RUST_LOG");
    command.arg("--socket").arg(folder.path().join("m.sock"));
    command.arg("--database").arg(folder.path().join("m.db"));
    command
}

fn value<'a>(log: &'a str, key: &str) -> Option<&'a str> {
    let ready = log.lines().find(|line| line.contains(" ready "))?;
    ready.split_whitespace().find_map(|word| word.strip_prefix(key))
}

impl Manager {
    fn start(folder: TempDir, flags: &[&str]) -> Self {
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        let elsewhere = flags.iter().any(|flag| flag.starts_with("--listen-agents"));
        let here = if elsewhere { "" } else { "--listen-agents=127.0.0.1:0" };
        let process =
            program(&folder).args(Some(here).filter(|here| !here.is_empty())).args(flags).stderr(log).spawn();
        let agents = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut manager = Self { process: process.expect("built"), folder, agents };
        manager.wait("it is ready", |log| log.contains(" ready "));
        let log = manager.log();
        manager.agents = value(&log, "agents=").and_then(|at| at.parse().ok()).expect("it says where");
        manager
    }

    fn secured(flags: &[&str]) -> Self {
        let folder = installation();
        let certificates = ca(&folder).of(&Role::Manager).display().to_string();
        Self::start(folder, &[&["--certificates", &certificates], flags].concat())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn wait(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        while !is_so(&self.log()) {
            assert!(begun.elapsed() < WITHIN, "not in time: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn identity(&self, name: &str) -> Identity {
        let ca = ca(&self.folder);
        let _ = ca.issue(&node(name), &Names::default(), SystemTime::now(), DAY);
        load(&ca.of(&node(name)), Expected::Node(name), SystemTime::now()).expect("good")
    }

    /// Has the certificates read again.
    fn reload(&self) {
        let again = |log: &str| log.matches("the certificates were read again").count();
        let before = again(&self.log());
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGHUP).expect("ours");
        self.wait("the certificates are read again", |log| again(log) > before);
    }

    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.agents).expect("it listens");
        stream.set_read_timeout(Some(WITHIN)).expect("set");
        stream
    }

    fn connect(&self, config: Arc<ClientConfig>) -> Peer {
        let name = MANAGER_NAME.try_into().expect("a name");
        let connection = ClientConnection::new(config, name).expect("configured");
        Peer { stream: BufReader::new(StreamOwned::new(connection, self.tcp())) }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Peer {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

fn registration(id: u64, name: &str) -> String {
    let request = InitiationRequest {
        message_id: MessageId::from(id),
        // Each node has an address of its own.
        agent_network_address: std::net::IpAddr::from([127, 0, 0, name.as_bytes()[0]]).into(),
        service_repository: NameList(Vec::new()),
    };
    let mut text = String::new();
    let envelope = Envelope::new(request, Hop::AgentToManager).with(Node(name));
    envelope.with(Secret(&"s".repeat(40))).encode_into(&mut text);
    text
}

impl Peer {
    fn say(&mut self, text: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(text.as_bytes())?;
        self.stream.get_mut().flush()
    }

    /// The next answer to a registration; others are passed over. Empty at the end.
    fn answer(&mut self) -> io::Result<String> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 || line.starts_with("type: initiation_response") {
                return Ok(line);
            }
        }
    }

    fn register(&mut self, id: u64, name: &str) -> io::Result<String> {
        self.say(&registration(id, name))?;
        self.answer()
    }

    /// Why the connection ended.
    fn end(&mut self) -> String {
        match self.answer() {
            Ok(line) => line,
            Err(error) => patchbay_trust::refusal(&error, "the Manager"),
        }
    }
}

#[test]
fn an_agent_registers_as_the_node_its_certificate_names_and_as_no_other() {
    let manager = Manager::secured(&[]);
    let a = manager.identity("a");
    let mut peer = manager.connect(a.to_manager.clone());
    let answer = peer.register(1, "a").expect("answered");
    assert!(answer.contains("status: 200"), "{answer}");
    // A stolen name, also on a connection that is registered already.
    for mut peer in [manager.connect(a.to_manager.clone()), peer] {
        let answer = peer.register(2, "b").expect("answered");
        assert!(answer.contains("status: 403") && answer.contains("node a's"), "{answer}");
    }
    let person = Role::Person("ann".into());
    let ca = ca(&manager.folder);
    ca.issue(&person, &Names::default(), SystemTime::now(), DAY).expect("issued");
    let ann = load(&ca.of(&person), Expected::Person, SystemTime::now()).expect("good");
    let answer = manager.connect(ann.to_manager).register(1, "ann").expect("answered");
    assert!(answer.contains("status: 403") && answer.contains("of person ann"), "{answer}");
}

#[test]
fn strangers_are_refused_and_both_sides_say_why() {
    let manager = Manager::secured(&[]);
    let other = installation();
    ca(&other).issue(&node("a"), &Names::default(), SystemTime::now(), DAY).expect("issued");
    let stranger = load(&ca(&other).of(&node("a")), Expected::Node("a"), SystemTime::now()).expect("good");
    let said = manager.connect(stranger.to_manager.clone()).register(1, "a").expect_err("another CA");
    let said = patchbay_trust::refusal(&said, "the Manager");
    assert!(said.contains("another CA"), "{said}");
    manager.wait("the Manager says so", |log| log.contains("its CA is another one"));

    // One who trusts this CA and shows a certificate of another one.
    let mut thief = (*manager.identity("a").to_manager).clone();
    thief.client_auth_cert_resolver = stranger.to_manager.client_auth_cert_resolver.clone();
    let mut peer = manager.connect(Arc::new(thief));
    let _ = peer.say(&registration(1, "a"));
    let said = peer.end();
    assert!(said.contains("refuses the certificate of this side: its CA is another one"), "{said}");
    manager.wait("the Manager says so", |log| log.contains("another CA than the one in ca.pem"));
}

#[test]
fn a_certificate_of_one_second_is_no_use_in_the_third() {
    let manager = Manager::secured(&[]);
    let ca = ca(&manager.folder);
    ca.issue(&node("a"), &Names::default(), SystemTime::now(), Duration::from_secs(1)).expect("issued");
    let a = load(&ca.of(&node("a")), Expected::Node("a"), SystemTime::now() - Duration::from_secs(2));
    let config = a.expect("it was good").to_manager;
    let begun = Instant::now();
    loop {
        let mut peer = manager.connect(config.clone());
        let _ = peer.say(&registration(1, "a"));
        let said = peer.end();
        if said.contains("has expired") {
            break;
        }
        assert!(said.contains("status: 200") && begun.elapsed() < WITHIN, "{said}");
        std::thread::sleep(Duration::from_millis(100));
    }
    manager.wait("the Manager says so", |log| {
        log.contains("the agent's certificate is refused: it has expired")
    });
}

#[test]
fn revocation_ends_a_live_connection_at_the_reload_and_no_other() {
    let manager = Manager::secured(&[]);
    let ca = ca(&manager.folder);
    let (a, b) = (manager.identity("a"), manager.identity("b"));
    let mut revoked = manager.connect(a.to_manager.clone());
    assert!(revoked.register(1, "a").expect("answered").contains("status: 200"));
    let mut stays = manager.connect(b.to_manager);
    assert!(stays.register(1, "b").expect("answered").contains("status: 200"));
    ca.revoke(&node("a"), SystemTime::now()).expect("revoked");
    assert!(revoked.register(2, "a").expect("not read yet").contains("status: 200"));
    manager.reload();
    let said = revoked.end();
    assert!(said.is_empty() || said.contains("closed"), "{said}");
    manager.wait("it says why", |log| log.contains("the certificate of node a was revoked"));
    assert!(stays.register(2, "b").expect("it goes on").contains("message_id: 2"));
    let mut again = manager.connect(a.to_manager);
    let _ = again.say(&registration(3, "a"));
    let said = again.end();
    assert!(said.contains("it was revoked"), "{said}");
}

#[test]
fn certificates_are_read_again_under_load_and_no_message_is_lost() {
    const MESSAGES: u64 = 600;
    let manager = Manager::secured(&[]);
    let mut peer = manager.connect(manager.identity("a").to_manager);
    let ca = ca(&manager.folder);
    for id in 1..=MESSAGES {
        if id % 100 == 50 {
            ca.renew(&Role::Manager, SystemTime::now(), 20 * DAY).expect("renewed");
            manager.reload();
        }
        let answer = peer.register(id, "a").expect("answered");
        assert!(answer.contains(&format!("message_id: {id} ")) && answer.contains("status: 200"), "{answer}");
    }
    // A folder that is not right changes nothing.
    let file = ca.of(&Role::Manager).join("cert.pem");
    let good = fs::read_to_string(&file).expect("there");
    fs::write(&file, &good[..good.len() / 2]).expect("written");
    kill(Pid::from_raw(manager.process.id().cast_signed()), Signal::SIGHUP).expect("ours");
    manager.wait("it says what is wrong", |log| {
        log.contains("the certificates are as before: ") && log.contains("cut off")
    });
    assert!(manager.connect(manager.identity("b").to_manager).register(1, "b").is_ok());
}

#[test]
fn plain_and_older_peers_on_a_tls_port_and_tls_on_a_plain_one_are_told_apart() {
    let manager = Manager::secured(&[]);
    let mut plain = manager.tcp();
    plain.write_all(registration(1, "a").as_bytes()).expect("sent");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(patchbay_trust::looks_like_tls(&answer), "an alert, and no answer: {answer:?}");
    manager.wait("it says so", |log| log.contains("does not speak TLS here"));

    // OpenSSL's client: TLS 1.2 is not spoken, and without a certificate nothing is answered.
    let openssl = |flags: &[&str]| {
        let at = manager.agents.to_string();
        let mut client = Command::new("openssl");
        client.args(["s_client", "-connect", &at]).args(flags);
        let output = client.stdin(Stdio::null()).output().expect("openssl is there");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let said = openssl(&["-tls1_2"]);
    assert!(said.contains("alert protocol version"), "{said}");
    let said = openssl(&["-tls1_3", "-ign_eof"]);
    assert!(said.contains("TLSv1.3") && said.contains("certificate required"), "{said}");
    manager.wait("it says so", |log| log.contains("the agent has no certificate"));

    let identity = manager.identity("a");
    let open = Manager::start(TempDir::new().expect("a folder"), &[]);
    let mut peer = open.connect(identity.to_manager);
    assert!(peer.register(1, "a").is_err());
    open.wait("it says so", |log| {
        log.contains("the agent speaks TLS, and this end was started without --certificates")
    });
}

#[test]
fn one_who_begins_tls_and_says_nothing_is_cut_off() {
    let manager = Manager::secured(&[]);
    let mut silent = manager.tcp();
    silent.write_all(&[0x16, 3, 1]).expect("sent");
    let mut bytes = Vec::new();
    silent.read_to_end(&mut bytes).expect("it is closed");
    manager.wait("it says so", |log| log.contains("did not finish the TLS handshake"));
}

#[test]
fn a_manager_that_others_could_reach_does_not_start_without_certificates_or_plain() {
    let folder = TempDir::new().expect("a folder");
    let failed = |flags: &[&str]| {
        let output = program(&folder).args(flags).output().expect("it ends");
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    };
    let said = failed(&["--listen-agents=0.0.0.0:0"]);
    assert!(said.contains("--certificates") && said.contains("--plain"), "{said}");
    let said = failed(&["--listen-agents=127.0.0.1:0", "--certificates", "/nowhere"]);
    assert!(said.contains("/nowhere/ca.pem: it can't be read"), "{said}");
    assert!(!folder.path().join("m.db").exists(), "nothing was begun");
    drop(Manager::start(folder, &["--listen-agents=0.0.0.0:0", "--plain"]));
}

#[test]
fn people_speak_https_and_see_when_certificates_end() {
    let tokens = TempDir::new().expect("a folder");
    let file = tokens.path().join("tokens");
    let made = Command::new(env!("CARGO_BIN_EXE_patchbay-manager")).arg("token").arg(&file).output();
    let token = String::from_utf8(made.expect("it runs").stdout).expect("text");
    let file = file.display().to_string();
    let manager = Manager::secured(&["--listen-http=127.0.0.1:0", "--tokens", &file]);
    let http: SocketAddr = value(&manager.log(), "http=")
        .and_then(|at| at.trim_matches('"').parse().ok())
        .expect("it says where");
    let mut agent = manager.connect(manager.identity("a").to_manager);
    assert!(agent.register(1, "a").expect("answered").contains("status: 200"));
    // As others verify: by the host's name, with the CA and without a certificate.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(manager.identity("a").authorities[0].clone()).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
    let ask = |path: &str| {
        let name = "localhost".try_into().expect("a name");
        let connection = ClientConnection::new(Arc::new(config.clone()), name).expect("configured");
        let mut stream = StreamOwned::new(connection, TcpStream::connect(http).expect("it listens"));
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {}\r\n\r\n",
            token.trim()
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).expect("text")
    };
    let answer = ask("/v1/certificates");
    assert!(
        answer.contains(r#""name":"a","role":"node""#) && answer.contains(r#""role":"manager""#),
        "{answer}"
    );
    let answer = ask("/metrics");
    let line = r#"patchbay_certificate_seconds_left{role="node",name="a"} 86"#;
    assert!(answer.contains(line) || answer.contains("name=\"a\"} 85"), "{answer}");
    // The Manager's certificate ends within days: that is an event.
    manager.wait("it is told", |log| log.contains("is valid until"));
    let answer = ask("/v1/events");
    assert!(answer.contains("certificate-expires"), "{answer}");
    let mut plain = TcpStream::connect(http).expect("it listens");
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    manager.wait("plain HTTP is told", |log| log.contains("HTTPS: the client does not speak TLS here"));
}
