//! What people write behind options, checked before anything is done.

use std::fmt;
use std::path::PathBuf;

use ureq::http::Uri;

/// A number of a session, an instance or an event.
pub fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "it must be a whole number".to_owned())
}

/// Where the Manager is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// Its Unix socket.
    Socket(PathBuf),
    /// Its HTTP API over TCP, without a slash at the end.
    Url(String),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
            Self::Url(url) => f.write_str(url),
        }
    }
}

/// Where the Manager is: `unix:FILE`, `https://HOST:PORT`, or `http://HOST:PORT`.
pub fn manager(text: &str) -> Result<At, String> {
    if let Some(path) = text.strip_prefix("unix:").or_else(|| text.starts_with('/').then_some(text)) {
        return match path.is_empty() {
            true => Err("write it as unix:FILE".into()),
            false => Ok(At::Socket(path.into())),
        };
    }
    let uri = text.parse::<Uri>().ok();
    match uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.host()?))) {
        Some(("http" | "https", _)) => Ok(At::Url(text.trim_end_matches('/').to_owned())),
        _ => Err(
            "write it as unix:FILE or https://HOST:PORT, or http:// where the Manager has no certificates"
                .into(),
        ),
    }
}

/// A text fit for a query of a URL.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~,".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_at_a_socket_or_a_url() {
        for good in ["http://127.0.0.1:55580", "https://manager", "http://[::1]:55580", "unix:/run/m.sock"] {
            assert_eq!(manager(good).map(|at| at.to_string()).as_deref(), Ok(good));
        }
        assert_eq!(manager("/run/m.sock"), Ok(At::Socket("/run/m.sock".into())));
        assert_eq!(manager("http://manager/"), Ok(At::Url("http://manager".into())));
        for (bad, expected) in [
            ("foo", "https://HOST:PORT"),
            ("127.0.0.1:55580", "https://HOST:PORT"),
            ("ftp://manager", "https://HOST:PORT"),
            ("unix:", "unix:FILE"),
            ("", "unix:FILE"),
        ] {
            assert!(manager(bad).is_err_and(|reason| reason.contains(expected)), "{bad}");
        }
    }

    #[test]
    fn numbers_are_whole() {
        assert_eq!(number("7"), Ok(7));
        assert!(["x", "-1", "1.5", ""].iter().all(|text| number(text).is_err()));
    }
}
