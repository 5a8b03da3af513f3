use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Value;

/// A network address; `::` stands for unknown. An IPv4 address mapped into IPv6 is the IPv4 one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(pub IpAddr);

impl Address {
    /// An address nobody could tell.
    pub const UNKNOWN: Self = Self(IpAddr::V6(Ipv6Addr::UNSPECIFIED));

    /// Whether the address names a host.
    pub fn is_known(self) -> bool {
        !self.0.is_unspecified()
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Value for Address {
    fn unknown() -> Option<Self> {
        Some(Self::UNKNOWN)
    }

    fn read(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        let bare = bare.split_once('%').map_or(bare, |(address, _zone)| address);
        // The public Java peer appends the port: `localhost_34011`.
        let host = match bare.rsplit_once('_') {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => bare,
        };
        if host.is_empty() || host == "-" {
            return Ok(Self::UNKNOWN);
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Self(address.to_canonical()));
        }
        if host.eq_ignore_ascii_case("localhost") {
            return Ok(Self(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        }
        // Nothing is looked up here: a host's name leaves the address unknown, and whoever received
        // the message takes the one that the connection shows.
        if is_host_name(host) {
            return Ok(Self::UNKNOWN);
        }
        Err("expected an IPv6 or IPv4 address, or a host name".to_owned())
    }

    fn write(&self, out: &mut String) {
        out.push_str(&self.0.to_string());
    }
}

/// Longest host name, in bytes (RFC 1123).
const MAX_HOST_NAME_BYTES: usize = 253;

/// Labels of letters, digits and hyphens; the last is no number, as it is in a cut IPv4 address.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= MAX_HOST_NAME_BYTES
        && text.split('.').all(is_label)
        && last.bytes().any(|b| b.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::super::testing::check;
    use super::*;

    #[test]
    fn addresses_are_liberal_in_and_canonical_out() {
        check::<Address>("2001:db8:0:0:0:0:0:1", Some("2001:db8::1"));
        check::<Address>("[fe80::1%eth0]", Some("fe80::1"));
        check::<Address>("::ffff:10.0.0.1", Some("10.0.0.1"));
        check::<Address>("10.0.0.1", Some("10.0.0.1"));
        check::<Address>("", Some("::"));
        check::<Address>("10.0.0", None);
        check::<Address>("2001:db8::1::2", None);
    }

    #[test]
    fn the_java_peers_hosts_with_ports_are_addresses_and_other_names_are_unknown() {
        check::<Address>("localhost_34011", Some("127.0.0.1"));
        check::<Address>("10.0.0.1_34011", Some("10.0.0.1"));
        check::<Address>("node-7.example", Some("::"));
        check::<Address>("not a host", None);
        check::<Address>("-x", None);
    }
}
