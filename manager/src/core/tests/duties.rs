//! The Manager's duties towards those who fail.
