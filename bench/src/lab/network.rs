//! Two network namespaces on a bridge in a third, with connection tracking and rules such as a node has.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// The ends' namespaces.
pub const NODES: [&str; 2] = ["pbbench-a", "pbbench-b"];
/// The bridge's namespace.
const HUB: &str = "pbbench-hub";
/// The ends' addresses.
pub const ADDRESSES: [&str; 2] = ["10.78.0.1", "10.78.0.2"];
/// Rules of services that a packet passes before one fits it, as on a node of middle size.
const SERVICE_RULES: usize = 24;

/// Makes the namespaces; says what filters.
pub fn make() -> Result<String> {
    run("ip", &["netns", "add", HUB])?;
    ip(HUB, "link add bridge0 type bridge")?;
    ip(HUB, "addr add 10.78.0.254/24 dev bridge0")?;
    ip(HUB, "link set bridge0 up")?;
    ip(HUB, "link set lo up")?;
    for (node, address) in NODES.iter().zip(ADDRESSES) {
        run("ip", &["netns", "add", node])?;
        ip(HUB, &format!("link add port-{node} type veth peer name eth0 netns {node}"))?;
        ip(HUB, &format!("link set port-{node} master bridge0 up"))?;
        ip(node, &format!("addr add {address}/24 dev eth0"))?;
        ip(node, "link set eth0 up")?;
        ip(node, "link set lo up")?;
        // Many short connections leave many ports waiting.
        set(node, "net/ipv4/ip_local_port_range", "10000 65000")?;
        set(node, "net/ipv4/tcp_tw_reuse", "1")?;
    }
    filter()
}

/// Removes the namespaces, and with them everything inside.
pub fn remove() -> Result<()> {
    for name in NODES.into_iter().chain([HUB]) {
        if Path::new("/run/netns").join(name).exists() {
            run("ip", &["netns", "delete", name])?;
        }
    }
    Ok(())
}

/// Connection tracking and rules on the bridge, by nftables, else by iptables, else none.
fn filter() -> Result<String> {
    let bridged = set(HUB, "net/bridge/bridge-nf-call-iptables", "1");
    let tried = apply("nft", &["-f", "-"], &nftables()).or_else(|nft| {
        apply("iptables-restore", &[], &iptables())
            .map_err(|iptables| nft.context(format!("iptables: {iptables:#}")))
    });
    let filtered = match (bridged, tried) {
        (Ok(()), Ok(name)) => {
            return Ok(format!("conntrack and {SERVICE_RULES} rules by {name}, bridged packets too"));
        }
        (Err(error), _) | (_, Err(error)) => error,
    };
    Ok(format!("no connection tracking ({filtered:#})"))
}

fn nftables() -> String {
    let services: String = (0..SERVICE_RULES)
        .map(|number| format!("    ip daddr 10.96.0.{number} tcp dport 80 counter dnat to 10.78.0.2:8080\n"))
        .collect();
    format!(
        "table ip bench {{
  chain services {{
{services}  }}
  chain prerouting {{ type nat hook prerouting priority -100; jump services; }}
  chain postrouting {{ type nat hook postrouting priority 100;
    ip saddr 10.78.0.0/24 ip daddr != 10.78.0.0/24 counter masquerade; }}
  chain forward {{ type filter hook forward priority 0;
    ct state invalid counter drop
    ct state established,related counter accept
    ip saddr 10.78.0.0/24 counter accept; }}
}}\n"
    )
}

fn iptables() -> String {
    let services: String = (0..SERVICE_RULES)
        .map(|number| {
            format!("-A PREROUTING -d 10.96.0.{number}/32 -p tcp --dport 80 -j DNAT --to 10.78.0.2:8080\n")
        })
        .collect();
    format!(
        "*nat\n{services}-A POSTROUTING -s 10.78.0.0/24 ! -d 10.78.0.0/24 -j MASQUERADE\nCOMMIT\n\
         *filter\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A FORWARD -s 10.78.0.0/24 -j ACCEPT\nCOMMIT\n"
    )
}

/// Gives rules to a program in the bridge's namespace.
fn apply(program: &str, arguments: &[&str], rules: &str) -> Result<String> {
    use std::io::Write as _;
    let mut child = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{HUB}"))
        .arg(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("nsenter can't be run")?;
    if let Some(mut input) = child.stdin.take() {
        // A program that is missing reads nothing; its status says so.
        let _ = input.write_all(rules.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{program} refused: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(program.to_owned())
}

fn ip(namespace: &str, arguments: &str) -> Result<()> {
    let arguments: Vec<&str> = ["-n", namespace].into_iter().chain(arguments.split(' ')).collect();
    run("ip", &arguments)
}

/// Sets a kernel parameter in a namespace.
fn set(namespace: &str, name: &str, value: &str) -> Result<()> {
    let write = format!("echo {value} > /proc/sys/{name}");
    run("nsenter", &[&format!("--net=/run/netns/{namespace}"), "sh", "-c", &write])
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("{program} can't be run"))?;
    if !output.status.success() {
        bail!(
            "`{program} {}` failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
