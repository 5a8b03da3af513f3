//! How the instance is configured: by its agent through arguments, or alone through the environment.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

use ssmmp::{AGENT_PORT, Address, InstanceId, Name, PlugConfiguration, SocketConfiguration};

use crate::Error;

/// What an instance knows when it starts.
#[derive(Debug)]
pub enum Configuration {
    /// Executed by an agent.
    Managed(Managed),
    /// Started by hand.
    Alone,
}

/// The five arguments of an execution.
#[derive(Debug)]
pub struct Managed {
    pub service: Name,
    pub id: InstanceId,
    pub address: Address,
    pub sockets: SocketConfiguration,
    pub plugs: PlugConfiguration,
    pub agent: String,
}

impl Configuration {
    /// Reads the last five arguments when the agent's address is in the environment.
    pub fn read(arguments: &[String], environment: &BTreeMap<String, String>) -> Result<Self, Error> {
        let agent = environment.get("SSMMP_AGENT").cloned();
        let [.., service, id, address, sockets, plugs] = arguments else { return Ok(Self::Alone) };
        let Some(agent) = agent.or_else(|| id.parse::<u64>().ok().map(|_| format!("127.0.0.1:{AGENT_PORT}")))
        else {
            return Ok(Self::Alone);
        };
        let bad = |what: &str, text: &str, reason: String| {
            Error::Configuration(format!("the argument for the {what}, `{text}`, is wrong: {reason}"))
        };
        let id_number: u64 = id.parse().map_err(|_| bad("instance id", id, "expected a number".into()))?;
        let ip: IpAddr =
            address.parse().map_err(|_| bad("address", address, "expected an address".into()))?;
        Ok(Self::Managed(Managed {
            service: Name::new(service).map_err(|reason| bad("service", service, reason))?,
            id: InstanceId(id_number),
            address: ip.into(),
            sockets: SocketConfiguration::parse(sockets).map_err(|r| bad("sockets", sockets, r))?,
            plugs: PlugConfiguration::parse(plugs).map_err(|r| bad("plugs", plugs, r))?,
            agent,
        }))
    }
}

/// The variable that holds a plug's or socket's address for a service that runs alone.
pub fn variable(kind: &str, name: &str) -> String {
    format!("{kind}_{}", name.to_uppercase().replace(['-', '.'], "_"))
}

/// What the environment says of a plug or socket of a service that runs alone.
pub fn text_alone(kind: &str, name: &str) -> Result<String, Error> {
    let variable = variable(kind, name);
    std::env::var(&variable).map_err(|_| {
        Error::Configuration(format!(
            "not executed by an agent, and {variable} is not set: set it to host:port to run alone"
        ))
    })
}

/// A plug's or socket's address for a service that runs alone.
pub fn address_alone(kind: &str, name: &str) -> Result<SocketAddr, Error> {
    let text = text_alone(kind, name)?;
    text.to_socket_addrs().ok().and_then(|mut addresses| addresses.next()).ok_or_else(|| {
        Error::Configuration(format!("{} is `{text}`, expected host:port", variable(kind, name)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str], agent: bool) -> Result<Configuration, Error> {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let mut environment = BTreeMap::new();
        if agent {
            environment.insert("SSMMP_AGENT".to_owned(), "127.0.0.1:1".to_owned());
        }
        Configuration::read(&arguments, &environment)
    }

    #[test]
    fn the_last_five_arguments_count() {
        let found = read(&["p", "--own", "a", "7", "10.0.0.1", "s, 54000", "p, s, b"], true).expect("good");
        let Configuration::Managed(managed) = found else { panic!("managed") };
        assert_eq!((managed.id.0, managed.sockets.port("s").map(|p| p.0)), (7, Some(54000)));
        assert!(matches!(read(&["p"], true), Ok(Configuration::Alone)));
        assert!(matches!(read(&["p", "a", "b", "c", "d", "e"], false), Ok(Configuration::Alone)));
        assert!(read(&["p", "a", "x", "10.0.0.1", "", ""], true).is_err());
        assert!(read(&["p", "a", "7", "here", "", ""], true).is_err());
    }

    #[test]
    fn names_become_variables() {
        assert_eq!(variable("PLUG", "file-store"), "PLUG_FILE_STORE");
    }
}
