//! Enough of Redis's protocol (RESP 2) for this application, over any session. The usual client crates
//! open their connections themselves; here the Manager chooses where a plug leads.

use std::io;
use std::sync::Arc;

use patchbay_sdk::{Repeat, ResilientPlug, Session};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::calls::Refusal;

/// Longest string accepted, in bytes.
const MAX_STRING_BYTES: usize = 16 << 20;
/// Longest list accepted.
const MAX_LIST: usize = 10_000;

/// An answer of Redis.
#[derive(Debug, PartialEq, Eq)]
pub enum Value {
    /// No value.
    Nil,
    /// A number.
    Number(i64),
    /// A string.
    Bytes(Vec<u8>),
    /// A list of strings.
    List(Vec<Vec<u8>>),
}

impl Value {
    /// The string as text.
    pub fn text(self) -> Option<String> {
        match self {
            Self::Bytes(bytes) => String::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

/// Sends a command, again when the session ends before its answer is here. Use it for commands that may
/// be repeated.
///
/// # Errors
/// Redis refused, or no session.
pub async fn command(plug: &ResilientPlug, parts: &[&[u8]]) -> Result<Value, Refusal> {
    let request: Arc<[u8]> = encode(parts).into();
    let answer = plug
        .exchange(Repeat::Safe, |session| {
            let request = request.clone();
            Box::pin(async move { talk(&mut BufReader::new(session), &request).await })
        })
        .await?;
    answer.map_err(|message| Refusal::new(502, format!("redis: {message}")))
}

fn encode(parts: &[&[u8]]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        request.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        request.extend_from_slice(part);
        request.extend_from_slice(b"\r\n");
    }
    request
}

async fn talk(stream: &mut BufReader<&mut Session>, request: &[u8]) -> io::Result<Result<Value, String>> {
    stream.write_all(request).await?;
    let (kind, rest) = line(stream).await?;
    Ok(Ok(match kind {
        '+' => Value::Bytes(rest.into_bytes()),
        // It reads its data back after a restart: another session later will do.
        '-' if rest.starts_with("LOADING") => return Err(io::Error::other(rest)),
        '-' => return Ok(Err(rest)),
        ':' => Value::Number(number(&rest)?),
        '$' => string(stream, &rest).await?.map_or(Value::Nil, Value::Bytes),
        '*' => {
            let length = usize::try_from(number(&rest)?).unwrap_or(0);
            if length > MAX_LIST {
                return Err(bad("the list is too long"));
            }
            let mut list = Vec::with_capacity(length);
            for _ in 0..length {
                let (_, length) = line(stream).await?;
                list.push(string(stream, &length).await?.unwrap_or_default());
            }
            Value::List(list)
        }
        _ => return Err(bad("unknown answer")),
    }))
}

async fn line(stream: &mut BufReader<&mut Session>) -> io::Result<(char, String)> {
    let mut text = String::new();
    if stream.read_line(&mut text).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut characters = text.trim_end().chars();
    let kind = characters.next().ok_or_else(|| bad("an empty answer"))?;
    Ok((kind, characters.collect()))
}

async fn string(stream: &mut BufReader<&mut Session>, length: &str) -> io::Result<Option<Vec<u8>>> {
    let Ok(length) = usize::try_from(number(length)?) else { return Ok(None) };
    if length > MAX_STRING_BYTES {
        return Err(bad("the string is too long"));
    }
    let mut bytes = vec![0; length + 2];
    stream.read_exact(&mut bytes).await?;
    bytes.truncate(length);
    Ok(Some(bytes))
}

fn number(text: &str) -> io::Result<i64> {
    text.parse().map_err(|_| bad("not a number"))
}

fn bad(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
