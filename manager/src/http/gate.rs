//! Who may do what over HTTP: a web page that somebody looks at can't drive the Manager, and over TCP nobody
//! does anything without a token. Over the socket its file's mode and group decide.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::serve::Standing;
use super::tokens::{Role, Tokens};
use super::{Failure, failure};
use patchbay_manager_core::graph::MAX_FILE_BYTES;

/// How long a request's body may take, the wait for its turn included.
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// Bodies that are read at once, of those who connect over TCP, and of those at the socket; further ones wait.
const BODIES_AT_ONCE: usize = 16;
/// Largest body, bytes: a graph file.
const MAX_BODY_BYTES: usize = MAX_FILE_BYTES + 1024;

/// The way that a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// The Unix socket.
    Socket,
    /// TCP.
    Tcp(SocketAddr),
}

/// What requests are checked against.
#[derive(Clone, Debug)]
pub struct Gate {
    tokens: Option<Tokens>,
    /// Names of this host that requests may be for, besides its addresses and `localhost`.
    names: Arc<[String]>,
    bodies: Arc<Semaphore>,
    /// Nobody over TCP, however slow, has the socket's users wait.
    bodies_at_socket: Arc<Semaphore>,
}

impl Gate {
    /// Without tokens nothing is answered over TCP.
    pub fn new(tokens: Option<Tokens>, names: Vec<String>) -> Self {
        let turns = || Arc::new(Semaphore::new(BODIES_AT_ONCE));
        Self { tokens, names: names.into(), bodies: turns(), bodies_at_socket: turns() }
    }

    fn check(&self, request: &Request) -> Result<(), Failure> {
        let via = request.extensions().get::<Via>().copied();
        let headers = request.headers();
        if via != Some(Via::Socket) {
            self.check_host(headers)?;
        }
        check_origin(headers)?;
        let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
        if via != Some(Via::Socket) {
            let is_plan = request.uri().path() == "/v1/plan";
            let role = self.role(headers)?;
            if changes && !is_plan && role != Role::Change {
                return Err(failure(StatusCode::FORBIDDEN, "this token may only read".into()));
            }
        }
        if changes { check_type(request) } else { Ok(()) }
    }

    /// A page whose host's name was made to lead here sends that name.
    fn check_host(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let host = text(headers, header::HOST).unwrap_or_default();
        let name = without_port(host).to_ascii_lowercase();
        let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        if is_address
            || name == "localhost"
            || self.names.iter().any(|known| known.eq_ignore_ascii_case(&name))
        {
            return Ok(());
        }
        let message =
            format!("`{host}` is not this Manager's host; say --http-name if it is one of its names");
        Err(failure(StatusCode::MISDIRECTED_REQUEST, message))
    }

    fn role(&self, headers: &HeaderMap) -> Result<Role, Failure> {
        let said = text(headers, header::AUTHORIZATION);
        let token =
            said.and_then(|said| said.split_once(' ')).filter(|(how, _)| how.eq_ignore_ascii_case("bearer"));
        let role = token.and_then(|(_, token)| self.tokens.as_ref()?.role(token.trim()));
        role.ok_or_else(|| {
            let message = match token {
                Some(_) => "this token is not known here; `patchbay login` keeps another one",
                None => "a token is needed over TCP: `patchbay login`, or PATCHBAY_TOKEN",
            };
            failure(StatusCode::UNAUTHORIZED, message.into())
        })
    }

    async fn with_body(&self, request: Request) -> Result<Request, Failure> {
        if request.body().is_end_stream() {
            return Ok(request);
        }
        let (head, body) = request.into_parts();
        let bodies = match head.extensions.get::<Via>() {
            Some(Via::Socket) => &self.bodies_at_socket,
            _ => &self.bodies,
        };
        let read = timeout(BODY_WITHIN, async {
            let _turn = bodies.acquire().await;
            to_bytes(body, MAX_BODY_BYTES).await
        });
        match read.await {
            Ok(Ok(bytes)) => Ok(Request::from_parts(head, Body::from(bytes))),
            Ok(Err(error)) => {
                let message = format!("the body can't be read: {error}; it may have {MAX_BODY_BYTES} bytes");
                Err(failure(StatusCode::PAYLOAD_TOO_LARGE, message))
            }
            Err(_) => {
                let message = format!("the body did not come within {} s", BODY_WITHIN.as_secs());
                Err(failure(StatusCode::REQUEST_TIMEOUT, message))
            }
        }
    }
}

/// Lets through what may come in, with its body read.
pub async fn gate(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    if let Err(refused) = gate.check(&request) {
        let needs_token = refused.status == StatusCode::UNAUTHORIZED;
        let mut response = refused.into_response();
        if needs_token {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        return response;
    }
    if let Some(standing) = request.extensions().get::<Standing>() {
        standing.let_in();
    }
    match gate.with_body(request).await {
        Ok(request) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

/// Browsers say which page a request is from; only this Manager's own would be let in.
fn check_origin(headers: &HeaderMap) -> Result<(), Failure> {
    let host = text(headers, header::HOST).unwrap_or_default();
    let is_own = |origin: &str| {
        let own = ["http", "https"].map(|scheme| format!("{scheme}://{host}"));
        !host.is_empty() && own.iter().any(|own| origin.eq_ignore_ascii_case(own))
    };
    let foreign_page =
        headers.contains_key(header::ORIGIN) && !text(headers, header::ORIGIN).is_some_and(is_own);
    let site = text(headers, header::HeaderName::from_static("sec-fetch-site"));
    if foreign_page || site.is_some_and(|site| site != "same-origin" && site != "none") {
        return Err(failure(StatusCode::FORBIDDEN, "requests of other web pages are refused".into()));
    }
    Ok(())
}

/// What changes something says what it is, which a form of a web page can't.
fn check_type(request: &Request) -> Result<(), Failure> {
    let wanted = match request.uri().path() {
        "/v1/plan" | "/v1/apps" => "application/toml",
        _ => "application/json",
    };
    let said = text(request.headers(), header::CONTENT_TYPE).unwrap_or_default();
    let kind = said.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case(wanted) {
        return Ok(());
    }
    let message = format!("the content type must be {wanted}, not `{kind}`");
    Err(failure(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = axum::http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).expect("a request")
    }

    fn over(via: Via, mut request: Request, gate: &Gate) -> u16 {
        request.extensions_mut().insert(via);
        gate.check(&request).map_or_else(|refused| refused.status.as_u16(), |()| 200)
    }

    fn tcp() -> Via {
        Via::Tcp(SocketAddr::from(([127, 0, 0, 1], 1)))
    }

    #[test]
    fn over_the_socket_no_token_is_needed_and_no_web_page_gets_in() {
        let gate = Gate::new(None, Vec::new());
        let json = ("content-type", "application/json");
        for (method, path, headers, expected) in [
            ("GET", "/v1/status", vec![], 200),
            ("POST", "/v1/apps/x/stop", vec![json], 200),
            ("POST", "/v1/apps/x/stop", vec![], 415),
            ("POST", "/v1/apps/x/stop", vec![("content-type", "text/plain")], 415),
            ("PUT", "/v1/apps", vec![json], 415),
            ("PUT", "/v1/apps", vec![("content-type", "application/toml; charset=utf-8")], 200),
            ("POST", "/v1/apps/x/stop", vec![json, ("origin", "http://evil.example")], 403),
            ("POST", "/v1/apps/x/stop", vec![json, ("origin", "null")], 403),
            ("GET", "/v1/apps", vec![("sec-fetch-site", "cross-site")], 403),
        ] {
            assert_eq!(
                over(Via::Socket, request(method, path, &headers), &gate),
                expected,
                "{method} {path} {headers:?}"
            );
        }
    }

    #[test]
    fn over_tcp_a_token_is_needed_and_the_host_must_be_this_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tokens");
        let change = super::super::tokens::add(&file, Role::Change).expect("made");
        let read = super::super::tokens::add(&file, Role::Read).expect("made");
        let gate = Gate::new(Some(Tokens::read(&file).expect("read")), vec!["manager.example".into()]);
        let (change, read) = (format!("Bearer {change}"), format!("bearer {read}"));
        let json = ("content-type", "application/json");
        for (method, path, token, host, expected) in [
            ("GET", "/v1/status", Some(&change), "127.0.0.1:55580", 200),
            ("GET", "/v1/status", Some(&read), "[::1]:55580", 200),
            ("GET", "/v1/status", Some(&read), "Manager.example", 200),
            ("GET", "/v1/status", Some(&read), "localhost:1", 200),
            ("GET", "/v1/status", Some(&read), "evil.example:55580", 421),
            ("GET", "/v1/status", Some(&read), "", 421),
            ("GET", "/v1/status", None, "127.0.0.1", 401),
            ("GET", "/metrics", None, "127.0.0.1", 401),
            ("POST", "/v1/apps/x/stop", Some(&read), "127.0.0.1", 403),
            ("POST", "/v1/apps/x/stop", Some(&change), "127.0.0.1", 200),
        ] {
            let mut headers = vec![json, ("host", host)];
            headers.extend(token.map(|token| ("authorization", token.as_str())));
            assert_eq!(
                over(tcp(), request(method, path, &headers), &gate),
                expected,
                "{method} {path} {host}"
            );
        }
        // To plan changes nothing.
        let headers =
            [("content-type", "application/toml"), ("host", "127.0.0.1"), ("authorization", read.as_str())];
        assert_eq!(over(tcp(), request("POST", "/v1/plan", &headers), &gate), 200);
        let nobody = Gate::new(None, Vec::new());
        assert_eq!(over(tcp(), request("GET", "/v1/status", &headers), &nobody), 401);
    }

    /// Who sends a body slowly over TCP has nobody at the socket wait.
    #[tokio::test]
    async fn slow_bodies_over_tcp_take_no_turn_of_the_sockets() {
        let gate = Gate::new(None, Vec::new());
        let with = |via: Via, body: Body| {
            let mut request = axum::http::Request::post("/v1/plan").body(body).expect("a request");
            request.extensions_mut().insert(via);
            request
        };
        let slow = || {
            Body::from_stream(futures_util::stream::pending::<Result<axum::body::Bytes, std::io::Error>>())
        };
        let waiting: Vec<_> = (0..2 * BODIES_AT_ONCE)
            .map(|_| {
                let (gate, request) = (gate.clone(), with(tcp(), slow()));
                tokio::spawn(async move { gate.with_body(request).await.map(drop).map_err(drop) })
            })
            .collect();
        while gate.bodies.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let read = gate.with_body(with(Via::Socket, Body::from("[app]"))).await;
        assert!(read.is_ok(), "it is read at once");
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
