//! What people write behind options, checked before anything is done.

use ureq::http::Uri;

/// A number of a session, an instance or an event.
pub fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "it must be a whole number".to_owned())
}

/// Where the Manager's HTTP API is.
pub fn url(text: &str) -> Result<String, String> {
    let uri = text.parse::<Uri>().ok();
    match uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.host()?))) {
        Some(("http", _)) => Ok(text.to_owned()),
        Some(("https", _)) => Err("the Manager speaks plain HTTP only: write http://HOST:PORT".into()),
        _ => Err("write it as http://HOST:PORT".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_managers_address_is_a_url_of_plain_http() {
        for good in ["http://127.0.0.1:55580", "http://manager/", "http://[::1]:55580"] {
            assert_eq!(url(good).as_deref(), Ok(good));
        }
        for (bad, expected) in [
            ("foo", "http://HOST:PORT"),
            ("127.0.0.1:55580", "http://HOST:PORT"),
            ("https://manager", "plain HTTP only"),
            ("", "http://HOST:PORT"),
        ] {
            assert!(url(bad).is_err_and(|reason| reason.contains(expected)), "{bad}");
        }
    }

    #[test]
    fn numbers_are_whole() {
        assert_eq!(number("7"), Ok(7));
        assert!(["x", "-1", "1.5", ""].iter().all(|text| number(text).is_err()));
    }
}
