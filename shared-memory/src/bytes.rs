//! Bytes that another process may write at any time.
//!
//! They are never a `&[u8]`: the compiler could read such bytes twice and believe to have seen the same. They are
//! atomics, read and written without order; what makes a byte visible is the index that is published after it.

/// One byte of a ring.
#[cfg(not(loom))]
pub type Byte = std::sync::atomic::AtomicU8;

#[cfg(not(loom))]
mod words {
    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

    /// The same bytes as words where they are aligned.
    fn words(bytes: &[AtomicU8]) -> (&[AtomicU8], &[AtomicU64], &[AtomicU8]) {
        // SAFETY: eight bytes, aligned, are a valid AtomicU64 whatever they hold, and both types may be
        // written through a shared reference. An honest peer never touches these bytes meanwhile, so accesses of
        // two sizes do not race; another one is no part of this program.
        #[expect(unsafe_code, reason = "eight bytes at a time are eight times faster than one")]
        unsafe {
            bytes.align_to()
        }
    }

    /// From so many bytes on the processor copies faster by one instruction than by words.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    const LONG: usize = 1024;

    /// Copies long runs of bytes by an instruction whose accesses the compiler does not see. Returns whether it did.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[expect(unsafe_code, reason = "words take more than twice as long as the processor needs")]
    fn copy_long(from: *const u8, to: *mut u8, bytes: usize) -> bool {
        if bytes < LONG {
            return false;
        }
        // SAFETY: both callers pass the start and the length of two slices, of which at most one is private and
        // borrowed for writing; the other consists of atomics, which may be written through a shared reference. The
        // direction flag is clear, as the ABI demands.
        unsafe {
            std::arch::asm!(
                "rep movsb",
                inout("rcx") bytes => _,
                inout("rsi") from => _,
                inout("rdi") to => _,
                options(nostack, preserves_flags)
            );
        }
        true
    }

    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    fn copy_long(_: *const u8, _: *mut u8, _: usize) -> bool {
        false
    }

    /// Copies bytes out of shared memory. Both have the same length.
    pub(crate) fn read(from: &[AtomicU8], into: &mut [u8]) {
        assert_eq!(from.len(), into.len(), "as many bytes as there is room for");
        if copy_long(from.as_ptr().cast(), into.as_mut_ptr(), into.len()) {
            return;
        }
        let (first, middle, last) = words(from);
        let (into_first, rest) = into.split_at_mut(first.len());
        let (into_middle, into_last) = rest.split_at_mut(middle.len() * size_of::<u64>());
        for (byte, place) in first.iter().chain(last).zip(into_first.iter_mut().chain(into_last)) {
            *place = byte.load(Relaxed);
        }
        for (word, place) in middle.iter().zip(into_middle.chunks_exact_mut(size_of::<u64>())) {
            place.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
        }
    }

    /// Copies bytes into shared memory. Both have the same length.
    pub(crate) fn write(into: &[AtomicU8], from: &[u8]) {
        assert_eq!(from.len(), into.len(), "as many bytes as there is room for");
        if copy_long(from.as_ptr(), into.as_ptr().cast::<u8>().cast_mut(), from.len()) {
            return;
        }
        let (first, middle, last) = words(into);
        let (from_first, rest) = from.split_at(first.len());
        let (from_middle, from_last) = rest.split_at(middle.len() * size_of::<u64>());
        for (place, byte) in first.iter().chain(last).zip(from_first.iter().chain(from_last)) {
            place.store(*byte, Relaxed);
        }
        let (from_words, _) = from_middle.as_chunks();
        for (place, word) in middle.iter().zip(from_words) {
            place.store(u64::from_ne_bytes(*word), Relaxed);
        }
    }
}

#[cfg(not(loom))]
pub(crate) use words::{read, write};

/// One byte of a ring, in which the model checker sees every access that is not ordered.
#[cfg(loom)]
#[derive(Debug, Default)]
pub struct Byte(loom::cell::UnsafeCell<u8>);

#[cfg(loom)]
#[expect(unsafe_code, reason = "the model checker looks whether the accesses race")]
mod modelled {
    use super::Byte;

    // SAFETY: loom fails the model when two threads use a cell at once.
    unsafe impl Sync for Byte {}

    pub(crate) fn read(from: &[Byte], into: &mut [u8]) {
        assert_eq!(from.len(), into.len(), "as many bytes as there is room for");
        for (byte, place) in from.iter().zip(into) {
            // SAFETY: loom has looked that nobody writes it.
            *place = byte.0.with(|pointer| unsafe { *pointer });
        }
    }

    pub(crate) fn write(into: &[Byte], from: &[u8]) {
        assert_eq!(from.len(), into.len(), "as many bytes as there is room for");
        for (place, byte) in into.iter().zip(from) {
            // SAFETY: loom has looked that nobody uses it.
            place.0.with_mut(|pointer| unsafe { *pointer = *byte });
        }
    }
}

#[cfg(loom)]
pub(crate) use modelled::{read, write};

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_at_every_offset_and_length() {
        let memory: Vec<Byte> = (0..1500).map(|_| Byte::new(0)).collect();
        for from in if cfg!(miri) { 0..9 } else { 0..20 } {
            for to in (from..48).chain(if cfg!(miri) { 100..101 } else { 1020..1060 }).chain([1500]) {
                let sent: Vec<u8> = (from..to).map(|byte| (byte * 7 + to) as u8).collect();
                write(&memory[from..to], &sent);
                let mut got = vec![0; to - from];
                read(&memory[from..to], &mut got);
                assert_eq!(got, sent, "{from}..{to}");
            }
        }
    }
}
