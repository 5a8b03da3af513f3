//! The HTTP API as those meet it who are not invited: idle and slow connections, web pages, no token. The real
//! program, over its socket and over TCP.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take to come true.
const WITHIN: Duration = Duration::from_secs(20);

struct Manager {
    process: Child,
    folder: TempDir,
    http: SocketAddr,
    change: String,
    read: String,
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_patchbay-manager"));
    command.stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

fn token(file: &std::path::Path, flags: &[&str]) -> String {
    let output = program().arg("token").arg(file).args(flags).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl Manager {
    fn start() -> Self {
        Self::start_in(TempDir::new().expect("a folder"))
    }

    fn start_in(folder: TempDir) -> Self {
        let tokens = folder.path().join("tokens");
        let (change, read) = (token(&tokens, &[]), token(&tokens, &["--read-only"]));
        let http = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        let process = program()
            .args(["--listen-agents=127.0.0.1:0", "--listen-http", &http.to_string()])
            .arg("--tokens")
            .arg(&tokens)
            .arg("--socket")
            .arg(folder.path().join("manager.sock"))
            .arg("--database")
            .arg(folder.path().join("manager.db"))
            .stderr(log)
            .spawn()
            .expect("built");
        let manager = Self { process, folder, http, change, read };
        let begun = Instant::now();
        while !manager.log().contains(" ready ") {
            assert!(begun.elapsed() < WITHIN, "{}", manager.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        manager
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("manager.sock")
    }

    /// The answer over TCP, from an address of this host's.
    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.http).expect("it listens");
        exchange(&mut stream, request)
    }

    fn ask_at_socket(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).expect("it listens");
        stream.set_read_timeout(Some(WITHIN)).expect("set");
        stream.write_all(request.as_bytes()).expect("sent");
        read(&mut stream)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn exchange(stream: &mut TcpStream, request: &str) -> String {
    stream.set_read_timeout(Some(WITHIN)).expect("set");
    stream.write_all(request.as_bytes()).expect("sent");
    read(stream)
}

fn read(stream: &mut impl std::io::Read) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// A request whose connection ends behind its answer.
fn request(method: &str, path: &str, headers: &[String], body: &str) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!(
        "{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

fn bearer(token: &str) -> Vec<String> {
    vec![
        "host: 127.0.0.1".into(),
        format!("authorization: Bearer {token}"),
        "content-type: application/json".into(),
    ]
}

#[test]
fn over_tcp_nobody_does_anything_without_a_token() {
    let manager = Manager::start();
    let host = "host: 127.0.0.1".to_owned();
    assert_eq!(status(&manager.ask(&request("GET", "/v1/status", std::slice::from_ref(&host), ""))), 401);
    assert_eq!(status(&manager.ask(&request("GET", "/metrics", &[host], ""))), 401);
    assert_eq!(status(&manager.ask(&request("GET", "/v1/status", &bearer("guessed"), ""))), 401);
    assert_eq!(status(&manager.ask(&request("GET", "/v1/status", &bearer(&manager.read), ""))), 200);
    let stop = |token: &str| manager.ask(&request("POST", "/v1/apps/none/stop", &bearer(token), ""));
    let refused = stop(&manager.read);
    assert!(status(&refused) == 403 && refused.contains("may only read"), "{refused}");
    assert_eq!(status(&stop(&manager.change)), 404, "it may, but there is no such application");
    // At the socket its mode decides.
    assert_eq!(status(&manager.ask_at_socket(&request("GET", "/v1/status", &["host: x".into()], ""))), 200);
    let about = fs::metadata(manager.socket()).expect("there");
    assert!(about.file_type().is_socket() && about.permissions().mode() & 0o777 == 0o660);
}

#[test]
fn a_token_that_is_added_or_removed_counts_after_sighup() {
    let manager = Manager::start();
    let tokens = manager.folder.path().join("tokens");
    let new = token(&tokens, &[]);
    let asks = |token: &str| status(&manager.ask(&request("GET", "/v1/status", &bearer(token), "")));
    assert_eq!(asks(&new), 401);
    let hang_up = || {
        let process = nix::unistd::Pid::from_raw(manager.process.id().cast_signed());
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGHUP).expect("it runs");
    };
    let wait = |expected: u16, token: &str| {
        let begun = Instant::now();
        while asks(token) != expected {
            assert!(begun.elapsed() < WITHIN, "{}", manager.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    hang_up();
    wait(200, &new);
    fs::write(&tokens, format!("change {new}\n")).expect("written");
    hang_up();
    wait(401, &manager.change);
    assert_eq!(asks(&new), 200);
}

#[test]
fn a_web_page_can_not_drive_the_manager() {
    let manager = Manager::start();
    let with = |extra: &[&str]| {
        let mut headers = bearer(&manager.change);
        headers.retain(|header| !extra.iter().any(|e| e.split(':').next() == header.split(':').next()));
        headers.extend(extra.iter().map(ToString::to_string));
        status(&manager.ask(&request("POST", "/v1/apps/none/stop", &headers, "")))
    };
    assert_eq!(with(&[]), 404);
    assert_eq!(with(&["host: evil.example"]), 421, "a name that was made to lead here");
    assert_eq!(with(&["origin: http://evil.example"]), 403);
    assert_eq!(with(&["origin: null"]), 403);
    assert_eq!(with(&["sec-fetch-site: cross-site"]), 403);
    assert_eq!(with(&["content-type: text/plain"]), 415, "a form can say that");
    assert_eq!(with(&["content-type: application/x-www-form-urlencoded"]), 415);
}

#[test]
fn whatever_is_wrong_is_said_in_json() {
    let manager = Manager::start();
    for path in ["/v1/sessions?limit=-1", "/v1/instances?ended=perhaps", "/v1/instances/x/log", "/v1/none"] {
        let answer = manager.ask_at_socket(&request("GET", path, &["host: x".into()], ""));
        assert!(matches!(status(&answer), 400 | 404), "{answer}");
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let error: patchbay_api::Error = serde_json::from_str(body).expect("JSON");
        assert!(!error.message.is_empty(), "{answer}");
    }
}

/// Nobody keeps others out by connecting and saying nothing, from one address or from several.
#[test]
fn who_connects_and_says_nothing_keeps_nobody_out() {
    let manager = Manager::start();
    let idle: Vec<TcpStream> = (0..600).filter_map(|_| TcpStream::connect(manager.http).ok()).collect();
    let answer = manager.ask(&request("GET", "/v1/status", &bearer(&manager.read), ""));
    assert_eq!(status(&answer), 200, "{answer}");
    drop(idle);
}

#[test]
fn idle_and_slow_connections_stop_nobody_and_end_in_time() {
    let manager = Manager::start();
    let mut idle: Vec<TcpStream> = (0..1_100).filter_map(|_| TcpStream::connect(manager.http).ok()).collect();
    let mut idle_users: Vec<UnixStream> =
        (0..60).filter_map(|_| UnixStream::connect(manager.socket()).ok()).collect();
    let ok = |answer: String| assert_eq!(status(&answer), 200, "{answer}");
    let of_status = || request("GET", "/v1/status", &bearer(&manager.read), "");
    ok(manager.ask_at_socket(&of_status()));
    // Another address of this host's has its own places.
    let other = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::empty(),
        None,
    )
    .expect("a socket");
    use std::os::fd::AsRawFd as _;
    let from = nix::sys::socket::SockaddrIn::new(127, 0, 0, 2, 0);
    nix::sys::socket::bind(other.as_raw_fd(), &from).expect("bound");
    let to = nix::sys::socket::SockaddrIn::new(127, 0, 0, 1, manager.http.port());
    nix::sys::socket::connect(other.as_raw_fd(), &to).expect("connected");
    ok(exchange(&mut TcpStream::from(other), &of_status()));
    // One that sends its head, or its body, byte by byte is ended too.
    idle.clear();
    idle_users.clear();
    std::thread::sleep(Duration::from_millis(300));
    let mut slow = TcpStream::connect(manager.http).expect("there is room again");
    let mut slow_body = TcpStream::connect(manager.http).expect("there is room again");
    let headers = bearer(&manager.change).join("\r\n").replace("json", "toml");
    let head = format!("PUT /v1/apps HTTP/1.1\r\ncontent-length: 1000\r\n{headers}\r\n\r\n");
    slow_body.write_all(head.as_bytes()).expect("sent");
    let begun = Instant::now();
    for stream in [&slow, &slow_body] {
        stream.set_read_timeout(Some(Duration::from_millis(10))).expect("set");
    }
    let (mut slow_ended, mut body_answer) = (false, Vec::new());
    while !slow_ended || status(&String::from_utf8_lossy(&body_answer)) == 0 {
        assert!(begun.elapsed() < WITHIN, "they are still served after {:?}", begun.elapsed());
        let _ = slow.write_all(b"G");
        let _ = slow_body.write_all(b"a");
        let mut bytes = [0; 1024];
        match slow.read(&mut bytes) {
            Ok(0) => slow_ended = true,
            Ok(_) => {}
            Err(error) => slow_ended |= error.kind() == std::io::ErrorKind::ConnectionReset,
        }
        if let Ok(read) = slow_body.read(&mut bytes) {
            body_answer.extend(&bytes[..read]);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(status(&String::from_utf8_lossy(&body_answer)), 408);
    ok(manager.ask(&of_status()));
}

fn refused(folder: &TempDir, flags: &[&str]) -> String {
    let Output { status, stderr, .. } = program()
        .args(["--listen-agents=127.0.0.1:0", "--socket"])
        .arg(folder.path().join("manager.sock"))
        .arg("--database")
        .arg(folder.path().join("manager.db"))
        .args(flags)
        .output()
        .expect("it runs");
    assert!(!status.success());
    String::from_utf8_lossy(&stderr).into_owned()
}

#[test]
fn without_tokens_it_does_not_listen_over_tcp() {
    let folder = TempDir::new().expect("a folder");
    for address in ["0.0.0.0:0", "[::]:0", "127.0.0.1:0"] {
        let said = refused(&folder, &["--listen-http", address]);
        assert!(said.contains("needs --tokens") && said.contains("patchbay-manager token"), "{said}");
    }
    let tokens = folder.path().join("tokens");
    token(&tokens, &[]);
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o644)).expect("set");
    let tokens = tokens.display().to_string();
    assert!(refused(&folder, &["--listen-http=127.0.0.1:0", "--tokens", &tokens]).contains("chmod 600"));
}

#[test]
fn a_second_manager_with_this_socket_is_refused() {
    let manager = Manager::start();
    let other = TempDir::new().expect("a folder");
    let socket = manager.socket().display().to_string();
    let said = refused_at(&other, &socket);
    assert!(
        said.contains(&format!("process {}", manager.process.id())) && said.contains("--socket"),
        "{said}"
    );
}

/// A database that another Manager's port kept from being used would be another, empty Manager's at its next start.
#[test]
fn who_finds_its_port_taken_makes_no_database() {
    let folder = TempDir::new().expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = taken.local_addr().expect("bound").to_string();
    let output = program()
        .args(["--listen-agents", &at, "--socket"])
        .arg(folder.path().join("manager.sock"))
        .arg("--database")
        .arg(folder.path().join("manager.db"))
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--listen-agents"), "{said}");
    assert!(!folder.path().join("manager.db").exists(), "{said}");
}

#[test]
fn a_manager_that_was_told_to_end_leaves_its_database_whole_in_one_file() {
    let mut manager = Manager::start();
    let graph = include_str!("../../examples/hello/hello.toml");
    let (status, said) = sent(&manager, "PUT", "/v1/apps", graph);
    assert_eq!(status, 200, "{said}");
    // A person follows events: their connection must not keep the database open.
    let mut follows = follow(&manager, "follow=true");
    assert!(follows.next().is_some());
    let id = nix::unistd::Pid::from_raw(manager.process.id().cast_signed());
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).expect("sent");
    assert!(manager.process.wait().expect("it ends").success(), "{}", manager.log());
    let database = manager.folder.path().join("manager.db");
    assert!(!database.with_extension("db-wal").exists(), "{}", manager.log());
    // As somebody copies it who does not know of other files.
    let copy = TempDir::new().expect("a folder");
    fs::copy(&database, copy.path().join("manager.db")).expect("copied");
    let again = Manager::start_in(copy);
    let apps = again.ask_at_socket(&request("GET", "/v1/apps", &["host: x".into()], ""));
    assert!(apps.contains("\"hello\""), "{apps}");
}

fn refused_at(folder: &TempDir, socket: &str) -> String {
    let output = program()
        .args(["--listen-agents=127.0.0.1:0", "--socket", socket, "--database"])
        .arg(folder.path().join("manager.db"))
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// As many events as an earlier Manager may have left.
const KEPT: u64 = 25_000;

/// Returns the time of the first one.
fn with_events(folder: &TempDir) -> u64 {
    use patchbay_manager_core::Effect;
    let mut store = patchbay_manager::store::Store::open(&folder.path().join("manager.db")).expect("opened");
    let begin = patchbay_manager::shell::now() - 2 * KEPT;
    let event = |number| patchbay_api::Event {
        sequence: 0,
        at_ms: begin + number,
        kind: if number % 2 == 0 { "even" } else { "odd" }.into(),
        subject: format!("number {number}"),
        text: String::new(),
    };
    let mut effects: Vec<Effect> = (0..KEPT).map(|number| Effect::Publish(event(number))).collect();
    store.write(&mut effects).expect("written");
    begin
}

/// Events as they come, from one long answer.
fn follow(manager: &Manager, query: &str) -> impl Iterator<Item = patchbay_api::Event> + use<> {
    let mut stream = UnixStream::connect(manager.socket()).expect("it listens");
    stream.set_read_timeout(Some(WITHIN)).expect("set");
    stream.write_all(format!("GET /v1/events?{query} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).expect("sent");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(stream));
    lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok())
}

#[test]
fn events_come_in_their_order_without_a_gap_however_many_there_are() {
    let folder = TempDir::new().expect("a folder");
    let begin = with_events(&folder);
    let manager = Manager::start_in(folder);
    let agents = manager.log();
    let agents =
        agents.split("agents=").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("told");
    let flapping = |times: usize| {
        for number in 0..times {
            let mut agent = TcpStream::connect(agents).expect("it listens");
            let text = format!(
                "type: initiation_request ~ message_id: 1 ~ agent_network_address: 127.0.0.{} ~ service_repository: ()\n",
                2 + number % 200
            );
            agent.set_read_timeout(Some(WITHIN)).expect("set");
            agent.write_all(text.as_bytes()).expect("sent");
            let _ = agent.read(&mut [0; 512]);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| flapping(400));
        let wanted = KEPT + 300;
        let numbers = follow(&manager, "follow=true").map(|event| event.sequence).take(wanted as usize);
        assert!(numbers.eq(1..=wanted), "a number is missing, or not in its place");
    });
    // What is asked for is told whole, and ends.
    let request = |query: &str| {
        let path = format!("/v1/events?{query}");
        manager.ask_at_socket(&request("GET", &path, &["host: x".into()], ""))
    };
    assert_eq!(request("kind=odd").matches("\"kind\":\"odd\"").count(), KEPT as usize / 2);
    assert_eq!(
        request(&format!("kind=odd,even&since_ms={}", begin + KEPT - 10)).matches("\"sequence\"").count(),
        10
    );
    assert_eq!(request("subject=number%20123&kind=odd").matches("\"sequence\"").count(), 5 + 50 + 1);
}

const GRAPH: &str = include_str!("../../manager-core/src/tests/gate-store.toml");

fn sent(manager: &Manager, method: &str, path: &str, graph: &str) -> (u16, String) {
    let headers = ["host: x".to_owned(), "content-type: application/toml".to_owned()];
    let answer = manager.ask_at_socket(&request(method, path, &headers, graph));
    (status(&answer), answer)
}

#[test]
fn a_plan_is_carried_out_as_it_was_seen_or_not_at_all() {
    let manager = Manager::start();
    let plan = |graph: &str| {
        let (status, answer) = sent(&manager, "POST", "/v1/plan", graph);
        assert_eq!(status, 200, "{answer}");
        let body = answer.split_once("\r\n\r\n").expect("a body").1;
        serde_json::from_str::<patchbay_api::Plan>(body).expect("a plan").seen
    };
    let apply = |seen: &str, graph: &str| sent(&manager, "PUT", &format!("/v1/apps?seen={seen}"), graph);
    let other = GRAPH.replace("8080", "8081");
    let (first, changed) = (plan(GRAPH), plan(&other));
    assert_ne!(first, changed);
    assert_eq!(plan(GRAPH), first, "nothing has happened");
    assert_eq!(apply(&first, &other).0, 409, "another graph than the plan's");
    assert_eq!(apply(&first, GRAPH).0, 200);
    // Somebody else has applied meanwhile.
    let (status, answer) = apply(&changed, &other);
    assert!(status == 409 && answer.contains("plan again"), "{answer}");
    assert_eq!(apply(&plan(&other), &other).0, 200);
}
