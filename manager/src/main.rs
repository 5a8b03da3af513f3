//! The Manager's program: flags, logs, listeners.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use hickory_server::proto::rr::Name;
use patchbay_logging::LogFormat;
use patchbay_manager::certificates::{Certificates, not_plain};
use patchbay_manager::dns::{Listeners, Names, Zone};
use patchbay_manager::http::gate::Gate;
use patchbay_manager::http::socket::Socket;
use patchbay_manager::http::tokens::Tokens;
use patchbay_manager::maintenance::Task;
use patchbay_manager::shell::Input;
use patchbay_manager::store::{ENDED_WITHIN, Fsync, History, Kept, Store, TRY_EVERY};
use patchbay_manager::{http, managers_file, server, shell};
use patchbay_manager_core::{Config, Core};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

/// What is logged unless RUST_LOG says otherwise; hickory's server would tell of every query.
const DEFAULT_FILTER: &str = "info,hickory_server=warn,hickory_net=warn,hickory_proto=warn";

/// Where the database is unless said otherwise: always the same one, from wherever the Manager is started.
const DATABASE: &str = "/var/lib/patchbay/manager.db";
/// How long the core may take to write what it has said and to close the database when the Manager ends.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// The Patchbay Manager: executes applications through the agents and configures their sessions.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  patchbay-manager --database /var/lib/patchbay/manager.db\n  \
                  patchbay-manager token /etc/patchbay/tokens && patchbay-manager --listen-http 10.0.0.1:55580 --tokens /etc/patchbay/tokens\n  \
                  patchbay-manager backup --database /var/lib/patchbay/manager.db /backups/manager.db"
)]
struct Arguments {
    /// Without one, the Manager runs
    #[command(subcommand)]
    task: Option<Task>,
    /// Where agents connect [default: [::]:55555 with --certificates or --plain, else 127.0.0.1:55555]
    #[arg(long, env = "PATCHBAY_LISTEN_AGENTS", value_name = "ADDRESS:PORT")]
    listen_agents: Option<SocketAddr>,
    /// What the Manager proves itself with to agents and people, and checks agents with: ca.pem, cert.pem, key.pem,
    /// revoked.crl, made by `patchbay certs init`; read again on SIGHUP
    #[arg(long, env = "PATCHBAY_CERTIFICATES", value_name = "FOLDER")]
    certificates: Option<PathBuf>,
    /// Let agents of other machines connect without TLS, whoever they say they are
    #[arg(long, env = "PATCHBAY_PLAIN", conflicts_with = "certificates")]
    plain: bool,
    /// Where people and the `patchbay` command on this machine connect: root and the group `patchbay` may
    #[arg(long, env = "PATCHBAY_SOCKET", default_value = http::socket::PATH, value_name = "FILE")]
    socket: PathBuf,
    /// Where people on other machines connect; nowhere if absent; needs --tokens
    #[arg(long, env = "PATCHBAY_LISTEN_HTTP", value_name = "ADDRESS:PORT")]
    listen_http: Option<SocketAddr>,
    /// What lets people in over TCP: lines `change TOKEN` and `read TOKEN`, made by `patchbay-manager token`; read
    /// again on SIGHUP
    #[arg(long, env = "PATCHBAY_TOKENS", value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// A name of this host that people use over TCP, besides its addresses; may be said several times
    #[arg(long, env = "PATCHBAY_HTTP_NAME", value_delimiter = ',', value_name = "NAME")]
    http_name: Vec<String>,
    /// Where the gateways' names are answered, over UDP and TCP; nowhere if absent
    #[arg(long, env = "PATCHBAY_LISTEN_DNS", value_name = "ADDRESS:PORT")]
    listen_dns: Option<SocketAddr>,
    /// The zone of the names: users resolve GATEWAY.APP.ZONE
    #[arg(long, env = "PATCHBAY_DNS_ZONE", default_value = "patchbay.internal", value_parser = zone, value_name = "ZONE")]
    dns_zone: Name,
    /// How long resolvers may keep an answer, in seconds
    #[arg(long, env = "PATCHBAY_DNS_TTL", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=300), value_name = "SECONDS")]
    dns_ttl: u32,
    /// The SQLite database; a Manager that starts makes it if it is not there. It says who this Manager is: agents give what
    /// runs to no other one
    #[arg(
        long,
        global = true,
        env = "PATCHBAY_DATABASE",
        default_value = DATABASE,
        value_name = "FILE"
    )]
    database: PathBuf,
    /// Which changes are forced to the disk before anything is said of them
    ///
    /// A crash of the Manager loses nothing either way. After a power cut, `instances` may have lost the
    /// sessions and events of the last moments, never an application or an instance; `all` nothing that was
    /// said, at one forced write for each group of sessions.
    #[arg(long, env = "PATCHBAY_FSYNC", default_value = "instances", value_enum)]
    fsync: Fsync,
    /// How long ended instances, sessions and events are kept for questions, as in 12h or 7days
    #[arg(long, env = "PATCHBAY_KEEP_HISTORY", default_value = "7days", value_parser = humantime::parse_duration, value_name = "TIME")]
    keep_history: Duration,
    /// How many instances, sessions and events are kept at most, of each, the newest ones
    #[arg(long, env = "PATCHBAY_KEEP_ROWS", default_value_t = 1_000_000, value_parser = number, value_name = "ROWS")]
    keep_rows: u64,
    /// What each of several Managers owns; without it this one owns everything
    #[arg(long, env = "PATCHBAY_MANAGERS", requires = "name", value_name = "FILE")]
    managers: Option<PathBuf>,
    /// Which of them this one is
    #[arg(long, env = "PATCHBAY_MANAGER_NAME", requires = "managers", value_name = "NAME")]
    name: Option<String>,
    /// How long an instance may take to start, in seconds
    #[arg(long, default_value_t = 30, value_parser = number, value_name = "SECONDS")]
    start_timeout: u64,
    /// How long an instance may take to shut down before it is forced, in seconds
    #[arg(long, default_value_t = 10, value_parser = number, value_name = "SECONDS")]
    shutdown_timeout: u64,
    /// Pause between two polls of an agent or instance, in seconds
    #[arg(long, default_value_t = 5, value_parser = number, value_name = "SECONDS")]
    health_interval: u64,
    /// A regular instance without sessions for so long is shut down, in seconds
    #[arg(long, default_value_t = 600, value_parser = number, value_name = "SECONDS")]
    idle_timeout: u64,
    /// How long a lost agent may take to return before its instances count as lost, in seconds
    #[arg(long, default_value_t = 15, value_parser = number, value_name = "SECONDS")]
    agent_grace: u64,
    /// Older dialects that agents may speak besides SSMMP/1.1; they are answered in kind
    #[arg(long, value_enum, value_name = "DIALECT")]
    accept_dialect: Vec<Dialect>,
    /// Connections of agents from one address; further ones are closed
    #[arg(long, default_value_t = server::Options::default().max_per_address, value_name = "CONNECTIONS")]
    max_connections_per_address: usize,
    /// Log lines for people or for programs
    #[arg(long, default_value = "text", value_enum)]
    log_format: LogFormat,
}

/// A dialect besides SSMMP/1.1.
#[derive(Clone, PartialEq, clap::ValueEnum)]
enum Dialect {
    /// Fields joined by `;`, as the public Java implementation sends them
    Semi,
}

impl Arguments {
    /// Where agents connect.
    fn agents_at(&self) -> SocketAddr {
        let beyond = self.certificates.is_some() || self.plain;
        let usual = if beyond { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::LOCALHOST.into() };
        self.listen_agents.unwrap_or_else(|| SocketAddr::new(usual, ssmmp::MANAGER_PORT))
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.task {
        Some(task) => task.run(&arguments.database),
        None => run_manager(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_manager(arguments: Arguments) -> Result<()> {
    patchbay_logging::start(arguments.log_format, DEFAULT_FILTER);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("the runtime can't be started")?;
    let core = runtime.block_on(run(arguments))?;
    // Nobody has anything more for the core: it writes what is left, then the database is closed, whole in its one file.
    runtime.shutdown_timeout(CLOSED_WITHIN);
    let begun = Instant::now();
    while !core.is_finished() && begun.elapsed() < CLOSED_WITHIN {
        std::thread::sleep(TRY_EVERY);
    }
    match core.is_finished() {
        true => info!("ended; the database is closed"),
        false => warn!("the database could not be closed in time: what was said last is in its -wal file"),
    }
    Ok(())
}

/// Serves until it is told to end. Returns the core's thread, which ends when nobody has anything for it.
async fn run(arguments: Arguments) -> Result<JoinHandle<()>> {
    let certificates = arguments.certificates.clone().map(Certificates::open).transpose()?;
    let at = arguments.agents_at();
    if let (None, Some(refusal)) = (&certificates, not_plain(at, arguments.plain)) {
        anyhow::bail!(refusal);
    }
    // A port or a socket that is another's is found before there is a database.
    let agents = listen(at, "--listen-agents").await?;
    let (socket, users) = Socket::listen(&arguments.socket).context("people can't be served")?;
    let users = UnixListener::from_std(users)?;
    let tokens = arguments.tokens.as_deref().map(Tokens::read).transpose()?;
    let people = match arguments.listen_http {
        Some(_) if tokens.is_none() => anyhow::bail!(
            "--listen-http needs --tokens: whoever connects could do everything; `patchbay-manager token FILE` makes one"
        ),
        Some(address) => Some(listen(address, "--listen-http").await?),
        None => None,
    };
    let database = &arguments.database;
    let (core, store) = open(&arguments)?;
    let http = people.as_ref().map(|people| people.local_addr().map(|at| at.to_string())).transpose()?;
    info!(
        agents = %agents.local_addr()?,
        socket = %arguments.socket.display(),
        http = http.as_deref().unwrap_or("no"),
        tls = certificates.is_some(),
        database = %database.display(),
        "ready"
    );
    let names = serve_names(&arguments).await?;
    let (handle, thread) = shell::start(core, store, names).context("the core's thread can't be started")?;
    let options = server::Options {
        accept_semi: arguments.accept_dialect.contains(&Dialect::Semi),
        max_per_address: arguments.max_connections_per_address,
        certificates: certificates.clone(),
        ..server::Options::default()
    };
    let gate = Gate::new(tokens.clone(), arguments.http_name.clone());
    let routes = http::routes(&handle, History::new(database), gate, certificates.clone());
    if let Some(people) = people {
        tokio::spawn(http::serve::over_tcp(people, routes.clone(), certificates.clone()));
    }
    if let Some(certificates) = certificates.clone() {
        let handle = handle.clone();
        tokio::spawn(certificates.watch(async move |subject, text| {
            let _ = handle.deliver(Input::Notice("certificate-expires", subject, text)).await;
            handle.turn();
        }));
    }
    let mut reload = signal(SignalKind::hangup())?;
    let reloads = async move {
        while reload.recv().await.is_some() {
            read_again(tokens.as_ref(), certificates.as_ref());
        }
    };
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        () = server::serve(agents, handle.clone(), options) => {}
        () = handle.ended() => anyhow::bail!("the core has ended: this is a fault in Patchbay, please report it"),
        () = http::serve::over_socket(users, routes) => {}
        () = reloads => {}
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    info!("stopping; instances and their sessions go on");
    drop(socket);
    Ok(thread)
}

/// Opens the database and gives the core what it knows.
fn open(arguments: &Arguments) -> Result<(Core, Store)> {
    let seconds = |seconds: u64| seconds.saturating_mul(1000);
    let config = Config {
        start_timeout: seconds(arguments.start_timeout),
        shutdown_timeout: seconds(arguments.shutdown_timeout),
        health_interval: seconds(arguments.health_interval.max(1)),
        idle_timeout: seconds(arguments.idle_timeout),
        agent_grace: seconds(arguments.agent_grace),
    };
    let database = &arguments.database;
    make_folder(database)?;
    let opened = || format!("the database {} can't be used", database.display());
    let mut store = Store::open(database).with_context(opened)?;
    store.set_fsync(arguments.fsync);
    store.keep(Kept { time: arguments.keep_history, rows: arguments.keep_rows.max(1) });
    let mut core = Core::new(config, store.next_epoch().with_context(opened)?, shell::now());
    core.set_identity(store.identify(shell::now()).with_context(opened)?);
    if let (Some(file), Some(name)) = (&arguments.managers, &arguments.name) {
        core.set_ownership(managers_file::read(file, name)?);
    }
    store.restore(&mut core).with_context(opened)?;
    Ok((core, store))
}

/// Makes the usual folder; another one has to be there, so that a slip of the pen is not a Manager that knows nothing. The
/// folders of nodes are below it too: their instances' users pass through it (0711), and the database is root's (0600).
fn make_folder(database: &Path) -> Result<()> {
    let Some(folder) = database.parent().filter(|_| database == Path::new(DATABASE)) else { return Ok(()) };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(folder)
        .with_context(|| format!("{} can't be made; choose another place with --database", folder.display()))
}

/// What SIGHUP does.
fn read_again(tokens: Option<&Tokens>, certificates: Option<&Certificates>) {
    match tokens.map(Tokens::reload) {
        Some(Ok(())) => info!("the tokens were read again"),
        Some(Err(error)) => warn!("the tokens are as before: {error}"),
        None => {}
    }
    match certificates.map(Certificates::reload) {
        Some(Ok(revoked)) => info!(revoked, "the certificates were read again"),
        Some(Err(problem)) => warn!("the certificates are as before: {problem}"),
        None => {}
    }
    if tokens.is_none() && certificates.is_none() {
        info!("SIGHUP reads --tokens and --certificates again; there are none");
    }
}

/// Answers the gateways' names, if that is wanted.
async fn serve_names(arguments: &Arguments) -> Result<Option<Arc<Names>>> {
    let Some(address) = arguments.listen_dns else { return Ok(None) };
    let listeners = Listeners::bind(address)
        .await
        .with_context(|| format!("can't listen at {address}; choose another address with --listen-dns"))?;
    let zone = Zone {
        name: arguments.dns_zone.clone(),
        ttl: arguments.dns_ttl,
        server: Some(address.ip()).filter(|ip| !ip.is_unspecified()),
    };
    info!(address = %listeners.address()?, zone = %zone.name, "answering DNS");
    let names = Arc::new(Names::new(zone, (shell::now() / 1000) as u32));
    tokio::spawn(listeners.serve(names.clone()));
    Ok(Some(names))
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "it must be a whole number".to_owned())
}

/// A zone's name, absolute and in lower case.
fn zone(text: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(text).map_err(|error| format!("it is no domain name: {error}"))?;
    name.set_fqdn(true);
    if name.is_root() { Err("name a zone below the root".into()) } else { Ok(name.to_lowercase()) }
}

/// Listens, and waits for a Manager that was killed just now and has its port still.
async fn listen(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    let begun = Instant::now();
    loop {
        let waited = begun.elapsed();
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && waited < ENDED_WITHIN => {
                tokio::time::sleep(TRY_EVERY).await;
            }
            result => {
                return result.with_context(|| {
                    format!("can't listen at {address}; choose another address with {flag}")
                });
            }
        }
    }
}
