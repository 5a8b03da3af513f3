//! Takes posts: the newest stands first in Redis.

use anyhow::Result;
use social::calls::{Post, Refusal, run};
use social::pool::Pool;
use social::redis::command;

/// Longest text, in bytes.
const MAX_TEXT_BYTES: usize = 10_000;
/// Posts that are kept.
const KEPT: &[u8] = b"999";

#[tokio::main]
async fn main() -> Result<()> {
    run("posts", add).await
}

async fn add(posts: Pool, post: Post) -> Result<(), Refusal> {
    if post.text.is_empty() || post.text.len() > MAX_TEXT_BYTES {
        return Err(Refusal::new(400, format!("a post has 1 to {MAX_TEXT_BYTES} bytes")));
    }
    command(&posts, &[b"LPUSH", b"posts", &serde_json::to_vec(&post)?]).await?;
    command(&posts, &[b"LTRIM", b"posts", b"0", KEPT]).await?;
    Ok(())
}
