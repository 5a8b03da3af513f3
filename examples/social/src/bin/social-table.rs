//! The table: the 10 most recent posts.

use anyhow::Result;
use patchbay_sdk::ResilientPlug;
use social::calls::{Post, Refusal, run};
use social::redis::{Value, command};

#[tokio::main]
async fn main() -> Result<()> {
    run("posts", |posts, ()| read(posts)).await
}

async fn read(posts: ResilientPlug) -> Result<Vec<Post>, Refusal> {
    match command(&posts, &[b"ZREVRANGE", b"posts", b"0", b"9"]).await? {
        Value::List(list) => list.iter().map(|post| Ok(serde_json::from_slice(post)?)).collect(),
        _ => Ok(Vec::new()),
    }
}
