//! Who is whose peer: two ends are joined when they are each other's peer in TCP, wherever they are and whatever
//! translates addresses between them, and never past a proxy.

use patchbay_agent::datapath::{Path, Reason, SessionReport};

use crate::reuse::run;

/// A case's sessions, all of which went through the kernel, with as many as there must be.
async fn all_joined(case: &str, sessions: usize) -> Vec<SessionReport> {
    let ended = run("identity.py", case).await;
    assert_eq!(ended.len(), sessions, "{ended:?}");
    for session in &ended {
        assert_eq!(session.path, Path::Kernel, "{session:?}");
        assert!(session.sent.kernel_bytes > 0 && session.received.kernel_bytes > 0, "{session:?}");
    }
    ended
}

#[tokio::test]
async fn equal_ends_in_two_namespaces_are_two_connections() {
    all_joined("twins", 2).await;
}

#[tokio::test]
async fn a_mirrored_connection_in_another_namespace_leaves_the_first_alone() {
    all_joined("mirrored_twins", 2).await;
}

#[tokio::test]
async fn one_address_and_port_in_many_namespaces() {
    all_joined("one_address_in_many_namespaces", 8).await;
}

#[tokio::test]
async fn two_namespaces_of_a_scope_are_joined() {
    let ended = all_joined("between_namespaces", 1).await;
    assert_eq!(ended[0].translated, None);
}

#[tokio::test]
async fn a_service_address_translated_on_the_way_is_no_obstacle() {
    for case in ["service_by_nftables", "service_by_iptables", "service_and_source_translated"] {
        let ended = all_joined(case, 1).await;
        assert_eq!(ended[0].destination.to_string(), "10.96.0.77:80");
        assert_eq!(ended[0].translated.map(|at| at.to_string()).as_deref(), Some("10.77.2.2:7000"));
    }
}

#[tokio::test]
async fn a_client_that_reaches_itself_through_a_translation_is_joined() {
    all_joined("hairpin", 1).await;
    all_joined("translated_in_its_own_namespace", 1).await;
}

#[tokio::test]
async fn whatever_address_an_end_has_it_is_the_same_end() {
    all_joined("another_local_address", 3).await;
    all_joined("mapped_addresses", 3).await;
    all_joined("link_local_addresses", 2).await;
}

#[tokio::test]
async fn a_transparent_proxy_is_never_passed_by() {
    // The script checks that every byte went through the proxy. Both of its connections are redirected.
    all_joined("transparent_proxy", 2).await;
}

#[tokio::test]
async fn data_with_the_connection_request_stays_on_tcp() {
    let ended = run("identity.py", "data_with_the_connection_request").await;
    assert_eq!(ended.len(), 3, "{ended:?}");
    let fast: Vec<_> = ended.iter().filter(|s| s.path == Path::Tcp(Reason::FastOpen)).collect();
    assert!(!fast.is_empty(), "{ended:?}");
    assert!(fast.iter().all(|session| session.sent.kernel_bytes == 0), "{ended:?}");
}

#[tokio::test]
async fn a_restored_socket_is_joined_with_nobody() {
    // The restored one has no other end, so it is no session; the ordinary one after it is joined.
    all_joined("restored_sockets", 1).await;
}
