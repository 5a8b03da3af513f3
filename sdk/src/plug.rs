//! A plug: the client side of an abstract connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ssmmp::{
    Envelope, Hop, MessageId, Name, PlugTarget, Port, SessionAck, SessionRequest, SessionResponse, Status,
};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::registry::{Registry, Waiting, lock};
use crate::session::{End, Session};
use crate::{Error, configuration};

/// How long the Manager may take; it may have to start an instance first.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long a connection to the chosen instance may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Sessions asked for until one connects.
const TRIES: u32 = 3;

/// A plug of this service. Cheap to clone.
#[derive(Clone)]
pub struct Plug {
    pub(crate) registry: Arc<Registry>,
    pub(crate) name: Name,
    /// `None` for a service that runs alone.
    pub(crate) target: Option<PlugTarget>,
}

impl Plug {
    /// A new session with whatever instance the Manager chooses.
    ///
    /// # Errors
    /// The Manager refuses or does not answer in 60 seconds, or three chosen instances in a row could
    /// not be reached.
    pub async fn connect(&self) -> Result<Session, Error> {
        let Some(target) = &self.target else {
            let address = configuration::address_alone("PLUG", self.name.as_str())?;
            let stream = TcpStream::connect(address).await?;
            return Ok(Session::new(stream, self.registry.clone(), End::Alone)?);
        };
        let mut tries = 0;
        loop {
            let response = self.ask(target).await?;
            tries += 1;
            let ip = response.dest_service_instance_network_address.0;
            let address = SocketAddr::new(ip, response.dest_socket_port.0);
            match timeout(CONNECT_WITHIN, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    self.acknowledge(&response, stream.local_addr()?.port(), Status::OK);
                    let end = End::Source { plug: self.name.clone(), response: Box::new(response) };
                    return Ok(Session::new(stream, self.registry.clone(), end)?);
                }
                failed => {
                    self.acknowledge(&response, 0, Status::CONNECT_FAILED);
                    if tries == TRIES {
                        let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
                        return Err(failed
                            .map_or_else(|_| late(), |result| result.err().unwrap_or_else(late))
                            .into());
                    }
                }
            }
        }
    }

    async fn ask(&self, target: &PlugTarget) -> Result<SessionResponse, Error> {
        let no_answer = || Error::NoAnswer { plug: self.name.to_string() };
        let (Some(managed), Some(socket)) = (&self.registry.managed, &target.socket) else {
            return Err(no_answer());
        };
        let message_id = self.registry.message_id();
        let request = SessionRequest {
            message_id,
            source_service_name: managed.service.clone(),
            source_service_instance_id: managed.id,
            source_service_instance_network_address: managed.address,
            source_plug_name: self.name.clone(),
            dest_service_name: target.service.clone(),
            dest_socket_name: socket.clone(),
        };
        let request = Envelope::new(request, Hop::InstanceToAgent);
        let (sender, receiver) = oneshot::channel();
        lock(&self.registry.waiting).insert(message_id, Waiting { request: request.clone(), answer: sender });
        // However this ends, and when it is given up too.
        let _forget = Forget(&self.registry, message_id);
        let _ = self.registry.to_agent.send(request).await;
        let answer = timeout(ANSWER_WITHIN, receiver).await;
        let (response, reason) = answer.map_err(|_| no_answer())?.map_err(|_| no_answer())?;
        if response.status.is_success() {
            return Ok(response);
        }
        Err(Error::Refused { plug: self.name.to_string(), status: response.status.code(), reason })
    }

    fn acknowledge(&self, response: &SessionResponse, port: u16, status: Status) {
        self.registry.tell(SessionAck {
            message_id: response.message_id,
            source_service_name: response.source_service_name.clone(),
            source_service_instance_id: response.source_service_instance_id,
            source_plug_port: Port(port),
            dest_socket_new_port: if status.is_success() { response.dest_socket_port } else { Port::UNKNOWN },
            status,
        });
    }
}

/// Takes a request out of those that wait.
struct Forget<'a>(&'a Registry, MessageId);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.0.waiting).remove(&self.1);
    }
}
