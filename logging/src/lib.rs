//! How the agent and the Manager write their logs. In lines for people whatever a peer or a program said stands with its
//! control characters escaped.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::debug_fn;

/// How log lines look.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Begins to log to the standard error: what `RUST_LOG` says, or `filter` without it.
pub fn start(format: LogFormat, filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| filter.into());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A log that can't be written, on a full disk say, must not end the program: this would print, and panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.fmt_fields(fields()).init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// The fields of a log line, the message first.
fn fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    debug_fn(|out, field, value| {
        let text = format!("{value:?}");
        let text = ssmmp::printable(&text);
        match field.name() {
            "message" => write!(out, "{text}"),
            name => write!(out, "{name}={text}"),
        }
    })
    .delimited(" ")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_control_character_of_a_peer_reaches_a_line() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(fields())
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let said = "a\0b\u{1b}[2Jc\u{7f}d\u{9b}e\r\nf";
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(reason = said, shown = %said, number = 7, "it said {said}");
        });
        let written = String::from_utf8(lines.0.lock().expect("no panic").clone()).expect("UTF-8");
        let line = written.strip_suffix('\n').expect("one line");
        assert!(!line.contains(char::is_control), "{line:?}");
        let escaped = "a\\u{0}b\\u{1b}[2Jc\\u{7f}d\\u{9b}e\\r\\nf";
        assert!(line.contains(&format!("it said {escaped}")), "{line}");
        assert!(line.contains(&format!("shown={escaped}")) && line.contains("number=7"), "{line}");
    }
}
