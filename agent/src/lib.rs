//! The Patchbay agent: one on each node. It executes service instances, passes their SSMMP messages
//! on, and redirects same-node sessions inside the kernel.

pub mod datapath;
