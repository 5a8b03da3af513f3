//! `patchbay certs`: the CA of an installation, on the machine that has its key.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use patchbay_trust::{
    AuthorityFolder, FolderError, Issued, Names, Role, Shown, State, check_name, fingerprint, shown_time,
};
use serde::{Deserialize, Serialize};

use crate::client::Failure;
use crate::output::{self, Output};
use crate::tables;

/// What `--help` says besides.
pub const HELP: &str = "`show` ends with 2 when something has expired or will within --within, so that a timer can tell.\n\n\
    Example:\n  patchbay certs init --host manager.example.com --address 10.0.0.1\n  \
    patchbay certs node a\n  scp -r /etc/patchbay/certificates/nodes/a root@a:/etc/patchbay/certificate\n  \
    patchbay certs revoke a && kill -HUP $(pidof patchbay-manager)";

/// Ends with this when something is to be renewed.
const TO_BE_RENEWED: u8 = 2;
const DAY: u64 = 24 * 3_600;

/// What is done with certificates.
#[derive(Args)]
pub struct Certs {
    /// The CA's folder, with all it has made
    #[arg(
        long,
        global = true,
        env = "PATCHBAY_CERTS",
        default_value = "/etc/patchbay/certificates",
        value_name = "FOLDER"
    )]
    folder: PathBuf,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Make a CA and the Manager's certificate
    Init {
        /// A name of the Manager's host that people use for its HTTPS; may be said several times
        #[arg(long, value_name = "NAME")]
        host: Vec<String>,
        /// An address that people use for its HTTPS; may be said several times
        #[arg(long, value_name = "ADDRESS")]
        address: Vec<IpAddr>,
        /// How long the CA is valid
        #[arg(long, default_value = "3650days", value_parser = validity, value_name = "TIME")]
        ca_valid: Duration,
        #[command(flatten)]
        valid: Valid,
    },
    /// Make a node's key and certificate; its name is what its agent's --node says
    Node {
        /// The node
        #[arg(value_parser = name, value_name = "NAME")]
        name: String,
        #[command(flatten)]
        valid: Valid,
    },
    /// Make a person's key and certificate
    Person {
        /// The person
        #[arg(value_parser = name, value_name = "NAME")]
        name: String,
        #[command(flatten)]
        valid: Valid,
    },
    /// Make a new certificate for the key and names there are; the earlier one is valid until its end
    Renew {
        /// `manager`, a node's name, or person/NAME
        #[arg(value_parser = who, value_name = "WHO")]
        who: Role,
        #[command(flatten)]
        valid: Valid,
    },
    /// Revoke all certificates of a node or person; the Manager ends its connections when it reads them again (SIGHUP)
    Revoke {
        /// `manager`, a node's name, or person/NAME
        #[arg(value_parser = who, value_name = "WHO")]
        who: Role,
    },
    /// List the CA's certificate and all it has signed
    Show {
        /// Ends with 2 when something will expire within this time
        #[arg(long, default_value = "14days", value_parser = humantime::parse_duration, value_name = "TIME")]
        within: Duration,
    },
}

#[derive(Args)]
struct Valid {
    /// How long it is valid, as in 90days or 12h
    #[arg(long, default_value = "90days", value_parser = validity, value_name = "TIME")]
    valid: Duration,
}

/// A certificate as programs see it.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    name: String,
    role: String,
    serial: String,
    from: String,
    until: String,
    seconds_left: i64,
    state: State,
    names: Vec<String>,
}

impl Certs {
    pub fn run(&self, output: Output) -> Result<ExitCode, Failure> {
        let (folder, now) = (AuthorityFolder::at(self.folder.clone()), SystemTime::now());
        match &self.task {
            Task::Init { host, address, ca_valid, valid } => {
                let authority = folder.make(now, *ca_valid).map_err(said)?;
                let names = Names { hosts: host.clone(), addresses: address.clone() };
                let issued = folder.issue(&Role::Manager, &names, now, valid.valid).map_err(said)?;
                output::print(&format!(
                    "a CA is in {}; keep its key there, and a copy where nobody else reads it\nits SHA-256 is {}",
                    self.folder.display(),
                    fingerprint(authority.certificate())
                ))?;
                self.tell(&folder, &Role::Manager, &issued)
            }
            Task::Node { name, valid } => self.issue(&folder, &Role::Node(name.clone()), valid, now),
            Task::Person { name, valid } => self.issue(&folder, &Role::Person(name.clone()), valid, now),
            Task::Renew { who, valid } => {
                let issued = folder.renew(who, now, valid.valid).map_err(said)?;
                self.tell(&folder, who, &issued)
            }
            Task::Revoke { who } => {
                let count = folder.revoke(who, now).map_err(said)?;
                output::print(&format!(
                    "{count} certificate(s) of {who} revoked; have the Manager read its --certificates again: SIGHUP"
                ))?;
                Ok(ExitCode::SUCCESS)
            }
            Task::Show { within } => show(&folder, *within, now, output),
        }
    }

    fn issue(
        &self,
        folder: &AuthorityFolder,
        role: &Role,
        valid: &Valid,
        now: SystemTime,
    ) -> Result<ExitCode, Failure> {
        let issued = folder.issue(role, &Names::default(), now, valid.valid).map_err(said)?;
        self.tell(folder, role, &issued)
    }

    fn tell(&self, folder: &AuthorityFolder, role: &Role, issued: &Issued) -> Result<ExitCode, Failure> {
        let until = shown_time(issued.about.until);
        output::print(&format!("{role} is certified until {until} in {}", folder.of(role).display()))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn show(
    folder: &AuthorityFolder,
    within: Duration,
    now: SystemTime,
    output: Output,
) -> Result<ExitCode, Failure> {
    let shown = folder.show(now).map_err(said)?;
    let rows: Vec<Row> = shown.iter().map(|shown| row(shown, now)).collect();
    output.list(&rows, table)?;
    let soon = i64::try_from(within.as_secs()).unwrap_or(i64::MAX);
    let is_due =
        rows.iter().any(|row| matches!(row.state, State::Valid | State::Expired) && row.seconds_left <= soon);
    Ok(if is_due { ExitCode::from(TO_BE_RENEWED) } else { ExitCode::SUCCESS })
}

fn row(shown: &Shown, now: SystemTime) -> Row {
    let about = &shown.about;
    let (name, role) = match &about.role {
        Some(role) => (role.name().to_owned(), role.kind()),
        None => (about.subject.clone(), if about.is_authority { "ca" } else { "other" }),
    };
    Row {
        name,
        role: role.to_owned(),
        serial: about.serial.clone(),
        from: shown_time(about.from),
        until: shown_time(about.until),
        seconds_left: about.seconds_left(now),
        state: shown.state,
        names: about.names.clone(),
    }
}

fn table(rows: &[Row]) -> String {
    let cells = rows.iter().map(|row| {
        let state = match row.state {
            State::Valid => "valid",
            State::Early => "not yet valid",
            State::Expired => "EXPIRED",
            State::Revoked => "revoked",
            State::Replaced => "replaced",
        };
        let days = row.seconds_left.div_euclid(DAY.cast_signed()).to_string();
        let texts = [&row.name, &row.role, &row.serial, &row.from, &row.until, &days];
        texts.into_iter().cloned().chain([state.to_owned()]).collect()
    });
    tables::table(&["NAME", "ROLE", "SERIAL", "FROM", "UNTIL", "DAYS LEFT", "STATE"], cells)
}

fn said(error: FolderError) -> Failure {
    Failure::Said(error.to_string())
}

fn validity(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text).map_err(|error| error.to_string())? {
        time if time.as_secs() == 0 => Err("a certificate is valid for a second at least".into()),
        // Later dates than year 9999 can't be written in a certificate.
        time if time.as_secs() > 100 * 366 * DAY => Err("more than a hundred years is too long".into()),
        time => Ok(time),
    }
}

fn name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

fn who(text: &str) -> Result<Role, String> {
    match text.split_once('/') {
        None if text == "manager" => Ok(Role::Manager),
        None => name(text).map(Role::Node),
        Some(("node", text)) => name(text).map(Role::Node),
        Some(("person", text)) => name(text).map(Role::Person),
        Some(_) => Err("write it as manager, NAME of a node, or person/NAME".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_meant_and_how_long_is_checked_before_anything_is_done() {
        assert_eq!(who("manager"), Ok(Role::Manager));
        assert_eq!(who("a"), Ok(Role::Node("a".into())));
        assert_eq!(who("node/manager"), Ok(Role::Node("manager".into())));
        assert_eq!(who("person/ann"), Ok(Role::Person("ann".into())));
        for bad in ["", "x/y", "person/", "a b", "../a", "node/../a"] {
            assert!(who(bad).is_err(), "{bad}");
        }
        assert_eq!(validity("1s"), Ok(Duration::from_secs(1)));
        assert!(["0s", "", "soon", "200years"].iter().all(|text| validity(text).is_err()));
    }
}
