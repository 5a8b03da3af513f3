//! Who is who in Patchbay, proven by certificates: they are made and revoked here, read and checked with errors that
//! say what to do, and TLS 1.3 is configured with them. Nothing here is asynchronous or knows SSMMP; parsing, signing
//! and verifying are the libraries' (rcgen, x509-parser, rustls with ring).

mod authority;
mod authority_folder;
mod certificate;
mod files;
mod folder;
mod live;
mod peer;
mod role;
#[cfg(feature = "tokio")]
mod stream;
mod tls;

pub use authority::{Authority, AuthorityError, BACKDATED, Issued, Names};
pub use authority_folder::{AuthorityFolder, FolderError, Shown, State};
pub use certificate::{About, Unreadable, fingerprint};
pub use files::{PRIVATE_FILE, PRIVATE_FOLDER, make_folder, write_new, write_over};
pub use folder::{Expected, Identity, Problem, load};
pub use live::Live;
pub use peer::{looks_like_tls, refusal};
pub use role::{InvalidName, LONGEST_NAME, MANAGER_NAME, Role, TRUST_DOMAIN, check_name};
#[cfg(feature = "tokio")]
pub use stream::{Inward, SPEAKS_TLS};

#[cfg(test)]
mod tests;

/// A time as people read it, UTC, to the second.
pub fn shown_time(time: std::time::SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
