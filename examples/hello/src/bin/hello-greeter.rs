//! Greets whoever's name comes in a line.

use patchbay_sdk::{Error, Service, Session};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let service = Service::start().await?;
    let names = service.socket("names")?;
    service
        .run(async {
            loop {
                tokio::spawn(greet(names.accept().await?));
            }
        })
        .await
}

async fn greet(session: Session) -> std::io::Result<()> {
    let mut session = BufReader::new(session);
    let mut name = String::new();
    while session.read_line(&mut name).await? > 0 {
        session.write_all(format!("hello, {}\n", name.trim()).as_bytes()).await?;
        name.clear();
    }
    Ok(())
}
