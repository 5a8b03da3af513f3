//! What a graph must fulfil (sections 1 and 4; requirements KB1 to KB5).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use patchbay_api::Problem;
use ssmmp::{AGENT_PORT, Name, SOCKET_PORTS};
use toml::Spanned;

use super::file::{ConnectionFile, GraphFile, ServiceFile, problem};
use super::{Kind, MAX_SERVICES, Redirect, State};

/// All problems of a file, in the order of their places.
pub fn check(file: &GraphFile, text: &str) -> Vec<Problem> {
    let mut checker = Checker { file, text, found: Vec::new() };
    checker.names();
    for (name, service) in &file.service {
        checker.service(name, service);
    }
    checker.connections();
    checker.plugs_are_connected();
    if !file.allow_cycles {
        checker.cycles();
    }
    if checker.found.is_empty() {
        checker.is_reached();
    }
    let mut found = checker.found;
    found.sort_by_key(|problem| (problem.line, problem.column));
    found
}

struct Checker<'a> {
    file: &'a GraphFile,
    text: &'a str,
    found: Vec<Problem>,
}

impl Checker<'_> {
    fn add(&mut self, place: Range<usize>, message: String, help: impl Into<Option<&'static str>>) {
        self.found.push(problem(self.text, place, message, help.into().map(str::to_owned)));
    }

    fn names(&mut self) {
        let file = self.file;
        let mut names = vec![&file.app];
        for (name, service) in &file.service {
            names.push(name);
            names.extend(&service.program);
            names.extend(service.sockets.keys());
            names.extend(service.plugs.keys());
        }
        for name in names {
            if let Err(message) = Name::new(name.get_ref()) {
                self.add(name.span(), message, None);
            } else if name.get_ref().contains('.') {
                self.add(name.span(), "a name in a graph has no dot".into(), "use `-` or `_`");
            }
        }
        if file.service.len() > MAX_SERVICES {
            self.add(file.app.span(), format!("more than {MAX_SERVICES} services"), "split the application");
        }
        if file.service.is_empty() {
            self.add(file.app.span(), "the application has no services".into(), "add a [service.NAME]");
        }
    }

    fn service(&mut self, name: &Spanned<String>, service: &ServiceFile) {
        let place = name.span();
        let (least, most) = service.replicas();
        if most == 0 || least > most {
            let at = service.replicas.as_ref().map_or(place.clone(), Spanned::span);
            let message = format!("`{}` has bounds of {least} to {most} replicas", name.get_ref());
            self.add(at, message, "max must be at least 1 and at least min");
        }
        self.state(name, service);
        for (socket_name, socket) in &service.sockets {
            let is_gateway = *service.kind.get_ref() == Kind::Gateway;
            match &socket.port {
                Some(port) if !is_gateway || *port.get_ref() == 0 => {
                    let message = "only a gateway's socket has a fixed port, of 1 to 65535".to_owned();
                    self.add(port.span(), message, "remove it: the Manager chooses the port");
                }
                Some(port) if (*SOCKET_PORTS.start()..=AGENT_PORT).contains(port.get_ref()) => {
                    let message = format!("port {} is among those that the Manager assigns", port.get_ref());
                    self.add(port.span(), message, "choose one outside of 54000 to 55556");
                }
                None if is_gateway => {
                    let message = format!("the gateway's socket `{}` needs a port", socket_name.get_ref());
                    self.add(socket_name.span(), message, "add `port = 8080`");
                }
                _ => {}
            }
        }
        let name = name.get_ref();
        match service.kind.get_ref() {
            Kind::Gateway if service.sockets.is_empty() => {
                self.add(place, format!("the gateway `{name}` has no socket for its users"), None);
            }
            Kind::Regular if service.sockets.is_empty() || service.plugs.is_empty() => self.add(
                place,
                format!("the regular service `{name}` needs at least one socket and one plug"),
                "one without plugs is kind = \"baas\", one without callers kind = \"gateway\"",
            ),
            Kind::Baas if !service.plugs.is_empty() => self.add(
                place,
                format!("`{name}` is a BaaS and has plugs"),
                "a BaaS is terminal; one with plugs is kind = \"regular\"",
            ),
            Kind::Baas if service.sockets.is_empty() => {
                self.add(place, format!("the BaaS `{name}` has no socket"), None);
            }
            _ => {}
        }
    }

    /// State that is on a node binds a service to it (L1).
    fn state(&mut self, name: &Spanned<String>, service: &ServiceFile) {
        let (name, place) = (name.get_ref(), name.span());
        if *service.kind.get_ref() != Kind::Baas
            && let Some(state) = &service.state
        {
            let message = format!("`{name}` is stateless and names a place for its state");
            self.add(state.span(), message, "only a BaaS holds state: remove it");
        } else if service.state() == State::Node
            && (2..).contains(&service.replicas().1)
            && service.replicas().0 <= service.replicas().1
        {
            let at = service.replicas.as_ref().map_or(place, Spanned::span);
            let message = format!("`{name}` holds its state on its node and can't have several replicas");
            self.add(at, message, "say `state = \"shared\"` if its state is elsewhere");
        }
    }

    fn connections(&mut self) {
        let file = self.file;
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for connection in &file.connection {
            let protocol_from = self.end(&connection.from, true);
            let protocol_to = self.end(&connection.to, false);
            if let (Some(from), Some(to)) = (protocol_from, protocol_to)
                && from != to
            {
                self.add(
                    connection.to.span(),
                    format!(
                        "`{}` speaks {from}, `{}` speaks {to}",
                        connection.from.get_ref(),
                        connection.to.get_ref()
                    ),
                    "plug and socket must have the same protocol",
                );
            }
            if seen.insert(connection.from.get_ref(), 0).is_some() {
                let message = format!("the plug `{}` is connected twice", connection.from.get_ref());
                self.add(connection.from.span(), message, "a plug has exactly one destination socket");
            }
            self.not_into_a_gateway(connection);
            self.allows_under_auto(connection);
        }
    }

    fn allows_under_auto(&mut self, connection: &ConnectionFile) {
        if let Some(allow) = &connection.allow
            && connection.redirect != Redirect::Auto
        {
            let message =
                format!("`allow` says nothing beside redirect = \"{}\"", connection.redirect.as_str());
            self.add(allow.span(), message, "remove one of them");
        }
    }

    fn not_into_a_gateway(&mut self, connection: &ConnectionFile) {
        let service = connection.to.get_ref().split('.').next().unwrap_or_default();
        if self.find(service).is_some_and(|service| *service.kind.get_ref() == Kind::Gateway) {
            let message = format!("a connection leads into the gateway `{service}`");
            self.add(connection.to.span(), message, "gateways are initial: only users connect to them");
        }
    }

    /// The protocol of a connection's end; problems are noted.
    fn end(&mut self, end: &Spanned<String>, is_plug: bool) -> Option<String> {
        let what = if is_plug { "plug" } else { "socket" };
        let Some((service, name)) = end.get_ref().split_once('.') else {
            let message = format!("`{}` is not of the form service.{what}", end.get_ref());
            self.add(end.span(), message, None);
            return None;
        };
        let Some(found) = self.find(service) else {
            let message = format!("there is no service `{service}`{}", self.suggestion(service));
            self.add(end.span(), message, None);
            return None;
        };
        let protocol = if is_plug {
            found.plugs.iter().find(|(plug, _)| plug.get_ref() == name).map(|(_, plug)| plug.protocol.clone())
        } else {
            found.sockets.iter().find(|(s, _)| s.get_ref() == name).map(|(_, s)| s.protocol.clone())
        };
        if protocol.is_none() {
            self.add(end.span(), format!("the service `{service}` has no {what} `{name}`"), None);
        }
        protocol
    }

    fn plugs_are_connected(&mut self) {
        let file = self.file;
        let connected: BTreeSet<&str> = file.connection.iter().map(|c| c.from.get_ref().as_str()).collect();
        for (name, service) in &file.service {
            for plug in service.plugs.keys() {
                let end = format!("{}.{}", name.get_ref(), plug.get_ref());
                if !connected.contains(end.as_str()) {
                    let message = format!("the plug `{end}` leads nowhere");
                    self.add(plug.span(), message, "add a [[connection]] from it");
                }
            }
        }
    }

    /// What no gateway leads to is never asked for.
    fn is_reached(&mut self) {
        let file = self.file;
        let service = |end: &Spanned<String>| end.get_ref().split('.').next().unwrap_or_default().to_owned();
        let mut next: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for connection in &file.connection {
            next.entry(service(&connection.from)).or_default().push(service(&connection.to));
        }
        let is_gateway = |service: &&ServiceFile| *service.kind.get_ref() == Kind::Gateway;
        let gateways: Vec<&String> = file
            .service
            .iter()
            .filter(|(_, service)| is_gateway(service))
            .map(|(name, _)| name.get_ref())
            .collect();
        for (name, service) in &file.service {
            if is_gateway(&service) || gateways.iter().any(|from| reaches(&next, from, name.get_ref())) {
                continue;
            }
            let text = format!("`{}` is isolated: no gateway leads to it", name.get_ref());
            let help = "it is started only where its minimum says so; add a [[connection]] to it";
            let isolated = problem(self.text, name.span(), text, Some(help.to_owned()));
            self.found.push(Problem { warning: true, ..isolated });
        }
    }

    fn cycles(&mut self) {
        let file = self.file;
        let service = |end: &Spanned<String>| end.get_ref().split('.').next().unwrap_or_default().to_owned();
        let mut next: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for connection in &file.connection {
            next.entry(service(&connection.from)).or_default().push(service(&connection.to));
        }
        for connection in &file.connection {
            let (from, to) = (service(&connection.from), service(&connection.to));
            if reaches(&next, &to, &from) {
                let message = format!("`{from}` and `{to}` are in a cycle");
                self.add(connection.from.span(), message, "say `allow_cycles = true` if it is meant");
                return;
            }
        }
    }

    fn find(&self, name: &str) -> Option<&ServiceFile> {
        self.file.service.iter().find(|(found, _)| found.get_ref() == name).map(|(_, service)| service)
    }

    fn suggestion(&self, name: &str) -> String {
        let known: Vec<&str> = self.file.service.keys().map(|name| name.get_ref().as_str()).collect();
        let close = known.iter().find(|known| known.starts_with(name) || name.starts_with(**known));
        match close {
            Some(close) => format!("; did you mean `{close}`?"),
            None => format!("; there are {}", known.join(", ")),
        }
    }
}

fn reaches(next: &BTreeMap<String, Vec<String>>, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(service) = open.pop() {
        if service == to {
            return true;
        }
        if seen.insert(service) {
            open.extend(next.get(service).into_iter().flatten().map(String::as_str));
        }
    }
    false
}
