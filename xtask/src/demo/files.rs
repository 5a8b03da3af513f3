//! Real files of this machine, and one large made one.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Where every Debian machine has texts.
const PLACES: [&str; 3] = ["/usr/share/common-licenses", "/usr/share/doc", "/usr/share/perl"];
/// Longest file taken, in bytes.
const MAX_BYTES: u64 = 4 << 20;
/// Length of the large file, in bytes.
pub const LARGE_BYTES: usize = 64 << 20;

/// The first `count` files of the machine's texts, always the same ones on the same machine.
pub fn choose(count: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for place in PLACES {
        collect(Path::new(place), &mut found, count);
    }
    found.truncate(count);
    found
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>, count: usize) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        if found.len() >= count {
            return;
        }
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            collect(&path, found, count);
        } else if metadata.is_file() && (1..=MAX_BYTES).contains(&metadata.len()) {
            found.push(path);
        }
    }
}

/// Bytes that no compression or zero page could stand for; the same at every run.
pub fn large() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LARGE_BYTES);
    let mut block = Sha256::digest(b"patchbay");
    while bytes.len() < LARGE_BYTES {
        bytes.extend_from_slice(&block);
        block = Sha256::digest(block);
    }
    bytes
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
