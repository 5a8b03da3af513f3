//! The table: the 10 most recent posts.

use anyhow::Result;
use patchbay_sdk::Service;
use social::calls::{Post, Refusal, answer, serve};
use social::pool::Pool;
use social::redis::{Value, command};

#[tokio::main]
async fn main() -> Result<()> {
    let service = Service::start().await?;
    let posts = Pool::new(service.plug("posts")?);
    let socket = service.socket("api")?;
    let handle = move |session| {
        let posts = posts.clone();
        async move { answer(session, |()| read(&posts)).await }
    };
    service.run(serve(socket, handle)).await
}

async fn read(posts: &Pool) -> Result<Vec<Post>, Refusal> {
    match command(posts, &[b"LRANGE", b"posts", b"0", b"9"]).await? {
        Value::List(list) => list.iter().map(|post| Ok(serde_json::from_slice(post)?)).collect(),
        _ => Ok(Vec::new()),
    }
}
