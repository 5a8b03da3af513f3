//! The memory of a session, mapped into this process.

use crate::bytes::Byte;
use crate::layout::{Control, Rings};

#[cfg(not(loom))]
pub(crate) use mapped::Region;
#[cfg(loom)]
pub(crate) use modelled::Region;

#[cfg(not(loom))]
#[expect(unsafe_code, reason = "memory comes from the kernel as an address")]
mod mapped {
    use std::num::NonZeroUsize;
    use std::os::fd::AsFd;
    use std::ptr::NonNull;

    use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};

    use super::{Byte, Control, Rings};

    /// The control words and both rings. Unmapped when dropped.
    #[derive(Debug)]
    pub(crate) struct Region {
        start: NonNull<u8>,
        rings: Rings,
        backing: Backing,
    }

    #[derive(Debug, PartialEq)]
    enum Backing {
        File,
        #[cfg(test)]
        Heap,
    }

    // SAFETY: everything in it is an atomic.
    unsafe impl Send for Region {}
    // SAFETY: everything in it is an atomic.
    unsafe impl Sync for Region {}

    impl Region {
        /// Maps a file of exactly the size of these rings that can't become smaller.
        pub(crate) fn map(file: impl AsFd, rings: Rings, writable: bool) -> nix::Result<Self> {
            let length = NonZeroUsize::new(rings.total()).ok_or(nix::Error::EINVAL)?;
            let access =
                if writable { ProtFlags::PROT_READ | ProtFlags::PROT_WRITE } else { ProtFlags::PROT_READ };
            // SAFETY: the kernel chooses the address, so nothing of ours is there.
            let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, file, 0)? };
            Ok(Self { start: start.cast(), rings, backing: Backing::File })
        }

        /// The same in this process's own memory: for tests, and where there is no kernel to ask.
        #[cfg(test)]
        pub(crate) fn on_heap(rings: Rings) -> Self {
            // SAFETY: the layout has a size.
            let start = unsafe { std::alloc::alloc_zeroed(Self::layout(rings)) };
            let start = NonNull::new(start).expect("there is memory");
            Self { start, rings, backing: Backing::Heap }
        }

        #[cfg(test)]
        fn layout(rings: Rings) -> std::alloc::Layout {
            let page = crate::layout::CONTROL_BYTES;
            std::alloc::Layout::from_size_align(rings.total(), page).expect("a small size")
        }

        pub(crate) fn rings(&self) -> Rings {
            self.rings
        }

        pub(crate) fn control(&self) -> &Control {
            // SAFETY: the mapping begins at a page, holds CONTROL_BYTES, and stays until self is dropped;
            // Control consists of atomics, for which every content is valid.
            unsafe { self.start.cast().as_ref() }
        }

        pub(crate) fn ring(&self, ring: usize) -> &[Byte] {
            let (start, length) = (self.rings.start(ring), self.rings.of(ring));
            // SAFETY: the mapping has `rings.total()` bytes, of which these are a part, until self is
            // dropped; atomics of a byte have every content and alignment.
            unsafe { std::slice::from_raw_parts(self.start.add(start).cast().as_ptr(), length) }
        }

        /// Gives whole pages of a ring back to the system; they are zero when they are used again. Offsets in
        /// bytes from the start of the ring, rounded inwards to pages.
        pub(crate) fn give_back(&self, ring: usize, from: usize, to: usize) -> nix::Result<()> {
            let page = crate::layout::CONTROL_BYTES;
            let (from, to) = (from.next_multiple_of(page), to - to % page);
            if self.backing != Backing::File || from >= to || to > self.rings.of(ring) {
                return Ok(());
            }
            // SAFETY: inside of the mapping, and atomics are valid when they are zero.
            unsafe {
                let start = self.start.add(self.rings.start(ring) + from).cast();
                madvise(start, to - from, MmapAdvise::MADV_REMOVE)
            }
        }
    }

    impl Drop for Region {
        fn drop(&mut self) {
            match self.backing {
                Backing::File => {
                    // SAFETY: mapped by `map` with this length; whoever borrowed from it is gone.
                    let unmapped = unsafe { munmap(self.start.cast(), self.rings.total()) };
                    debug_assert_eq!(unmapped, Ok(()));
                }
                #[cfg(test)]
                Backing::Heap => {
                    // SAFETY: allocated by `on_heap` with this layout.
                    unsafe { std::alloc::dealloc(self.start.as_ptr(), Self::layout(self.rings)) }
                }
            }
        }
    }
}

/// What the model checker can watch.
#[cfg(loom)]
mod modelled {
    use super::{Byte, Control, Rings};

    #[derive(Debug)]
    pub(crate) struct Region {
        control: Control,
        bytes: [Box<[Byte]>; 2],
        rings: Rings,
    }

    impl Region {
        pub(crate) fn on_heap(rings: Rings) -> Self {
            let bytes = [0, 1].map(|ring| (0..rings.of(ring)).map(|_| Byte::default()).collect());
            Self { control: Control::default(), bytes, rings }
        }

        pub(crate) fn rings(&self) -> Rings {
            self.rings
        }

        pub(crate) fn control(&self) -> &Control {
            &self.control
        }

        pub(crate) fn ring(&self, ring: usize) -> &[Byte] {
            &self.bytes[ring]
        }

        pub(crate) fn give_back(&self, _: usize, _: usize, _: usize) -> nix::Result<()> {
            Ok(())
        }
    }
}
