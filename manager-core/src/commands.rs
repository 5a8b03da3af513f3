//! What people ask for besides applying a graph: checked first, then begun. What is begun is on disk
//! before it is answered, and goes on after a crash; asking again changes nothing.

use std::collections::BTreeSet;

use patchbay_api::Done;
use ssmmp::{Address, InstanceId};

use super::redirecting::Redirected;
use super::row::Key;
use super::{Core, Instance, InstanceState, Leaving, SessionState};
use crate::graph::{Kind, State};

/// A change of what runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Stop an application.
    StopApp(String),
    /// Stop an instance.
    StopInstance(InstanceId),
    /// Close a session.
    CloseSession(u64),
    /// Close all sessions of an abstract connection: application, and `service.plug`.
    CloseConnection(String, String),
    /// Close all sessions of an instance.
    CloseInstance(InstanceId),
    /// Move an instance to a node, by its name or address.
    Move(InstanceId, String),
    /// Move everything away from a node.
    Drain(String),
    /// Execute on a node again.
    Undrain(String),
    /// Forget a lost node and the secret that it is bound to.
    Forget(String),
    /// Send further messages over TCP, or through the kernel again.
    Redirect(Redirected, bool),
    /// Set how many instances a service of an application has; `None`: its load decides.
    Scale(String, String, Option<u32>),
}

/// Why a command is not carried out; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such thing.
    Unknown(String),
    /// It can't be so.
    Conflict(String),
}

type Answer = Result<Done, Refusal>;

impl Core {
    /// Checks a command and says what it would do.
    ///
    /// # Errors
    /// It names what is not there, or what can't be done.
    pub fn preview(&self, command: &Command) -> Answer {
        match command {
            Command::StopApp(app) => self.preview_stop_app(app),
            Command::StopInstance(id) => {
                let instance = self.living(*id)?;
                Ok(done(format!("stop {}", called(instance)), 1, instance.sessions.len()))
            }
            Command::CloseSession(id) => match self.is_open(*id) {
                true => Ok(done(format!("close session {id}"), 0, 1)),
                false => Err(unknown(format!("no session {id} is open"))),
            },
            Command::CloseConnection(app, plug) => {
                let sessions = self.sessions_of_connection(app, plug)?;
                Ok(done(format!("close {} of {plug}", counted(sessions.len(), "session")), 0, sessions.len()))
            }
            Command::CloseInstance(id) => {
                let instance = self.living(*id)?;
                let count = instance.sessions.len();
                Ok(done(format!("close {} of {}", counted(count, "session"), called(instance)), 0, count))
            }
            Command::Move(id, node) => self.preview_move(*id, node),
            Command::Drain(node) => self.preview_drain(node),
            Command::Undrain(node) => {
                let address = self.drained_node(node)?;
                let was = self.drained.contains(&address);
                Ok(done(format!("execute on node {node} {}", if was { "again" } else { "as before" }), 0, 0))
            }
            Command::Forget(node) => self.preview_forget(node),
            Command::Redirect(what, on) => self.preview_redirect(what, *on),
            Command::Scale(app, service, replicas) => self.preview_scale(app, service, *replicas),
        }
    }

    /// Checks a command and begins it.
    pub(super) fn command(&mut self, command: &Command) -> Answer {
        let answer = self.preview(command)?;
        match command {
            Command::StopApp(app) => self.stop_app(app),
            Command::StopInstance(id) => self.stop_instance(*id, "stopped on request"),
            Command::CloseSession(id) => self.ask_to_close(*id, None),
            Command::CloseConnection(app, plug) => {
                for session in self.sessions_of_connection(app, plug)? {
                    self.ask_to_close(session, None);
                }
            }
            Command::CloseInstance(id) => {
                for session in self.living(*id)?.sessions.clone() {
                    self.ask_to_close(session, None);
                }
            }
            Command::Move(id, node) => self.begin_move(*id, node)?,
            Command::Drain(node) => self.begin_drain(node)?,
            Command::Undrain(node) => {
                let address = self.drained_node(node)?;
                if self.drained.remove(&address) {
                    self.save(Key::Node(address));
                    self.publish("node-undrained", format!("node {node}"), "it may execute again".into());
                    let now = self.now;
                    let services = self.apps.values_mut().flat_map(|app| app.services.values_mut());
                    services.for_each(|service| service.failures.retry(now));
                    self.settle_all();
                    self.retry_all_waiting();
                }
            }
            Command::Forget(node) => {
                let address = self.known_node(node)?;
                self.publish("node-forgotten", format!("node {node}"), "forgotten on request".into());
                self.forget_node(address);
            }
            Command::Redirect(what, on) => self.redirect(what, *on)?,
            Command::Scale(app, service, replicas) => self.begin_scale(app, service, *replicas),
        }
        Ok(answer)
    }

    fn preview_stop_app(&self, app: &str) -> Answer {
        if !self.apps.contains_key(app) {
            return Err(unknown(format!("there is no application `{app}`")));
        }
        let instances: Vec<&Instance> = self
            .inventory
            .of_app(app)
            .flat_map(|(_, of_service)| &of_service.alive)
            .filter_map(|id| self.inventory.instance(*id))
            .collect();
        let sessions: BTreeSet<u64> = instances.iter().flat_map(|i| i.sessions.iter().copied()).collect();
        let text = format!(
            "stop {app}: {}, {}",
            counted(instances.len(), "instance"),
            counted(sessions.len(), "session")
        );
        Ok(done(text, instances.len(), sessions.len()))
    }

    fn preview_move(&self, id: InstanceId, node: &str) -> Answer {
        let instance = self.living(id)?;
        let to = self.known_node(node)?;
        let name = called(instance);
        if instance.state != InstanceState::Running {
            return Err(conflict(format!("{name} is {}, not running", instance.state.as_str())));
        }
        if instance.address == to {
            return Ok(done(format!("leave {name} where it is"), 0, 0));
        }
        let app = self.apps.get(instance.app.as_str());
        let vertex = app.and_then(|app| app.service(instance.service.as_str()));
        let Some(vertex) = vertex else {
            return Err(conflict(format!(
                "{name} is being stopped: its service is not in the graph any more"
            )));
        };
        if vertex.state == State::Node {
            return Err(conflict(format!(
                "{name} holds its state on node {}; say `state = \"shared\"` in the graph if it is elsewhere",
                instance.node
            )));
        }
        if self.drained.contains(&to) {
            return Err(conflict(format!("node {node} is drained; `patchbay undrain {node}` ends that")));
        }
        if !self.inventory.able(&vertex.program).any(|able| able.address == to) {
            let program = &vertex.program;
            return Err(conflict(format!(
                "node {node} is not connected, or has no `{program}` in its repository"
            )));
        }
        if self.ports(to, vertex).is_none() {
            return Err(conflict(format!("a port of {name} is taken on node {node}")));
        }
        let count = instance.sessions.len();
        let text = format!(
            "move {name} from {} to {node}: a new one first, then its {}, a few at a time",
            instance.node,
            counted(count, "session")
        );
        Ok(done(text, 1, count))
    }

    fn preview_drain(&self, node: &str) -> Answer {
        let address = self.known_node(node)?;
        let on_node = self.inventory.on_node(address).map(|on_node| &on_node.alive);
        let instances: Vec<&Instance> =
            on_node.into_iter().flatten().filter_map(|id| self.inventory.instance(*id)).collect();
        let (stay, go): (Vec<&Instance>, Vec<&Instance>) =
            instances.into_iter().partition(|instance| self.holds_state(instance));
        let sessions: BTreeSet<u64> = go.iter().flat_map(|i| i.sessions.iter().copied()).collect();
        let mut text = format!(
            "drain {node}: move {} with {}",
            counted(go.len(), "instance"),
            counted(sessions.len(), "session")
        );
        if !stay.is_empty() {
            let names: Vec<String> = stay.into_iter().map(called).collect();
            text.push_str(&format!("; these hold their state there and stay: {}", names.join(", ")));
        }
        Ok(done(text, go.len(), sessions.len()))
    }

    fn preview_forget(&self, name: &str) -> Answer {
        let address = self.known_node(name)?;
        if self.inventory.node(address).is_some_and(|node| node.connection.is_some()) {
            let text = format!(
                "node {name} is connected; end its agent first, or drain it to have nothing run there"
            );
            return Err(conflict(text));
        }
        let lost = self.living_on(address).len();
        let text = format!(
            "forget node {name}: whoever registers with its name or address next is it, with {} that count as lost",
            counted(lost, "instance")
        );
        Ok(done(text, lost, 0))
    }

    fn preview_scale(&self, app: &str, service: &str, replicas: Option<u32>) -> Answer {
        let known = self.apps.get(app).ok_or_else(|| unknown(format!("there is no application `{app}`")))?;
        let vertex =
            known.service(service).ok_or_else(|| unknown(format!("`{app}` has no service `{service}`")))?;
        let (least, most) = (vertex.fewest(), vertex.most.max(vertex.fewest()));
        let Some(replicas) = replicas else {
            return Ok(done(format!("leave {service} to its load: {least} to {most} instances"), 0, 0));
        };
        // With none, every request would start one and every start would be one too many.
        if !(least.max(1)..=most).contains(&replicas) {
            let least = least.max(1);
            let text = format!(
                "the graph gives {service} {least} to {most} replicas, not {replicas}; apply another graph"
            );
            return Err(conflict(text));
        }
        let mut running = self.replicas(app, service);
        running.sort_by_key(|replica| (replica.sessions, std::cmp::Reverse(replica.id)));
        let surplus = running.len().saturating_sub(replicas as usize);
        let sessions = running.iter().take(surplus).map(|replica| replica.sessions as usize).sum();
        let text = format!(
            "have {} of {service}; there are {} now",
            counted(replicas as usize, "instance"),
            running.len()
        );
        Ok(done(text, surplus, sessions))
    }

    fn begin_move(&mut self, id: InstanceId, node: &str) -> Result<(), Refusal> {
        let to = self.known_node(node)?;
        if self.living(id)?.address == to {
            return Ok(());
        }
        let leaving = Leaving { to, why: format!("moved to {node} on request") };
        let of = self.inventory.change(id, |instance| {
            instance.leaving = Some(leaving);
            (instance.app.to_string(), instance.service.to_string())
        });
        if let Some((app, service)) = of {
            self.save(Key::Instance(id));
            self.look_through(&app, &service);
            self.settle(&app, &service);
        }
        Ok(())
    }

    fn begin_drain(&mut self, node: &str) -> Result<(), Refusal> {
        let address = self.known_node(node)?;
        if self.drained.insert(address) {
            self.save(Key::Node(address));
            self.publish("node-draining", format!("node {node}"), "what runs there moves away".into());
            self.look_through_node(address);
            self.settle_all();
        }
        Ok(())
    }

    fn begin_scale(&mut self, app: &str, service: &str, replicas: Option<u32>) {
        let now = self.now;
        let Some(known) = self.apps.get_mut(app) else { return };
        let state = known.state_mut(service);
        if state.scaled == replicas {
            return;
        }
        state.scaled = replicas;
        state.changed = now;
        self.save(Key::Service(app.to_owned(), service.to_owned()));
        let text =
            replicas.map_or_else(|| "its load decides".into(), |number| format!("{number} on request"));
        self.publish("service-scaled", format!("service {service}"), text);
        self.settle(app, service);
    }

    fn holds_state(&self, instance: &Instance) -> bool {
        let app = self.apps.get(instance.app.as_str());
        let vertex = app.and_then(|app| app.service(instance.service.as_str()));
        vertex.is_some_and(|vertex| vertex.kind == Kind::Baas && vertex.state == State::Node)
    }

    fn living(&self, id: InstanceId) -> Result<&Instance, Refusal> {
        self.inventory
            .instance(id)
            .filter(|instance| instance.state.is_alive())
            .ok_or_else(|| unknown(format!("there is no running instance {id}")))
    }

    pub(super) fn known_node(&self, node: &str) -> Result<Address, Refusal> {
        self.find_node(node).ok_or_else(|| {
            let names: Vec<&str> = self.inventory.nodes().take(20).map(|node| node.name.as_str()).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            unknown(format!("there is no node `{node}`, or several are called so; there are: {names}"))
        })
    }

    /// A node, known or not: one that was drained and has not come back is named by its address.
    fn drained_node(&self, node: &str) -> Result<Address, Refusal> {
        let by_address = node.parse().ok().map(|ip: std::net::IpAddr| Address::from(ip));
        match by_address.filter(|address| self.drained.contains(address)) {
            Some(address) => Ok(address),
            None => self.known_node(node).map_err(|refusal| match refusal {
                Refusal::Unknown(text) if !self.drained.is_empty() => {
                    let drained: Vec<String> =
                        self.drained.iter().take(20).map(ToString::to_string).collect();
                    unknown(format!("{text}; drained are: {}", drained.join(", ")))
                }
                other => other,
            }),
        }
    }

    fn is_open(&self, id: u64) -> bool {
        self.sessions.get(id).is_some_and(|session| session.state == SessionState::Open)
    }

    /// The open sessions of an abstract connection, by its plug.
    pub(super) fn sessions_of_connection(&self, app: &str, plug: &str) -> Result<Vec<u64>, Refusal> {
        let known = self.apps.get(app).ok_or_else(|| unknown(format!("there is no application `{app}`")))?;
        let (service, name) = plug.split_once('.').unwrap_or((plug, ""));
        if !known.service(service).is_some_and(|vertex| vertex.plugs.contains_key(name)) {
            let plugs: Vec<String> = known
                .graph
                .services
                .iter()
                .flat_map(|(service, vertex)| {
                    vertex.plugs.keys().map(move |plug| format!("{service}.{plug}"))
                })
                .collect();
            return Err(unknown(format!("`{app}` has no plug `{plug}`; it has {}", plugs.join(", "))));
        }
        let of_service = self.inventory.of_service(app, service);
        let sources = of_service.into_iter().flat_map(|of| &of.alive).copied();
        let sessions =
            sources.filter_map(|id| Some((id, self.inventory.instance(id)?))).flat_map(|(id, instance)| {
                instance.sessions.iter().copied().filter(move |session| {
                    self.sessions.get(*session).is_some_and(|session| {
                        session.source == id
                            && session.edge.plug.as_str() == name
                            && session.state == SessionState::Open
                    })
                })
            });
        Ok(sessions.collect())
    }
}

pub(super) fn done(text: String, instances: usize, sessions: usize) -> Done {
    Done { text, instances, sessions }
}

pub(super) fn unknown(text: String) -> Refusal {
    Refusal::Unknown(text)
}

pub(super) fn conflict(text: String) -> Refusal {
    Refusal::Conflict(text)
}

/// An instance as people see it.
fn called(instance: &Instance) -> String {
    format!("instance {} ({})", instance.id, instance.service)
}

/// So many of them.
pub(super) fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
