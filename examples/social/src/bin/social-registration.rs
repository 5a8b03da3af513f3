//! Registers users: name and password hash go to Redis.

use anyhow::Result;
use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use patchbay_sdk::ResilientPlug;
use social::calls::{Account, Refusal, run};
use social::redis::{Value, command};

/// Longest name, in characters.
const MAX_NAME: usize = 64;

#[tokio::main]
async fn main() -> Result<()> {
    run("users", register).await
}

async fn register(users: ResilientPlug, account: Account) -> Result<(), Refusal> {
    let fit = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    if account.user.is_empty() || account.user.chars().count() > MAX_NAME || !account.user.chars().all(fit) {
        return Err(Refusal::new(400, format!("a name has 1 to {MAX_NAME} letters, digits, `-` or `_`")));
    }
    if account.password.len() < 8 {
        return Err(Refusal::new(400, "a password has at least 8 characters"));
    }
    // Cheap parameters: this is an example, its users are made up.
    let params = Params::new(1024, 1, 1, None).map_err(|error| Refusal::new(500, error.to_string()))?;
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>())
        .map_err(|error| Refusal::new(500, error.to_string()))?;
    let hash = hasher
        .hash_password(account.password.as_bytes(), &salt)
        .map_err(|error| Refusal::new(500, error.to_string()))?
        .to_string();
    let key = format!("user:{}", account.user);
    match command(&users, &[b"SET", key.as_bytes(), hash.as_bytes(), b"NX"]).await? {
        Value::Nil => is_the_same(&users, &key, &account).await,
        _ => Ok(()),
    }
}

/// A registration that comes again, because its answer was lost, is the same registration.
async fn is_the_same(users: &ResilientPlug, key: &str, account: &Account) -> Result<(), Refusal> {
    let hash = command(users, &[b"GET", key.as_bytes()]).await?.text().unwrap_or_default();
    let same = PasswordHash::new(&hash)
        .is_ok_and(|hash| Argon2::default().verify_password(account.password.as_bytes(), &hash).is_ok());
    if same {
        return Ok(());
    }
    Err(Refusal::new(409, format!("`{}` is registered already", account.user)))
}
