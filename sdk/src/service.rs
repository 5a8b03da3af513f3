//! A running service: started, run, ended.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ssmmp::{GracefulShutdownResponse, Name, ServiceInstanceTerminationInfo, Status};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::configuration::{Configuration, address_alone, text_alone};
use crate::memory::Memory;
use crate::plug::Plug;
use crate::registry::{Registry, lock};
use crate::socket::Socket;
use crate::{Error, agent_link};

/// Messages that may wait for the agent.
const TO_AGENT: usize = 4_096;
/// How long accepted sessions may take to end when the service ends.
const DRAIN_WITHIN: Duration = Duration::from_secs(3);
/// How long sockets may take to stop listening, longer than they allow themselves.
const STOP_LISTENING_WITHIN: Duration = Duration::from_millis(600);
/// How long the service's own sessions may take after them.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// How long the last messages may take to reach the agent.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);

/// This service's instance.
pub struct Service {
    registry: Arc<Registry>,
    sockets: BTreeMap<String, Socket>,
    own_arguments: Vec<String>,
}

impl Service {
    /// Reads the configuration, listens at every socket, and connects to the agent. Call it once.
    ///
    /// # Errors
    /// The configuration is wrong, or a socket's port is taken.
    pub async fn start() -> Result<Self, Error> {
        let arguments: Vec<String> = std::env::args().collect();
        let configuration = Configuration::read(&arguments, &std::env::vars().collect())?;
        let (to_agent, outbound) = mpsc::channel(TO_AGENT);
        let managed = match configuration {
            Configuration::Managed(managed) => managed,
            Configuration::Alone => {
                let registry = Registry::new(None, to_agent);
                return Ok(Self { registry, sockets: BTreeMap::new(), own_arguments: arguments });
            }
        };
        let (agent, id) = (managed.agent.clone(), managed.id);
        let places: Vec<(Name, SocketAddr)> = managed
            .sockets
            .0
            .iter()
            .map(|socket| (socket.socket.clone(), SocketAddr::new(managed.address.0, socket.port.0)))
            .collect();
        let registry = Registry::new(Some(managed), to_agent);
        if let Some(memory) = Memory::start() {
            let _ = registry.memory.set(memory);
        }
        let mut sockets = BTreeMap::new();
        for (name, at) in places {
            let socket = Socket::listen(registry.clone(), name.clone(), at).map_err(|error| {
                Error::Configuration(format!("can't listen at {at} for the socket `{name}`: {error}"))
            })?;
            sockets.insert(name.to_string(), socket);
        }
        tokio::spawn(agent_link::run(agent, id, registry.clone(), outbound));
        let own = arguments.len().saturating_sub(5);
        Ok(Self { registry, sockets, own_arguments: arguments[..own].to_vec() })
    }

    /// The program's own arguments, without those of the execution; the first is the program.
    pub fn arguments(&self) -> &[String] {
        &self.own_arguments
    }

    /// A plug of this service.
    ///
    /// # Errors
    /// The graph gives the service no such plug, or, alone, the environment has no address for it.
    pub fn plug(&self, name: &str) -> Result<Plug, Error> {
        let unknown = || Error::Unknown { kind: "plug", name: name.to_owned() };
        let target = match &self.registry.managed {
            Some(managed) => Some(managed.plugs.target(name).cloned().ok_or_else(unknown)?),
            None => {
                text_alone("PLUG", name)?;
                None
            }
        };
        Ok(Plug { registry: self.registry.clone(), name: Name::new(name).map_err(|_| unknown())?, target })
    }

    /// A socket of this service.
    ///
    /// # Errors
    /// The graph gives the service no such socket, or, alone, its address can't be used.
    pub fn socket(&self, name: &str) -> Result<Socket, Error> {
        let unknown = || Error::Unknown { kind: "socket", name: name.to_owned() };
        if self.registry.managed.is_some() {
            return self.sockets.get(name).cloned().ok_or_else(unknown);
        }
        let address = address_alone("SOCKET", name)?;
        Ok(Socket::listen(self.registry.clone(), Name::new(name).map_err(|_| unknown())?, address)?)
    }

    /// Says whether this instance has as much work as it can do; the Manager then prefers others.
    pub fn set_overloaded(&self, overloaded: bool) {
        self.registry.overloaded.store(overloaded, Ordering::Relaxed);
    }

    /// Waits until the instance is asked to end. The future does not borrow the service: give it to a
    /// server that can end gracefully.
    pub fn shutdown_requested(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        self.registry.shutdown.clone().cancelled_owned()
    }

    /// Runs the service's work until it ends by itself or the instance is asked to end; then lets
    /// sessions end, bounded, and tells the agent. Return from `main` after it.
    ///
    /// An instance that ends drains: accepted sessions see [`crate::Session::close_requested`] and have
    /// 3 seconds to finish the answer at hand; then its own sessions have one more second. The work goes
    /// on meanwhile.
    ///
    /// # Errors
    /// The work's own error.
    pub async fn run<E: From<Error>>(self, work: impl Future<Output = Result<(), E>>) -> Result<(), E> {
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| E::from(Error::Io(error)))?;
        let mut work = pin!(work);
        let mut result = tokio::select! {
            result = &mut work => Some(result),
            () = self.registry.shutdown.cancelled() => None,
            _ = terminate.recv() => None,
        };
        if result.is_none() {
            self.registry.shutdown.cancel();
            let drained = async {
                self.registry.ask_all_to_close(false);
                let quiet = Instant::now() + STOP_LISTENING_WITHIN;
                for socket in self.sockets.values() {
                    let _ = timeout_at(quiet, socket.closed()).await;
                }
                // Those who were accepted last, too.
                self.registry.ask_all_to_close(false);
                let _ = timeout(DRAIN_WITHIN, self.registry.all_closed(false)).await;
                self.registry.ask_all_to_close(true);
                let _ = timeout(CLOSE_WITHIN, self.registry.all_closed(true)).await;
            };
            let mut drained = pin!(drained);
            tokio::select! {
                ended = &mut work => {
                    result = Some(ended);
                    drained.await;
                }
                () = &mut drained => {}
            }
        }
        self.tell_ended().await;
        result.unwrap_or(Ok(()))
    }

    /// Whether the instance is asked to end.
    pub(crate) fn is_shutdown_requested(&self) -> bool {
        self.registry.shutdown.is_cancelled()
    }

    /// Tells all sessions that they shall end.
    pub(crate) fn ask_all_to_close(&self) {
        self.registry.ask_all_to_close(false);
        self.registry.ask_all_to_close(true);
    }

    /// Tells the agent that this instance ends.
    pub(crate) async fn tell_ended(&self) {
        let request = *lock(&self.registry.shutdown_request);
        match (&self.registry.managed, request) {
            (Some(_), Some(message_id)) => {
                self.registry.tell(GracefulShutdownResponse { message_id, status: Status::OK });
            }
            (Some(managed), None) => self.registry.tell(ServiceInstanceTerminationInfo {
                message_id: self.registry.message_id(),
                service_name: managed.service.clone(),
                service_instance_id: managed.id,
                service_instance_network_address: managed.address,
            }),
            (None, _) => {}
        }
        let flushed = Instant::now() + FLUSH_WITHIN;
        while self.registry.to_agent.capacity() < TO_AGENT && Instant::now() < flushed {
            sleep(Duration::from_millis(2)).await;
        }
        sleep(Duration::from_millis(10)).await;
    }
}
