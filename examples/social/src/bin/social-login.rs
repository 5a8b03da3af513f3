//! Logs users in: a token for a name and password, a name for a token.

use anyhow::Result;
use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordVerifier as _};
use patchbay_sdk::ResilientPlug;
use social::calls::{Account, LoginCall, Refusal, run};
use social::redis::command;

/// How long a token is good, in seconds.
const TOKEN_SECONDS: &[u8] = b"3600";

#[tokio::main]
async fn main() -> Result<()> {
    run("users", reply).await
}

async fn reply(users: ResilientPlug, call: LoginCall) -> Result<String, Refusal> {
    match call {
        LoginCall::Login(account) => login(&users, account).await,
        LoginCall::WhoIs(token) => who_is(&users, &token).await,
    }
}

async fn login(users: &ResilientPlug, account: Account) -> Result<String, Refusal> {
    let wrong = || Refusal::new(401, "unknown name or wrong password");
    let key = format!("user:{}", account.user);
    let hash = command(users, &[b"GET", key.as_bytes()]).await?.text().ok_or_else(wrong)?;
    let hash = PasswordHash::new(&hash).map_err(|error| Refusal::new(500, error.to_string()))?;
    Argon2::default().verify_password(account.password.as_bytes(), &hash).map_err(|_| wrong())?;
    let token = format!("{:032x}", rand::random::<u128>());
    let key = format!("token:{token}");
    command(users, &[b"SET", key.as_bytes(), account.user.as_bytes(), b"EX", TOKEN_SECONDS]).await?;
    Ok(token)
}

async fn who_is(users: &ResilientPlug, token: &str) -> Result<String, Refusal> {
    let key = format!("token:{token}");
    let user = command(users, &[b"GET", key.as_bytes()]).await?.text();
    user.ok_or_else(|| Refusal::new(401, "unknown or expired token; log in first"))
}
