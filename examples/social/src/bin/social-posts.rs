//! Takes posts: Redis keeps them by time. A post that comes twice is kept once.

use anyhow::Result;
use patchbay_sdk::ResilientPlug;
use social::calls::{Post, Refusal, run};
use social::redis::command;

/// Longest text, in bytes.
const MAX_TEXT_BYTES: usize = 10_000;
/// Posts that are kept; the oldest go first.
const KEPT: i64 = 100_000;

#[tokio::main]
async fn main() -> Result<()> {
    run("posts", add).await
}

async fn add(posts: ResilientPlug, post: Post) -> Result<(), Refusal> {
    if post.text.is_empty() || post.text.len() > MAX_TEXT_BYTES {
        return Err(Refusal::new(400, format!("a post has 1 to {MAX_TEXT_BYTES} bytes")));
    }
    let at = post.at_us.to_string();
    command(&posts, &[b"ZADD", b"posts", at.as_bytes(), &serde_json::to_vec(&post)?]).await?;
    let oldest_kept = (-KEPT - 1).to_string();
    command(&posts, &[b"ZREMRANGEBYRANK", b"posts", b"0", oldest_kept.as_bytes()]).await?;
    Ok(())
}
