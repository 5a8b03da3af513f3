//! The cluster's network: a bridge in the hub's namespace, a pair of interfaces for each node.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::{HUB_ADDRESS, Plan};

/// The name of a node's or the hub's namespace.
pub fn namespace(plan: &Plan, node: &str) -> String {
    format!("{}-{node}", plan.name)
}

pub fn make(plan: &Plan) -> Result<()> {
    let hub = namespace(plan, "hub");
    ip(&format!("netns add {hub}"))?;
    ip(&format!("-n {hub} link add bridge0 type bridge"))?;
    ip(&format!("-n {hub} addr add {HUB_ADDRESS}/24 dev bridge0"))?;
    ip(&format!("-n {hub} link set bridge0 up"))?;
    ip(&format!("-n {hub} link set lo up"))?;
    for (index, (node, _)) in plan.nodes.iter().enumerate() {
        let namespace = namespace(plan, node);
        ip(&format!("netns add {namespace}"))?;
        ip(&format!("-n {hub} link add port-{node} type veth peer name eth0 netns {namespace}"))?;
        ip(&format!("-n {hub} link set port-{node} master bridge0 up"))?;
        ip(&format!("-n {namespace} addr add {}/24 dev eth0", Plan::address(index)))?;
        ip(&format!("-n {namespace} link set eth0 up"))?;
        ip(&format!("-n {namespace} link set lo up"))?;
    }
    Ok(())
}

/// Takes a node's link down or up.
pub fn set_link(plan: &Plan, node: &str, state: &str) -> Result<()> {
    ip(&format!("-n {} link set port-{node} {state}", namespace(plan, "hub")))
}

/// Removes the namespaces that are there; interfaces go with them.
pub fn remove(plan: &Plan) -> Result<()> {
    for node in plan.nodes.iter().map(|(node, _)| node.as_str()).chain(["hub"]) {
        let name = namespace(plan, node);
        if Path::new("/run/netns").join(&name).exists() {
            ip(&format!("netns delete {name}"))?;
        }
    }
    Ok(())
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .stdin(Stdio::null())
        .output()
        .context("`ip` (of iproute2) can't be started")?;
    if !output.status.success() {
        bail!("`ip {arguments}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
