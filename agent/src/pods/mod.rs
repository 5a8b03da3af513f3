//! Pods of this node: which cgroup is whose, and what is said of it. Identity goes from a cgroup's id to the pod's UID
//! to the object of the API server, never by an address, which is somebody else's a moment later.
//!
//! [`cgroups`] and [`table`] are pure; [`api`] watches the API server.

pub mod api;
pub mod cgroups;
pub mod flow;
pub mod table;

pub use table::{Change, Effect, Pod, PodTable, Redirect};

/// On a namespace or a pod: one of [`Redirect`].
pub const ANNOTATION: &str = "patchbay.dev/redirect";
