//! Takes a line from a user, asks the greeter, and gives its answer back.

use patchbay_sdk::{Error, Plug, Service, Session};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let service = Service::start().await?;
    let (users, greeter) = (service.socket("users")?, service.plug("greeter")?);
    service
        .run(async {
            loop {
                tokio::spawn(serve(users.accept().await?, greeter.clone()));
            }
        })
        .await
}

async fn serve(user: Session, greeter: Plug) -> Result<(), Error> {
    let mut user = BufReader::new(user);
    let mut answers = BufReader::new(greeter.connect().await?);
    let mut line = String::new();
    while user.read_line(&mut line).await? > 0 {
        answers.write_all(line.as_bytes()).await?;
        line.clear();
        if answers.read_line(&mut line).await? == 0 {
            break;
        }
        user.write_all(line.as_bytes()).await?;
        line.clear();
    }
    Ok(())
}
