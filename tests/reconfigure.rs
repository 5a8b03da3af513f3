//! Instances are moved, nodes drained, services scaled and replaced under users who never stop asking: no
//! request fails, and the sessions that take the place of the closed ones are redirected.

use patchbay_tests::social::{Load, Social};

/// Requests that show that the application works.
const ENOUGH: u64 = 60;

/// No request failed, and sessions made after `begun_ms` carried bytes in the kernel.
fn judge(social: &Social, load: Load, begun_ms: u64) {
    load.wait_for(ENOUGH);
    social.wait("new sessions are redirected", |_| kernel_bytes(social, begun_ms) > 0);
    let (ok, failures) = load.end();
    assert_eq!(failures, Vec::<String>::new(), "of {ok}");
    social.assert_consistent();
}

/// Redirected bytes of the sessions that were made after `begun_ms`.
fn kernel_bytes(social: &Social, begun_ms: u64) -> u64 {
    let sessions = social.cluster.sessions().unwrap_or_default();
    let new = sessions.iter().filter(|session| session.opened_ms > begun_ms);
    new.map(|session| session.sent.kernel_bytes + session.received.kernel_bytes).sum()
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The other node than an instance's.
fn other(instance: &patchbay_api::Instance) -> &'static str {
    if instance.node == "a" { "b" } else { "a" }
}

#[test]
fn instances_are_moved_without_a_failed_request() {
    let social = Social::start(&[]);
    let load = social.load();
    load.wait_for(ENOUGH);
    let begun = now_ms();
    for service in ["posts", "login", "table", "gateway"] {
        let old = social.running(service);
        let to = other(&old);
        social.cluster.patchbay(&["move", &old.id.to_string(), to, "--yes"]).expect("moved");
        social.wait(&format!("{service} runs on {to} only"), |cluster| {
            let running = cluster.running(service);
            let instances = cluster.instances().unwrap_or_default();
            running.iter().all(|instance| instance.node == to)
                && !running.is_empty()
                && instances.iter().any(|i| i.id == old.id && i.ended_ms.is_some())
        });
        load.wait_for(ENOUGH);
    }
    judge(&social, load, begun);
}

#[test]
fn a_node_is_drained_and_used_again_without_a_failed_request() {
    let social = Social::start(&[]);
    let load = social.load();
    load.wait_for(ENOUGH);
    let begun = now_ms();
    let drained = social.running("gateway").node;
    social.cluster.patchbay(&["drain", &drained, "--yes"]).expect("drained");
    social.wait("only what holds state is left there", |cluster| {
        let left = cluster.instances().unwrap_or_default();
        left.iter()
            .filter(|i| i.ended_ms.is_none() && i.node == drained)
            .all(|i| matches!(i.service.as_str(), "redis" | "file-store"))
    });
    load.wait_for(ENOUGH);
    social.cluster.patchbay(&["undrain", &drained]).expect("undrained");
    judge(&social, load, begun);
}

#[test]
fn a_service_is_scaled_up_and_down_without_a_failed_request() {
    let social = Social::nodes(&[]);
    social.apply_changed(|graph| {
        graph.replace("[service.posts]\nkind", "[service.posts]\nreplicas = { max = 3 }\nkind")
    });
    let load = social.load();
    load.wait_for(ENOUGH);
    for replicas in [3, 1] {
        social
            .cluster
            .patchbay(&["scale", "social", "posts", &replicas.to_string(), "--yes"])
            .expect("scaled");
        social.wait(&format!("{replicas} run"), |cluster| cluster.running("posts").len() == replicas);
        load.wait_for(ENOUGH);
    }
    let before = kernel_bytes(&social, 0);
    load.wait_for(ENOUGH);
    social.wait("sessions are redirected", |_| kernel_bytes(&social, 0) > before);
    let (ok, failures) = load.end();
    assert_eq!(failures, Vec::<String>::new(), "of {ok}");
    social.assert_consistent();
}

#[test]
fn a_service_is_replaced_by_its_next_version_without_a_failed_request() {
    let social = Social::start(&[]);
    let load = social.load();
    load.wait_for(ENOUGH);
    let (begun, old) = (now_ms(), social.running("posts"));
    social.apply_changed(|graph| {
        graph.replace("[service.posts]\nkind", "[service.posts]\nprogram = \"posts-2\"\nkind")
    });
    social.wait("the next version runs alone", |cluster| {
        let running = cluster.running("posts");
        running.len() == 1 && running[0].id != old.id
    });
    load.wait_for(ENOUGH);
    let ended = social.cluster.instances().expect("known").into_iter().find(|i| i.id == old.id);
    assert!(ended.is_some_and(|old| old.reason.is_some_and(|reason| reason.contains("posts-2"))));
    judge(&social, load, begun);
}

#[test]
fn closing_sessions_costs_no_request() {
    let social = Social::start(&[]);
    let load = social.load();
    load.wait_for(ENOUGH);
    let begun = now_ms();
    for plug in ["gateway.posts", "posts.posts", "login.users"] {
        social.cluster.patchbay(&["close", "--connection", "social", plug, "--yes"]).expect("closed");
        load.wait_for(ENOUGH);
    }
    judge(&social, load, begun);
}
