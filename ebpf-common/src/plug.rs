//! Maps of the programs that lead plugs' own addresses to destinations, shared by them and the agent.

use crate::AddressBytes;

/// A plug's own address in an instance: what its program connects to.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlugKey {
    /// Id (inode number) of the instance's cgroup; whoever connects is in it or below it.
    pub cgroup: u64,
    /// Cookie of the network namespace that has the address.
    pub namespace: u64,
    /// The plug's own address, on loopback.
    pub address: AddressBytes,
    /// Its port, host byte order.
    pub port: u32,
    /// Always zero.
    pub padding: u32,
}

/// Where a plug's connections are led now.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlugTarget {
    /// The destination's address.
    pub address: AddressBytes,
    /// Its port, host byte order.
    pub port: u32,
    /// 1 where its listening socket is in the namespace of the plug: one that is gone is not led to.
    pub here: u32,
    /// The destination instance's id.
    pub instance: u64,
    /// Nanoseconds since boot after which nothing is led there any more, whatever became of the agent.
    pub until: u64,
}

/// What a program connected to, kept with its socket for `getpeername`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Connected {
    /// The address that the program named.
    pub named: AddressBytes,
    /// The address that it got.
    pub got: AddressBytes,
    /// The named port, as it stands in a socket address.
    pub named_port: u32,
    /// The port that it got, as it stands in a socket address.
    pub got_port: u32,
}

/// Number of the layout of these maps. It grows with every change of a key or a value.
pub const LAYOUT: u32 = 1;

const _: () = {
    assert!(size_of::<PlugKey>() == 40);
    assert!(size_of::<PlugTarget>() == 40);
    assert!(size_of::<Connected>() == 40);
};

#[cfg(feature = "user")]
mod user {
    use super::*;

    // SAFETY: repr(C), plain integers, no padding (size asserted above): any bytes are a value.
    unsafe impl aya::Pod for PlugKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for PlugTarget {}
}
