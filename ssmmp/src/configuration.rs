//! Lists that stand in one field: names, socket configurations, plug configurations.

use crate::value::{Name, Port, Value};

/// A list of names: emitted as `(A, B, C)`, accepted with or without parentheses, with `,` or
/// `;`, with trailing separators.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NameList(pub Vec<Name>);

impl Value for NameList {
    fn read(text: &str) -> Result<Self, String> {
        inner(text)
            .split([',', ';'])
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(listed)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn write(&self, out: &mut String) {
        out.push('(');
        write_joined(&self.0, ", ", out, |name, out| name.write(out));
        out.push(')');
    }
}

/// A name that stands in a list: without what lists are made of, or it would read otherwise when it is
/// passed on.
fn listed(text: &str) -> Result<Name, String> {
    if text.contains(['(', ')', ',', ';', '&']) {
        return Err("expected names without `(`, `)`, `,`, `;` and `&` in a list".into());
    }
    Name::read(text)
}

/// A socket of an instance and the port it listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPort {
    /// The abstract socket.
    pub socket: Name,
    /// The port given by the Manager.
    pub port: Port,
}

/// The ports of an instance's sockets: `S1, 54000 & S2, 54001`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SocketConfiguration(pub Vec<SocketPort>);

impl SocketConfiguration {
    /// The port of a socket.
    pub fn port(&self, socket: &str) -> Option<Port> {
        self.0.iter().find(|entry| entry.socket.as_str() == socket).map(|entry| entry.port)
    }
}

impl Value for SocketConfiguration {
    fn read(text: &str) -> Result<Self, String> {
        groups(text)
            .map(|group| match parts(group)[..] {
                [socket, port] => {
                    let port = Port::read(port)?;
                    if !port.is_known() {
                        return Err(format!("the socket `{socket}` needs a port of 1 to 65535"));
                    }
                    Ok(SocketPort { socket: listed(socket)?, port })
                }
                _ => Err("expected pairs `socket_name, port` joined by ` & `".to_owned()),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn write(&self, out: &mut String) {
        write_joined(&self.0, " & ", out, |entry, out| {
            entry.socket.write(out);
            out.push_str(", ");
            entry.port.write(out);
        });
    }
}

/// A plug of an instance and where the graph connects it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlugTarget {
    /// The abstract plug.
    pub plug: Name,
    /// The destination's abstract socket; `None` in the older pair form, where only the graph
    /// knows it.
    pub socket: Option<Name>,
    /// The destination service.
    pub service: Name,
}

/// The targets of an instance's plugs: `P, S, B & P2, S2, C`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlugConfiguration(pub Vec<PlugTarget>);

impl PlugConfiguration {
    /// The target of a plug.
    pub fn target(&self, plug: &str) -> Option<&PlugTarget> {
        self.0.iter().find(|entry| entry.plug.as_str() == plug)
    }
}

impl Value for PlugConfiguration {
    fn read(text: &str) -> Result<Self, String> {
        groups(text)
            .map(|group| match parts(group)[..] {
                [plug, socket, service] => Ok(PlugTarget {
                    plug: listed(plug)?,
                    socket: Some(listed(socket)?),
                    service: listed(service)?,
                }),
                [plug, service] => {
                    Ok(PlugTarget { plug: listed(plug)?, socket: None, service: listed(service)? })
                }
                _ => {
                    Err("expected triples `plug_name, socket_name, service_name` joined by ` & `".to_owned())
                }
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn write(&self, out: &mut String) {
        write_joined(&self.0, " & ", out, |entry, out| {
            entry.plug.write(out);
            out.push_str(", ");
            if let Some(socket) = &entry.socket {
                socket.write(out);
                out.push_str(", ");
            }
            entry.service.write(out);
        });
    }
}

impl SocketConfiguration {
    /// Reads the form that an executed instance gets as its fourth argument.
    ///
    /// # Errors
    /// Says which form was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::read(text.trim())
    }

    /// The form that an executed instance gets as its fourth argument.
    pub fn encode(&self) -> String {
        encode(self)
    }
}

impl PlugConfiguration {
    /// Reads the form that an executed instance gets as its fifth argument.
    ///
    /// # Errors
    /// Says which form was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::read(text.trim())
    }

    /// The form that an executed instance gets as its fifth argument.
    pub fn encode(&self) -> String {
        encode(self)
    }
}

fn encode(value: &impl Value) -> String {
    let mut out = String::new();
    value.write(&mut out);
    out
}

fn inner(text: &str) -> &str {
    text.trim().trim_start_matches('(').trim_end_matches(')')
}

fn groups(text: &str) -> impl Iterator<Item = &str> {
    text.split('&').map(inner).map(str::trim).filter(|group| !group.is_empty())
}

fn parts(group: &str) -> Vec<&str> {
    group.split(',').map(str::trim).collect()
}

fn write_joined<T>(items: &[T], separator: &str, out: &mut String, mut write: impl FnMut(&T, &mut String)) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(separator);
        }
        write(item, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Value>(text: &str, emitted: &str) {
        assert_eq!(encode(&T::read(text).expect(text)), emitted, "reading {text:?}");
    }

    #[test]
    fn name_lists_in_every_observed_form() {
        for text in ["(A, B)", "A, B, ", "A,B", "(A; B)", " ( A ,B, ) "] {
            check::<NameList>(text, "(A, B)");
        }
        check::<NameList>("()", "()");
        check::<NameList>("", "()");
    }

    #[test]
    fn socket_configurations() {
        check::<SocketConfiguration>("S1, 54000 & S2, 54001 & ", "S1, 54000 & S2, 54001");
        check::<SocketConfiguration>("(S1,54000)&(S2 , 54001)", "S1, 54000 & S2, 54001");
        check::<SocketConfiguration>("", "");
        assert!(SocketConfiguration::read("S1").is_err());
        assert!(SocketConfiguration::read("S1, 0").is_err());
        assert!(SocketConfiguration::read("S1, x").is_err());
    }

    #[test]
    fn plug_configurations_as_triples_and_older_pairs() {
        check::<PlugConfiguration>("P, S, B & P2, S2, C & ", "P, S, B & P2, S2, C");
        check::<PlugConfiguration>("P, B", "P, B");
        assert!(PlugConfiguration::read("P").is_err());
    }
}
