//! The listeners: queries in, answers out, over UDP and TCP.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hickory_server::Server;
use hickory_server::net::NetError;
use hickory_server::net::runtime::{Time, TokioTime};
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::Record;
use hickory_server::proto::serialize::binary::BinEncoder;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{MessageResponse, MessageResponseBuilder};
use ssmmp::Repeated;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::answer::{Answer, answer};
use super::names::Names;

/// Clients connected over TCP at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 128;
/// A TCP client must send its next query, and take its answer, within this time.
const IDLE: Duration = Duration::from_secs(5);
/// Largest answer over UDP that is sent whatever a client allows, bytes: no fragments.
const MAX_UDP_BYTES: u16 = 1232;
/// The EDNS version spoken (RFC 6891).
const EDNS_VERSION: u8 = 0;

/// Both sockets of one address.
pub struct Listeners {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Listeners {
    /// Opens both; with port 0 they get the same free port.
    ///
    /// # Errors
    /// The address is in use or is not this machine's.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let udp = UdpSocket::bind(address).await?;
        let tcp = TcpListener::bind(udp.local_addr()?).await?;
        Ok(Self { udp, tcp })
    }

    /// Where they listen.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Answers until the sockets fail.
    pub async fn serve(self, names: Arc<Names>) {
        let mut udp = Server::new(Handler(names.clone()));
        udp.register_socket(self.udp);
        tokio::select! {
            ended = udp.block_until_done() => {
                warn!("DNS over UDP has ended: {}", ended.err().map_or_else(String::new, |e| e.to_string()));
            }
            () = serve_tcp(self.tcp, names) => {}
        }
    }
}

/// DNS clients that can't be accepted.
static NOT_ACCEPTED: Repeated = Repeated::new();

/// Hickory's own TCP server has no bound on its clients.
async fn serve_tcp(listener: TcpListener, names: Arc<Names>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(times) = crate::again(&NOT_ACCEPTED) {
                    warn!(times, "a DNS client can't be accepted, it is tried again: {error}");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let handler = Handler(names.clone());
        tokio::spawn(async move {
            if let Err(error) = serve_client(stream, peer, &handler).await {
                debug!(%peer, "a DNS client's connection ended: {error}");
            }
            drop(place);
        });
    }
}

/// Length, query, length, answer (RFC 1035, 4.2.2).
async fn serve_client(mut stream: TcpStream, peer: SocketAddr, handler: &Handler) -> io::Result<()> {
    loop {
        let query = tokio::time::timeout(IDLE, async {
            let length = stream.read_u16().await?;
            let mut bytes = vec![0; usize::from(length)];
            stream.read_exact(&mut bytes).await?;
            Ok::<_, io::Error>(bytes)
        });
        let request = Request::from_bytes(query.await??, peer, Protocol::Tcp)
            .map_err(|e| io::Error::other(e.to_string()))?;
        let collected = Collect::default();
        handler.handle_request::<_, TokioTime>(&request, collected.clone()).await;
        let bytes = std::mem::take(&mut *collected.0.lock().unwrap_or_else(PoisonError::into_inner));
        let Ok(length) = u16::try_from(bytes.len()) else { return Ok(()) };
        let message = [&length.to_be_bytes()[..], &bytes].concat();
        tokio::time::timeout(IDLE, stream.write_all(&message)).await??;
    }
}

/// An answer's bytes.
#[derive(Clone, Default)]
struct Collect(Arc<Mutex<Vec<u8>>>);

#[async_trait]
impl ResponseHandler for Collect {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::new();
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(u16::MAX);
        let info = response.destructive_emit(&mut encoder)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
        Ok(info)
    }
}

struct Handler(Arc<Names>);

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_version(EDNS_VERSION).set_max_payload(asked.max_payload().clamp(512, MAX_UDP_BYTES));
            edns
        });
        let refused =
            |code| Answer { code, authoritative: false, answers: Vec::new(), authority: Vec::new() };
        let answer = match (request.metadata.message_type, request.metadata.op_code) {
            (MessageType::Response, _) => refused(ResponseCode::FormErr),
            _ if request.version() > EDNS_VERSION => refused(ResponseCode::BADVERS),
            (_, OpCode::Query) => match request.request_info() {
                Ok(info) => answer(&self.0, info.query),
                Err(_) => refused(ResponseCode::FormErr),
            },
            _ => refused(ResponseCode::NotImp),
        };
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = answer.code;
        metadata.authoritative = answer.authoritative;
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let response = builder.build(metadata, &answer.answers, &[], &answer.authority, &[]);
        response_handle.send_response(response).await.unwrap_or_else(|error| {
            debug!("a DNS answer could not be sent: {error}");
            metadata.response_code = ResponseCode::ServFail;
            ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
        })
    }
}
