//! The file that both ends map: made, sealed, and looked at before it is mapped.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::ftruncate;

use crate::error::Unusable;
use crate::layout::Rings;
use crate::region::Region;

/// What the file begins with; the last character is the version of its layout.
const MAGIC: [u8; 8] = *b"PATCHM01";
/// The header: MAGIC, then the sizes of the rings in bytes, 32 bits each, in the machine's order.
const HEADER_BYTES: usize = 16;
/// `MFD_NOEXEC_SEAL`, since Linux 6.3; some machines make no other memfd (`vm.memfd_noexec`).
const NOEXEC_SEAL: u32 = 8;
/// What `vm.overcommit_memory` says when memory that was promised is always there.
const NEVER_OVERCOMMIT: &str = "2";

fn seals() -> SealFlag {
    SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW
}

/// Makes the memory of a session. Its pages are taken from the system as they are used.
///
/// # Errors
/// The kernel refuses, or a page could be missing when it is touched.
pub fn create(rings: Rings) -> Result<OwnedFd, Unusable> {
    refuse_strict_overcommit()?;
    let usual = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = memfd_create(c"patchbay-session", usual | MFdFlags::from_bits_retain(NOEXEC_SEAL))
        .or_else(|_| memfd_create(c"patchbay-session", usual))
        .map_err(Unusable::kernel("memfd_create"))?;
    let size = i64::try_from(rings.total()).map_err(|_| Unusable::Header("too large"))?;
    ftruncate(&file, size).map_err(Unusable::kernel("ftruncate"))?;
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&(rings.of(0) as u32).to_ne_bytes());
    header[12..].copy_from_slice(&(rings.of(1) as u32).to_ne_bytes());
    let file = fs::File::from(file);
    let refused = |error: std::io::Error| {
        Unusable::kernel("pwrite")(nix::Error::from_raw(error.raw_os_error().unwrap_or(0)))
    };
    file.write_all_at(&header, 0).map_err(refused)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals())).map_err(Unusable::kernel("F_ADD_SEALS"))?;
    Ok(file.into())
}

/// Maps memory that somebody else made, after having looked whether touching it is safe.
///
/// # Errors
/// It is no sealed tmpfs memory of the size that its header says, a page could be missing when it is touched, or the
/// kernel refuses.
pub(crate) fn open(file: impl AsFd, writable: bool) -> Result<Region, Unusable> {
    refuse_strict_overcommit()?;
    let file = file.as_fd();
    let found = fcntl(file, FcntlArg::F_GET_SEALS).map_err(|_| Unusable::NotSealed)?;
    if !SealFlag::from_bits_retain(found).contains(seals()) {
        return Err(Unusable::NotSealed);
    }
    if fstatfs(file).map_err(Unusable::kernel("fstatfs"))?.filesystem_type() != TMPFS_MAGIC {
        return Err(Unusable::NotTmpfs);
    }
    let size = fstat(file).map_err(Unusable::kernel("fstat"))?.st_size;
    let rings = header(file)?;
    if i64::try_from(rings.total()) != Ok(size) {
        return Err(Unusable::Header("it says another size than the file has"));
    }
    Region::map(file, rings, writable).map_err(Unusable::kernel("mmap"))
}

/// The sizes that a file's header says, read once: the peer can change it.
fn header(file: impl AsFd) -> Result<Rings, Unusable> {
    let mut header = [0; HEADER_BYTES];
    let read = nix::sys::uio::pread(file, &mut header, 0).map_err(Unusable::kernel("pread"))?;
    if read < HEADER_BYTES || header[..8] != MAGIC {
        return Err(Unusable::Header("it is no session's memory, or of another version"));
    }
    let size =
        |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
    Rings::new(size(8), size(12)).ok_or(Unusable::Header("the size of a ring is out of bounds"))
}

/// With `vm.overcommit_memory` at 2 a page that was given back may be missing when it is touched again, which ends
/// the process that touches it; a peer can give pages back. With other values the kernel finds one, or ends
/// whichever process its limits name.
fn refuse_strict_overcommit() -> Result<(), Unusable> {
    static STRICT: OnceLock<bool> = OnceLock::new();
    let strict = STRICT.get_or_init(|| {
        fs::read_to_string("/proc/sys/vm/overcommit_memory")
            .map_or(true, |text| text.trim() == NEVER_OVERCOMMIT)
    });
    if *strict { Err(Unusable::StrictOvercommit) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::MIN_RING_BYTES;

    fn small() -> Rings {
        Rings::new(MIN_RING_BYTES, 2 * MIN_RING_BYTES).expect("good sizes")
    }

    #[test]
    fn memory_is_as_large_as_it_says_and_can_not_change() {
        let file = create(small()).expect("memory");
        let region = open(&file, true).expect("our own");
        assert_eq!(region.rings(), small());
        assert_eq!((region.ring(0).len(), region.ring(1).len()), (4096, 8192));
        for size in [0, 4096, 1 << 20] {
            assert_eq!(ftruncate(&file, size), Err(nix::Error::EPERM), "{size}");
        }
        let more = FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE);
        assert_eq!(fcntl(&file, more), Err(nix::Error::EPERM));
    }

    #[test]
    fn what_could_end_this_process_is_not_mapped() {
        let file = fs::File::from(create(small()).expect("memory"));
        let bad: [(&[u8], u64); 4] = [
            (b"PATCHM99", 0),
            (&[0, 0, 0, 0], 8),
            (&u32::MAX.to_ne_bytes(), 8),
            (&8192_u32.to_ne_bytes(), 8),
        ];
        for (bytes, at) in bad {
            let file = fs::File::from(create(small()).expect("memory"));
            file.write_all_at(bytes, at).expect("writable");
            assert!(matches!(open(&file, true), Err(Unusable::Header(_))), "{bytes:?} at {at}");
        }
        let unsealed = memfd_create(c"unsealed", MFdFlags::MFD_ALLOW_SEALING).expect("memory");
        let unsealed = fs::File::from(unsealed);
        let mut content = vec![0; small().total()];
        nix::sys::uio::pread(&file, &mut content, 0).expect("readable");
        unsealed.write_all_at(&content, 0).expect("writable");
        assert!(matches!(open(&unsealed, true), Err(Unusable::NotSealed)));
        let plain = tempfile::tempfile().expect("a file");
        assert!(matches!(open(&plain, true), Err(Unusable::NotSealed)));
        fcntl(&unsealed, FcntlArg::F_ADD_SEALS(seals())).expect("sealable");
        open(&unsealed, true).expect("sealed now");
    }
}
