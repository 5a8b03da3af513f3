//! A session as Hubble shows flows (`-o jsonpb`; api/v1/flow/flow.proto, type SOCK), so that its tools read it.

use serde_json::{Value, json};

use super::table::{Pod, PodTable};
use crate::datapath::SessionReport;

/// What happened to the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It was established.
    Established,
    /// It left the kernel's short way.
    Left,
    /// It has ended.
    Closed,
}

/// One line.
pub fn line(report: &SessionReport, moment: Moment, pods: Option<&PodTable>, node: &str) -> Value {
    let time = time(report.read_at);
    let destination = report.translated.unwrap_or(report.destination);
    let cgroups = [report.source_instance, report.destination_instance];
    let pod = |cgroup| pods.and_then(|pods| pods.of(cgroup)).map(|(pod, _)| pod);
    let mut flow = json!({
        "time": time,
        // Hubble's REDIRECTED means to a proxy. Here the bytes arrive either way; the summary says which.
        "verdict": "FORWARDED",
        "IP": {
            "source": report.source.ip(),
            "destination": destination.ip(),
            "ipVersion": if destination.is_ipv4() { "IPv4" } else { "IPv6" },
        },
        "l4": {"TCP": {
            "source_port": report.source.port(),
            "destination_port": destination.port(),
            "flags": flags(moment),
        }},
        "source": endpoint(pod(cgroups[0])),
        "destination": endpoint(pod(cgroups[1])),
        "Type": "SOCK",
        "node_name": node,
        // What Hubble numbers flows of sockets by.
        "event_type": {"type": 7},
        "traffic_direction": "EGRESS",
        "is_reply": false,
        "sock_xlate_point": if report.translated.is_some() { "SOCK_XLATE_POINT_POST_DIRECTION_FWD" } else { "SOCK_XLATE_POINT_UNKNOWN" },
        "socket_cookie": report.sockets[0].to_string(),
        "cgroup_id": cgroups[0].to_string(),
        "Summary": summary(report, moment),
    });
    if let Some(service) = report.translated.map(|_| report.destination) {
        flow["Summary"] = json!(format!("{}; dialled {service}", summary(report, moment)));
    }
    json!({"flow": flow, "node_name": node, "time": time})
}

fn flags(moment: Moment) -> Value {
    match moment {
        Moment::Established => json!({"SYN": true, "ACK": true}),
        Moment::Left => json!({"ACK": true}),
        Moment::Closed => json!({"FIN": true, "ACK": true}),
    }
}

fn endpoint(pod: Option<&Pod>) -> Value {
    let Some(pod) = pod else { return json!({}) };
    let labels = pod.labels.iter().map(|(name, value)| format!("k8s:{name}={value}"));
    let namespace = format!("k8s:io.kubernetes.pod.namespace={}", pod.namespace);
    let labels: Vec<String> = labels.chain([namespace]).collect();
    let workloads: Vec<Value> =
        pod.workloads.iter().map(|(kind, name)| json!({"kind": kind, "name": name})).collect();
    json!({"namespace": pod.namespace, "labels": labels, "pod_name": pod.name, "workloads": workloads})
}

fn summary(report: &SessionReport, moment: Moment) -> String {
    let both = [report.sent, report.received];
    let kernel: u64 = both.iter().map(|traffic| traffic.kernel_bytes).sum();
    let tcp: u64 = both.iter().map(|traffic| traffic.tcp_bytes).sum();
    let path = match report.why() {
        None => "kernel".to_owned(),
        Some(why) => format!("tcp ({why})"),
    };
    let what = match moment {
        Moment::Established => "established",
        Moment::Left => "left the kernel's way",
        Moment::Closed => "closed",
    };
    format!("TCP session {what}; path {path}; {kernel} bytes through the kernel, {tcp} over TCP")
}

fn time(seconds: u64) -> String {
    let at = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::datapath::{Path, Reason, Traffic};
    use crate::pods::cgroups::Place;
    use crate::pods::{Change, Redirect};

    fn at(text: &str) -> std::net::SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_line_has_the_fields_of_hubble_with_both_pods() {
        let mut pods = PodTable::new(Redirect::Auto);
        let pod = |number: u8| Pod {
            uid: format!("{number}"),
            namespace: "shop".into(),
            name: format!("pod-{number}"),
            labels: BTreeMap::from([("app".into(), "web".into())]),
            workloads: vec![("Deployment".into(), "web".into())],
            ..Pod::default()
        };
        pods.apply(Change::Pods(vec![pod(1), pod(2)]));
        let place = |number: u8| Place { pod: format!("{number}"), container: None };
        pods.apply(Change::Cgroups(BTreeMap::from([(11, place(1)), (12, place(2))])));
        let mut report = SessionReport::between(11, 12, at("10.96.0.7:6379"));
        report.source = at("10.1.0.2:40000");
        report.translated = Some(at("10.1.0.3:6379"));
        report.path = Path::Kernel;
        report.sent = Traffic { kernel_bytes: 10, ..Traffic::default() };
        let line = line(&report, Moment::Closed, Some(&pods), "node-1");
        let flow = &line["flow"];
        assert_eq!(flow["Type"], "SOCK");
        assert_eq!(flow["verdict"], "FORWARDED");
        assert_eq!(flow["IP"]["destination"], "10.1.0.3");
        assert_eq!(flow["l4"]["TCP"]["source_port"], 40000);
        assert_eq!(flow["source"]["pod_name"], "pod-1");
        assert_eq!(flow["destination"]["workloads"][0]["name"], "web");
        assert_eq!(flow["destination"]["labels"][0], "k8s:app=web");
        // 64-bit numbers are strings in protobuf's JSON.
        assert_eq!(flow["cgroup_id"], "11");
        assert!(flow["Summary"].as_str().expect("text").contains("10 bytes through the kernel"));
        report.path = Path::Tcp(Reason::Learning);
        let line = super::line(&report, Moment::Established, None, "node-1");
        assert_eq!(line["flow"]["verdict"], "FORWARDED");
    }
}
