//! Where the running kernel keeps the fields that the kernel programs read.
//!
//! Reads `/sys/kernel/btf/vmlinux` (Linux 5.4 and later, CONFIG_DEBUG_INFO_BTF). Only what is needed to
//! find a member of a structure is understood: aya keeps its own reader private.

/// A reader over BTF's bytes.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

/// Where a member of a structure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    bits: u32,
    type_id: u32,
}

const MAGIC: u16 = 0xeb9f;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_FUNC: u32 = 12;
/// Deepest nesting of structures that is followed.
const MAX_DEPTH: u32 = 8;

impl<'a> Btf<'a> {
    /// Reads the header. `None` when the bytes are no little-endian BTF.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        if u16::from_le_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let header = word(bytes, 4)? as usize;
        let part = |at: usize| -> Option<&'a [u8]> {
            let start = header + word(bytes, at)? as usize;
            bytes.get(start..start + word(bytes, at + 4)? as usize)
        };
        Some(Self { types: part(8)?, strings: part(16)? })
    }

    /// The offset, in bytes, of a member such as `sk_backlog.rmem_alloc` of a structure such as
    /// `sock`. Members of unnamed structures and unions inside are found by their own name.
    pub fn offset(&self, structure: &str, path: &str) -> Option<u32> {
        self.bits(structure, path).map(|bits| bits / 8)
    }

    /// The same in bits, for members of less than a byte.
    pub fn bits(&self, structure: &str, path: &str) -> Option<u32> {
        let mut type_id = self.structure(structure)?;
        let mut bits = 0;
        for member in path.split('.') {
            let place = self.member(self.resolve(type_id)?, member, 0)?;
            bits += place.bits;
            type_id = place.type_id;
        }
        Some(bits)
    }

    /// The number of a structure.
    pub fn structure(&self, name: &str) -> Option<u32> {
        self.named(KIND_STRUCT, name)
    }

    /// The number of a function that programs may call.
    pub fn function(&self, name: &str) -> Option<u32> {
        self.named(KIND_FUNC, name)
    }

    fn named(&self, kind: u32, name: &str) -> Option<u32> {
        let is_it =
            |(_, at): &(u32, usize)| self.kind(*at) == Some(kind) && self.name(*at) == Some(name.as_bytes());
        self.entries().find(is_it).map(|(id, _)| id)
    }

    fn member(&self, at: usize, name: &str, depth: u32) -> Option<Place> {
        if depth > MAX_DEPTH || !matches!(self.kind(at)?, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        let info = word(self.types, at + 4)?;
        let has_bitfields = info >> 31 == 1;
        for index in 0..(info & 0xffff) as usize {
            let member = at + 12 + 12 * index;
            let type_id = word(self.types, member + 4)?;
            let bits = word(self.types, member + 8)?;
            let bits = if has_bitfields { bits & 0x00ff_ffff } else { bits };
            let found = self.string(word(self.types, member)?)?;
            if found == name.as_bytes() {
                return Some(Place { bits, type_id });
            }
            if found.is_empty()
                && let Some(inner) = self.resolve(type_id).and_then(|at| self.member(at, name, depth + 1))
            {
                return Some(Place { bits: bits + inner.bits, type_id: inner.type_id });
            }
        }
        None
    }

    /// Follows typedefs and qualifiers to the type itself.
    fn resolve(&self, type_id: u32) -> Option<usize> {
        let mut id = type_id;
        for _ in 0..MAX_DEPTH {
            let (_, at) = self.entries().nth(id.checked_sub(1)? as usize)?;
            match self.kind(at)? {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST => id = word(self.types, at + 8)?,
                _ => return Some(at),
            }
        }
        None
    }

    /// Every type's id and where it starts.
    fn entries(&self) -> impl Iterator<Item = (u32, usize)> {
        let (mut id, mut at) = (0, 0);
        std::iter::from_fn(move || {
            let start = at;
            at += 12 + self.trailer(start)?;
            id += 1;
            Some((id, start))
        })
    }

    /// Bytes behind a type's common part, by its kind.
    fn trailer(&self, at: usize) -> Option<usize> {
        let length = (word(self.types, at + 4)? & 0xffff) as usize;
        Some(match self.kind(at)? {
            // INT, VAR, DECL_TAG
            1 | 14 | 17 => 4,
            KIND_ARRAY => 12,
            // STRUCT, UNION, DATASEC, ENUM64
            KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * length,
            // ENUM, FUNC_PROTO
            6 | 13 => 8 * length,
            _ => 0,
        })
    }

    fn kind(&self, at: usize) -> Option<u32> {
        Some((word(self.types, at + 4)? >> 24) & 0x1f)
    }

    fn name(&self, at: usize) -> Option<&'a [u8]> {
        self.string(word(self.types, at)?)
    }

    fn string(&self, offset: u32) -> Option<&'a [u8]> {
        let rest = self.strings.get(offset as usize..)?;
        rest.split(|byte| *byte == 0).next()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernels_structures_are_found() {
        let bytes = std::fs::read("/sys/kernel/btf/vmlinux").expect("the kernel has BTF");
        let btf = Btf::new(&bytes).expect("valid BTF");
        // The common part of every socket starts it; what tcp_sock adds comes behind it.
        assert_eq!(btf.offset("sock", "__sk_common"), Some(0));
        assert!(btf.offset("tcp_sock", "write_seq") > btf.offset("sock", "sk_rcvbuf"));
        let backlog = btf.offset("sock", "sk_backlog").expect("a member");
        assert_eq!(btf.offset("sock", "sk_backlog.rmem_alloc"), Some(backlog));
        assert!(btf.function("tcp_sendmsg").is_some(), "a function");
        assert_eq!(btf.function("sock"), None, "a structure");
        assert_eq!(btf.offset("sock", "no_such_member"), None);
        assert_eq!(btf.offset("no_such_structure", "x"), None);
    }

    #[test]
    fn damaged_bytes_are_refused_without_a_panic() {
        let bytes = std::fs::read("/sys/kernel/btf/vmlinux").expect("the kernel has BTF");
        assert!(Btf::new(&bytes[..10]).is_none());
        assert!(Btf::new(b"junk").is_none());
        let mut damaged = bytes[..4096].to_vec();
        damaged[8..24].fill(0);
        assert_eq!(Btf::new(&damaged).and_then(|btf| btf.offset("sock", "x")), None);
    }
}
