//! The `patchbay` command: what people ask of the Manager.

mod certs;
mod client;
mod control;
mod doctor;
mod events;
mod flows;
mod graph;
mod history;
mod https;
mod login;
mod logs;
mod node_commands;
mod output;
mod parse;
mod sessions;
mod tables;
mod unix;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use certs::Certs;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use client::{Client, Failure};
use control::{Close, Drain, Forget, Move, Redirect, Scale, Stop, Undrain};
use events::Events;
use flows::Flows;
use graph::{Apply, Plan};
use history::History;
use https::Https;
use logs::Logs;
use node_commands::{Exec, Trace};
use output::Output;
use patchbay_api as api;
use sessions::Sessions;

/// Talks to the Patchbay Manager.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  patchbay exec -- sh -c 'redis-server & redis-benchmark; redis-cli shutdown'\n  patchbay apply social.toml\n  patchbay sessions --app social\n  \
                  patchbay events --follow\n  patchbay --output json nodes\n  patchbay completions bash > /etc/bash_completion.d/patchbay"
)]
struct Arguments {
    /// Where the Manager is: unix:FILE on this machine, https://HOST:PORT elsewhere (see `patchbay login`)
    #[arg(
        long,
        global = true,
        env = "PATCHBAY_MANAGER",
        default_value_t = parse::At::Socket(api::SOCKET.into()),
        value_parser = parse::manager,
        value_name = "WHERE"
    )]
    manager: parse::At,
    /// How long a Manager that does not answer yet is waited for, as in 30s
    #[arg(long, global = true, default_value = "5s", value_parser = humantime::parse_duration, value_name = "TIME")]
    connect_timeout: Duration,
    /// Tables for people, JSON for programs
    #[arg(long, global = true, default_value = "table", value_enum)]
    output: Output,
    #[command(flatten)]
    https: Https,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run a program and its children with redirection between them; needs no Manager
    #[command(
        after_help = "Examples:\n  patchbay exec -- ./my-test.sh\n  patchbay exec --always --report r.json -- make bench"
    )]
    Exec(Exec),
    /// Show the messages of a session of this node
    Trace(Trace),
    /// Apply a graph: start the application, or change it to what the graph says
    Apply(Apply),
    /// Show what `apply` would change; ends with 0 when that is nothing, with 2 when it is something
    Plan(Plan),
    /// List applications and their services
    Apps,
    /// List nodes
    Nodes,
    /// List instances
    Instances(Filter),
    /// List sessions with their path: in the kernel, or over TCP and why
    Sessions(Sessions),
    /// Show what happened
    Events(Events),
    /// Show sessions of this node's pods as they begin and end, in Hubble's form; needs no Manager
    Flows(Flows),
    /// Show what became of a session, an instance or a node, also after it has ended
    History(History),
    /// Show what instances wrote to their standard output and error, from any node
    Logs(Logs),
    /// Stop an application, or one instance
    Stop(Stop),
    /// Ask for the end of sessions: one, all of an abstract connection, or all of an instance
    Close(Close),
    /// Send further messages of sessions over TCP, or through the kernel again, interrupting nothing
    Redirect(Redirect),
    /// Move an instance to another node: the new one first, then its sessions a few at a time
    Move(Move),
    /// Move everything away from a node and execute nothing there
    Drain(Drain),
    /// Execute on a node again
    Undrain(Undrain),
    /// Forget a lost node, so that another agent may be it
    Forget(Forget),
    /// Set how many instances a service has, until it is set again
    Scale(Scale),
    /// Show the Manager's version and counts
    Status,
    /// Look at this machine and at the Manager, and say what to do about what is not as it should be
    #[command(after_help = doctor::HELP)]
    Doctor,
    /// Make, renew, revoke and show the certificates of the Manager, nodes and people; needs no Manager
    #[command(after_help = certs::HELP)]
    Certs(Certs),
    /// Keep the token for a Manager over TCP, read from the standard input
    #[command(
        after_help = "Example:\n  patchbay --manager https://manager:55580 --ca ca.pem login < token\n\n\
                            PATCHBAY_TOKEN goes before what is kept. `patchbay-manager token FILE` makes tokens."
    )]
    Login,
    /// Forget the token for a Manager
    Logout,
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
struct Filter {
    /// Only of this application
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// The ended ones too
    #[arg(long)]
    ended: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        // Whoever reads has seen enough.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", api::visible_lines(&failure.to_string()));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let output = arguments.output;
    if let Task::Certs(certs) = &arguments.task {
        return certs.run(output);
    }
    let client = Client::new(&arguments.manager, arguments.connect_timeout, &arguments.https)?;
    let done = match &arguments.task {
        Task::Exec(exec) => Err(exec.run()),
        Task::Trace(trace) => trace.run(&client),
        Task::Apply(apply) => apply.run(&client, output),
        Task::Plan(plan) => return plan.run(&client, output),
        Task::Apps => output.list(&client.get::<Vec<api::App>>("/v1/apps")?, tables::apps),
        Task::Nodes => output.list(&client.get::<Vec<api::Node>>("/v1/nodes")?, tables::nodes),
        Task::Instances(filter) => {
            let instances =
                client.pages(&filter.path("instances"), |instance: &api::Instance| instance.id)?;
            filter.check(&client, instances.is_empty())?;
            output.list(&instances, tables::instances)
        }
        Task::Sessions(sessions) => sessions.run(&client, output),
        Task::Events(events) => events.run(&client, output),
        Task::Flows(flows) => flows.run(),
        Task::History(history) => history.run(&client, output),
        Task::Logs(logs) => logs.run(&client, output),
        Task::Stop(stop) => stop.run(&client, output),
        Task::Close(close) => close.run(&client, output),
        Task::Redirect(redirect) => redirect.run(&client, output),
        Task::Move(move_) => move_.run(&client, output),
        Task::Drain(drain) => drain.run(&client, output),
        Task::Undrain(undrain) => undrain.run(&client, output),
        Task::Forget(forget) => forget.run(&client, output),
        Task::Scale(scale) => scale.run(&client, output),
        Task::Certs(certs) => return certs.run(output),
        Task::Doctor => return doctor::run(&client, output),
        Task::Status => output.show(&client.get::<api::ManagerStatus>("/v1/status")?, tables::status),
        Task::Login => login::login(over_tcp(&arguments.manager)?, &arguments.https),
        Task::Logout => login::logout(over_tcp(&arguments.manager)?),
        Task::Completions { shell } => {
            clap_complete::generate(*shell, &mut Arguments::command(), "patchbay", &mut std::io::stdout());
            Ok(())
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Only Managers over TCP have tokens.
fn over_tcp(manager: &parse::At) -> Result<&str, Failure> {
    match manager {
        parse::At::Url(url) => Ok(url),
        parse::At::Socket(path) => Err(Failure::Said(format!(
            "{} needs no token; name a Manager over TCP with --manager https://HOST:PORT",
            path.display()
        ))),
    }
}

impl Filter {
    fn path(&self, what: &str) -> String {
        let app = self.app.as_ref().map(|app| format!("&app={app}")).unwrap_or_default();
        format!("/v1/{what}?ended={}{app}", self.ended)
    }

    /// Where nothing was found, that there is such an application at all.
    fn check(&self, client: &Client, is_empty: bool) -> Result<(), Failure> {
        let Some(name) = self.app.as_ref().filter(|_| is_empty) else { return Ok(()) };
        let apps: Vec<api::App> = client.get("/v1/apps")?;
        match apps.iter().any(|app| app.name == *name) {
            true => Ok(()),
            false => {
                Err(Failure::Said(format!("there is no application `{name}`; `patchbay apps` lists them")))
            }
        }
    }
}

/// Reads a graph file, or the standard input for `-`.
fn read_graph(file: &Path) -> Result<String, Failure> {
    let read = match file == Path::new("-") {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(file),
    };
    read.map_err(|error| {
        let reason = match error.kind() {
            std::io::ErrorKind::InvalidData => "it is no text in UTF-8".to_owned(),
            _ => error.to_string(),
        };
        Failure::Said(format!("the graph {} can't be read: {reason}", file.display()))
    })
}
