//! A pair of proxies, one beside each end, as a service mesh puts them.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::way::Way;
use crate::case::Bench;
use crate::lab::{Place, Program, Role, Running, end_processes};

/// Where the source's proxy listens, for the source.
pub const SOURCE_PORT: u16 = 2_001;
/// Where the destination's proxy listens, for the source's.
const DESTINATION_PORT: u16 = 2_002;
/// How long a proxy may take to listen.
const READY_WITHIN: Duration = Duration::from_secs(5);

/// Both proxies, until this is dropped.
pub struct Sidecars {
    running: Vec<Running>,
    cgroups: [PathBuf; 2],
    /// How they were started, as somebody would type it.
    pub lines: Vec<String>,
}

impl Sidecars {
    /// Starts both in front of a port of the destination.
    ///
    /// # Errors
    /// A proxy does not start.
    pub fn start(bench: &Bench<'_>, place: Place, way: Way, port: u16) -> Result<Self> {
        let mut sidecars = Self {
            running: Vec::new(),
            cgroups: [Role::SourceSidecar, Role::DestinationSidecar].map(|role| bench.lab.cgroup(role)),
            lines: Vec::new(),
        };
        let destination = place.address(Role::DestinationSidecar);
        let wanted = [
            (Role::DestinationSidecar, DESTINATION_PORT, format!("{destination}:{port}")),
            (Role::SourceSidecar, SOURCE_PORT, format!("{destination}:{DESTINATION_PORT}")),
        ];
        for (role, listen, to) in wanted {
            let program = match way {
                Way::Haproxy => haproxy(bench, place, role, listen, &to)?,
                _ => nginx(bench, place, role, listen, &to)?,
            };
            sidecars.lines.push(program.line());
            let running = program.start()?;
            wait_until_listening(&running, listen)?;
            sidecars.running.push(running);
        }
        Ok(sidecars)
    }
}

impl Drop for Sidecars {
    fn drop(&mut self) {
        // With their workers, which a killed nginx would leave.
        for cgroup in &self.cgroups {
            if let Err(error) = end_processes(cgroup) {
                eprintln!("error: proxies go on running: {error:#}");
            }
        }
    }
}

/// A file of a proxy.
fn file(bench: &Bench<'_>, name: &str, role: Role) -> PathBuf {
    let end = if role == Role::SourceSidecar { "source" } else { "destination" };
    bench.lab.folder().join(format!("{name}-{end}"))
}

fn haproxy(bench: &Bench<'_>, place: Place, role: Role, listen: u16, to: &str) -> Result<Program> {
    let configuration = file(bench, "haproxy", role).with_extension("cfg");
    fs::write(
        &configuration,
        format!(
            "global\n  maxconn 8192\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  \
             timeout server 60s\nlisten sidecar\n  bind :{listen}\n  server end {to}\n"
        ),
    )?;
    Ok(bench.lab.program(role, place, "haproxy").arg("-db").arg("-f").arg(&configuration))
}

fn nginx(bench: &Bench<'_>, place: Place, role: Role, listen: u16, to: &str) -> Result<Program> {
    let folder = file(bench, "nginx", role);
    fs::create_dir_all(&folder)?;
    let configuration = folder.join("nginx.conf");
    // Debian builds the stream module as one to load; elsewhere it may be built in.
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let load = if fs::exists(module)? { format!("load_module {module};\n") } else { String::new() };
    fs::write(
        &configuration,
        format!(
            "{load}daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/error.log;\n\
             worker_rlimit_nofile 16384;\nevents {{ worker_connections 8192; }}\n\
             stream {{ server {{ listen {listen} backlog=4096; proxy_pass {to}; tcp_nodelay on; }} }}\n",
            folder = folder.display()
        ),
    )?;
    Ok(bench.lab.program(role, place, "nginx").arg("-p").arg(&folder).arg("-c").arg(&configuration))
}

/// Waits for the port without connecting to it: a connection would go on to the destination.
pub fn wait_until_listening(running: &Running, port: u16) -> Result<()> {
    let begun = Instant::now();
    let wanted = format!(":{port:04X} ");
    loop {
        let tables =
            ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{}/net/{table}", running.id())));
        let mut lines = tables.iter().flatten().flat_map(|table| table.lines());
        let listens = |line: &str| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next().unwrap_or_default();
            format!("{local} ").ends_with(&wanted) && fields.nth(1) == Some("0A")
        };
        if lines.any(listens) {
            return Ok(());
        }
        if begun.elapsed() > READY_WITHIN {
            bail!("nobody listens at port {port} after {} s: `{}`", READY_WITHIN.as_secs(), running.line());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
