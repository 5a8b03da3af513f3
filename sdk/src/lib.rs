//! What a Patchbay service links: its plugs and sockets as ordinary tokio streams.
//!
//! A service's code holds no SSMMP. [`Service::start`] reads how the agent has configured the instance;
//! [`Plug::connect`] gives a stream to whatever instance the Manager chose; [`Socket::accept`] gives the
//! other side. Acknowledgements, close infos, close requests, health and shutdown happen behind them.
//!
//! ```no_run
//! # async fn example() -> Result<(), patchbay_sdk::Error> {
//! use tokio::io::AsyncWriteExt;
//!
//! let service = patchbay_sdk::Service::start().await?;
//! let store = service.plug("store")?;
//! service
//!     .run(async {
//!         let mut session = store.connect().await?;
//!         session.write_all(b"hello").await?;
//!         Ok(())
//!     })
//!     .await
//! # }
//! ```
//!
//! Without an agent (started by hand, with no configuration in its arguments) a service takes plain
//! addresses from its environment: `PLUG_STORE=host:port`, `SOCKET_API=host:port`.

mod agent_link;
pub mod blocking;
mod configuration;
mod memory;
mod plug;
mod registry;
mod resilient;
mod service;
mod session;
mod socket;

pub use plug::Plug;
pub use resilient::{Limits, Repeat, ResilientPlug, Work};
pub use service::Service;
pub use session::Session;
pub use socket::Socket;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The arguments or the environment do not configure the service.
    #[error("{0}")]
    Configuration(String),
    /// The service has no such plug or socket.
    #[error("this service has no {kind} `{name}`")]
    Unknown {
        /// `plug` or `socket`.
        kind: &'static str,
        /// The name asked for.
        name: String,
    },
    /// The Manager refused a session.
    #[error("no session for the plug `{plug}` ({status}): {reason}")]
    Refused {
        /// The plug.
        plug: String,
        /// The status, as in HTTP.
        status: u16,
        /// The Manager's reason.
        reason: String,
    },
    /// The Manager did not answer in time.
    #[error("no answer to the request for a session of the plug `{plug}`")]
    NoAnswer {
        /// The plug.
        plug: String,
    },
    /// A resilient plug has used up its tries or its time.
    #[error("the plug `{plug}` failed {tries} times: {reason}")]
    Exhausted {
        /// The plug.
        plug: String,
        /// Sessions that were tried.
        tries: u32,
        /// How the last one failed.
        reason: String,
    },
    /// A connection failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The book's page is compiled with the documentation's examples.
#[cfg(doctest)]
#[doc = include_str!("../../docs/sdk.md")]
struct Book;
