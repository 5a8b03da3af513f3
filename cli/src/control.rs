//! Commands that change what runs: each says how many sessions it interrupts, and asks.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use clap::{ArgGroup, Args, ValueEnum};
use patchbay_api as api;

use crate::client::{Client, Failure};
use crate::output::Output;
use crate::parse::number;
use crate::tables;

#[derive(Args)]
pub struct Consent {
    /// Do not ask, even if sessions are interrupted
    #[arg(long, short)]
    yes: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
#[command(group(ArgGroup::new("which").required(true)))]
#[command(after_help = "Examples:\n  patchbay stop social\n  patchbay stop --instance 7 --yes")]
pub struct Stop {
    /// The application
    #[arg(group = "which")]
    app: Option<String>,
    /// One instance, by its id; it is replaced if its service has too few then
    #[arg(long, group = "which", value_parser = number, value_name = "ID")]
    instance: Option<u64>,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Args)]
#[command(group(ArgGroup::new("which").required(true)))]
#[command(
    after_help = "Examples:\n  patchbay close 12\n  patchbay close --connection social gateway.posts\n  \
                  patchbay close --instance 7\n\nServices that follow the protocol finish the message at hand, \
                  close, and ask for a new session."
)]
pub struct Close {
    /// One session, as `patchbay sessions` numbers it
    #[arg(group = "which", value_parser = number)]
    session: Option<u64>,
    /// All sessions of an abstract connection
    #[arg(long, group = "which", num_args = 2, value_names = ["APP", "SERVICE.PLUG"])]
    connection: Option<Vec<String>>,
    /// All sessions of an instance
    #[arg(long, group = "which", value_parser = number, value_name = "ID")]
    instance: Option<u64>,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  patchbay redirect off --session 12\n  \
                  patchbay redirect off --connection social gateway.posts\n  patchbay redirect on --node a\n\nNothing is \
                  interrupted: what is on its way is read first, in order. Over TCP, captures, firewalls and shaping see \
                  the bytes. Sessions that a connection gets later are redirected as the graph says; `redirect = \"never\"` \
                  there keeps them on TCP.")]
pub struct Redirect {
    /// `off`: further messages go over TCP; `on`: through the kernel again, where they may
    way: Way,
    #[command(flatten)]
    which: WhichSessions,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Way {
    /// Further messages go over TCP
    Off,
    /// Further messages go through the kernel again, where they may
    On,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct WhichSessions {
    /// One session, as `patchbay sessions` numbers it
    #[arg(long, value_parser = number, value_name = "ID")]
    session: Option<u64>,
    /// The open sessions of an abstract connection
    #[arg(long, num_args = 2, value_names = ["APP", "SERVICE.PLUG"])]
    connection: Option<Vec<String>>,
    /// All sessions of a node, by its name or address, also those that will be made
    #[arg(long)]
    node: Option<String>,
}

#[derive(Args)]
#[command(after_help = "Example:\n  patchbay move 7 b")]
pub struct Move {
    /// The instance, as `patchbay instances` numbers it
    #[arg(value_parser = number)]
    instance: u64,
    /// The node, by its name or address
    node: String,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Args)]
#[command(after_help = "Example:\n  patchbay drain a && patchbay instances")]
pub struct Drain {
    /// The node, by its name or address
    node: String,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  patchbay forget a b\n  patchbay forget --lost\n\nThe node's agent must be away. Use it when the agent's state folder, \
                        and with it the secret that the node is bound to, is lost."
)]
pub struct Forget {
    /// Lost nodes, by their names or addresses
    #[arg(required_unless_present = "lost", value_name = "NODE")]
    nodes: Vec<String>,
    /// All lost nodes
    #[arg(long, conflicts_with = "nodes")]
    lost: bool,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Args)]
pub struct Undrain {
    /// The node, by its name or address
    node: String,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  patchbay scale social posts 3\n  patchbay scale social posts auto")]
pub struct Scale {
    /// The application
    app: String,
    /// The service
    service: String,
    /// How many instances, within the graph's bounds; `auto` leaves it to the load again
    #[arg(allow_negative_numbers = true)]
    replicas: Replicas,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Clone, Copy)]
struct Replicas(Option<u32>);

impl std::str::FromStr for Replicas {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self(None)),
            number => number
                .parse()
                .map(|number| Self(Some(number)))
                .map_err(|_| "it must be a whole number or `auto`".into()),
        }
    }
}

impl Stop {
    pub fn run(&self, client: &Client, output: Output) -> Result<(), Failure> {
        let path = match (&self.app, self.instance) {
            (Some(id), _) if number(id).is_ok() => {
                let text = format!(
                    "`{id}` is no application; an instance is stopped with `patchbay stop --instance {id}`"
                );
                return Err(Failure::Said(text));
            }
            (Some(app), _) => format!("/v1/apps/{app}/stop"),
            (None, Some(id)) => format!("/v1/instances/{id}/stop"),
            (None, None) => return Err(Failure::Said("name an application or an instance".into())),
        };
        self.consent.post(client, output, &path, "")
    }
}

impl Close {
    pub fn run(&self, client: &Client, output: Output) -> Result<(), Failure> {
        let path = match (self.session, self.connection.as_deref(), self.instance) {
            (Some(id), ..) => format!("/v1/sessions/{id}/close"),
            (_, Some([app, plug]), _) => format!("/v1/apps/{app}/connections/{plug}/close"),
            (.., Some(id)) => format!("/v1/instances/{id}/close"),
            _ => return Err(Failure::Said("name a session, a connection or an instance".into())),
        };
        self.consent.post(client, output, &path, "")
    }
}

impl Redirect {
    pub fn run(&self, client: &Client, output: Output) -> Result<(), Failure> {
        let WhichSessions { session, connection, node } = &self.which;
        let path = match (session, connection.as_deref(), node) {
            (Some(id), ..) => format!("/v1/sessions/{id}/redirect"),
            (_, Some([app, plug]), _) => format!("/v1/apps/{app}/connections/{plug}/redirect"),
            (.., Some(node)) => format!("/v1/nodes/{node}/redirect"),
            _ => return Err(Failure::Said("name a session, a connection or a node".into())),
        };
        let path = format!("{path}?on={}", self.way == Way::On);
        if self.dry_run {
            let would: api::Done = client.post(&format!("{path}&dry_run=true"))?;
            return output.show(&would, |would| format!("would {}", would.text));
        }
        output.show(&client.post::<api::Done>(&path)?, tables::done)
    }
}

impl Move {
    pub fn run(&self, client: &Client, output: Output) -> Result<(), Failure> {
        let path = format!("/v1/instances/{}/move", self.instance);
        self.consent.post(client, output, &path, &format!("to={}", self.node))
    }
}

impl Drain {
    pub fn run(&self, client: &Client, output: Output) -> Result<(), Failure> {
        self.consent.post(client, output, &format!("/v1/nodes/{}/drain", self.node), "")
    }
}

impl Forget {
    pub fn run(&self, client: &Client, output: Output) -> Result<(), Failure> {
        let mut nodes = self.nodes.clone();
        if self.lost {
            let known: Vec<api::Node> = client.get("/v1/nodes")?;
            // By their addresses: several may have had one name.
            nodes = known.into_iter().filter(|node| node.state == "lost").map(|node| node.address).collect();
            if nodes.is_empty() {
                return Err(Failure::Said("no node is lost".into()));
            }
        }
        for node in nodes {
            self.consent.post(
                client,
                output,
                &format!("/v1/nodes/{}/forget", crate::parse::encoded(&node)),
                "",
            )?;
        }
        Ok(())
    }
}

impl Undrain {
    pub fn run(&self, client: &Client, output: Output) -> Result<(), Failure> {
        let done: api::Done = client.post(&format!("/v1/nodes/{}/undrain", self.node))?;
        output.show(&done, tables::done)
    }
}

impl Scale {
    pub fn run(&self, client: &Client, output: Output) -> Result<(), Failure> {
        let path = format!("/v1/apps/{}/services/{}/scale", self.app, self.service);
        let query = self.replicas.0.map(|replicas| format!("replicas={replicas}")).unwrap_or_default();
        self.consent.post(client, output, &path, &query)
    }
}

impl Consent {
    /// Does it, once whoever asked knows what it interrupts.
    fn post(&self, client: &Client, output: Output, path: &str, query: &str) -> Result<(), Failure> {
        if self.dry_run || !self.yes {
            let would: api::Done = client.post(&format!("{path}?{query}&dry_run=true"))?;
            if self.dry_run {
                return output.show(&would, |would| format!("would {}", would.text));
            }
            if would.sessions > 0 && !confirmed(&would)? {
                return Err(Failure::Said("nothing was done".into()));
            }
        }
        output.show(&client.post::<api::Done>(&format!("{path}?{query}"))?, tables::done)
    }
}

fn confirmed(would: &api::Done) -> Result<bool, Failure> {
    let sessions =
        if would.sessions == 1 { "1 session".into() } else { format!("{} sessions", would.sessions) };
    let text = format!("this would {}", would.text);
    if !std::io::stdin().is_terminal() {
        let message = format!("{text}\nIt asks {sessions} to close; say --yes if that is meant.");
        return Err(Failure::Said(message));
    }
    eprint!("{text}\nIt asks {sessions} to close. Go on? [y/N] ");
    std::io::stderr().flush().map_err(Failure::Output)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(Failure::Output)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
