//! Keys of the maps, and what the agent knows before a connection exists.

/// An IPv6 address, or an IPv4 one mapped into IPv6, in network byte order.
pub type AddressBytes = [u8; 16];

/// Who may connect where: the source's cgroup and the destination's socket.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeclarationKey {
    /// Id (inode number) of the source instance's cgroup.
    pub source_cgroup: u64,
    /// The destination's address.
    pub address: AddressBytes,
    /// The destination's port, host byte order.
    pub port: u32,
    /// Always zero.
    pub padding: u32,
}

/// What the agent knows about a declared session before it exists.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Declaration {
    /// Id of the destination instance's cgroup; 0 when it is not on this node.
    pub destination_cgroup: u64,
    /// The source instance's id.
    pub source_instance: u64,
    /// The destination instance's id.
    pub destination_instance: u64,
    /// 0, or the [`crate::Reason`] for staying on TCP.
    pub refusal: u32,
    /// One of [`mode`].
    pub mode: u32,
    /// The [`crate::Habit`] that the refusal is about, or 0.
    pub about: u64,
}

/// How a session is treated that may be redirected.
pub mod mode {
    /// It goes back to TCP when a habit or its traffic says so.
    pub const AUTO: u32 = 0;
    /// It stays redirected.
    pub const ALWAYS: u32 = 1;
}

/// What happens to sessions of a program in a scope.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Treatment {
    /// 0, or the [`crate::Reason`] for staying on TCP.
    pub refusal: u32,
    /// One of [`mode`].
    pub mode: u32,
    /// The [`crate::Habit`] that the refusal is about, or 0.
    pub about: u64,
}

/// A program's name as the kernel keeps it for a process: at most 15 bytes, the rest zero.
pub type ProgramName = [u8; 16];

/// Bytes of a process's arguments that can tell one program of an interpreter from another.
pub const ARGUMENT_BYTES: usize = 128;

/// A running program, told from others by its file, and from other programs of the same interpreter by its
/// first arguments. All zero when it is not known.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Program {
    /// Its name, that of its process's first thread.
    pub name: ProgramName,
    /// Inode number of its file.
    pub inode: u64,
    /// [`arguments_hash`] of its arguments, 0 when they could not be read.
    pub arguments: u64,
    /// The device of its file, as the kernel numbers it: the major number, then 20 bits of the minor one.
    pub device: u32,
    /// Always zero.
    pub padding: u32,
}

/// Tells programs of an interpreter apart: FNV-1a of the arguments, as they stand in the process's memory with
/// a zero after each, up to the end of the first one after the program's own name that is no option, and at
/// most [`ARGUMENT_BYTES`].
#[inline(always)]
pub fn arguments_hash(bytes: &[u8; ARGUMENT_BYTES], length: usize) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let (mut own_name, mut option, mut begins) = (true, false, false);
    let mut at = 0;
    while at < ARGUMENT_BYTES {
        if at >= length {
            break;
        }
        let byte = bytes[at];
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        if begins {
            option = byte == b'-';
        }
        begins = byte == 0;
        if begins {
            if !own_name && !option {
                break;
            }
            own_name = false;
        }
        at += 1;
    }
    hash
}

/// A program of the scope that connects to a port, or accepts connections at it. The kernel programs look for the
/// file with the arguments first, then for the file, then for the name.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceKey {
    /// The program's name.
    pub name: ProgramName,
    /// Inode number of the program's file; 0 for whatever file.
    pub inode: u64,
    /// Hash of its arguments; 0 for whatever arguments.
    pub arguments: u64,
    /// The device of its file; 0 for whatever file.
    pub device: u32,
    /// The port, host byte order, 0 for those that the system chooses; with [`ACCEPTS`] where the program accepts.
    pub port: u32,
}

/// Added to the port of a [`SourceKey`] of a program that accepts connections.
pub const ACCEPTS: u32 = 1 << 31;

/// A connection, from source to destination, as the source's socket has it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tuple {
    /// The source's address.
    pub source: AddressBytes,
    /// The destination's address, before anything on the way translated it.
    pub destination: AddressBytes,
    /// The source's port, host byte order.
    pub source_port: u32,
    /// The destination's port, host byte order.
    pub destination_port: u32,
    /// The cookie of the source's network namespace.
    pub namespace: u64,
}

/// What names a connection at both of its ends when it is established, wherever they are and whatever
/// translates addresses between them: the numbers of the first bytes that they will send each other. Each
/// end's kernel has chosen its own, by a secret and the time.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionName {
    /// The sequence number of the source's first byte.
    pub source: u32,
    /// The sequence number of the destination's first byte.
    pub destination: u32,
}

/// A destination as seen from one network namespace.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DestinationKey {
    /// The network namespace's cookie.
    pub namespace: u64,
    /// The address.
    pub address: AddressBytes,
    /// The port, host byte order.
    pub port: u32,
    /// Always zero.
    pub padding: u32,
}

/// What a socket has of its own, as long as it lives.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Mark {
    /// Its cookie, once it was in the socket map; a socket accepted from a marked one has the other's here.
    pub entered: u64,
    /// Sessions that it was the source of: it may be disconnected and connected again.
    pub lives: u64,
    /// The program that had it when it began to connect or to listen, in a scope.
    pub program: Program,
    /// That program's process.
    pub process: u32,
    /// Always zero.
    pub padding: u32,
    /// Until when the other end is to take no FIN, nanoseconds since boot: it was closed while redirected bytes
    /// were unread.
    pub refuses_until: u64,
}

const _: () = {
    assert!(size_of::<DeclarationKey>() == 32);
    assert!(size_of::<Declaration>() == 40);
    assert!(size_of::<Treatment>() == 16);
    assert!(size_of::<Program>() == 40);
    assert!(size_of::<SourceKey>() == 40);
    assert!(size_of::<Tuple>() == 48);
    assert!(size_of::<ConnectionName>() == 8);
    assert!(size_of::<DestinationKey>() == 32);
    assert!(size_of::<Mark>() == 72);
};

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(arguments: &str) -> u64 {
        let mut bytes = [0; ARGUMENT_BYTES];
        let length = arguments.len().min(ARGUMENT_BYTES);
        bytes[..length].copy_from_slice(&arguments.as_bytes()[..length]);
        arguments_hash(&bytes, length)
    }

    #[test]
    fn programs_of_an_interpreter_differ_by_their_script_and_not_by_what_follows() {
        assert_eq!(hash("python3\0a.py\x001\0"), hash("python3\0a.py\x002\0more\0"));
        assert_ne!(hash("python3\0a.py\0"), hash("python3\0b.py\0"));
        assert_eq!(hash("python3\0-m\0http.server\x008000\0"), hash("python3\0-m\0http.server\x008001\0"));
        assert_ne!(hash("python3\0-m\0http.server\0"), hash("python3\0-m\0json.tool\0"));
        assert_ne!(hash("sh\0-c\0a\0"), hash("sh\0-c\0b\0"));
        assert_eq!(hash("redis-server\0"), hash("redis-server\0"));
    }

    #[test]
    fn arguments_without_an_end_are_no_fault() {
        let long = "x".repeat(10 * ARGUMENT_BYTES);
        assert_eq!(hash(&long), hash(&long[..ARGUMENT_BYTES]));
        assert_ne!(hash(&long), hash(""));
    }
}
