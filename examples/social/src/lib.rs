//! What the services of the social application share: frames on a session, sessions kept for reuse, and
//! enough of Redis's protocol.

pub mod calls;
pub mod frames;
pub mod redis;
