//! The Manager and its agents over real sockets: hostile ones, and ones of an older dialect.

mod hostile;
mod manager;
mod memory;
mod semi;
