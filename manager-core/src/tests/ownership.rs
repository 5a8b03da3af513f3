//! Several Managers: what another one owns is sent there.

use std::net::SocketAddr;

use super::*;
use crate::{Identity, Ownership, Peer};

fn with_owner_of(nodes: &[&str]) -> Cluster {
    let mut cluster = Cluster::new();
    cluster.engine.core.set_identity(Identity { id: "m1".into(), epoch: 7 });
    cluster.engine.core.set_ownership(Ownership {
        others: vec![Peer {
            name: "west".into(),
            agents: SocketAddr::from(([10, 0, 0, 99], 55_555)),
            http: "http://10.0.0.99:55580".into(),
            apps: vec!["shop".into()],
            nodes: nodes.iter().map(ToString::to_string).collect(),
        }],
    });
    cluster
}

#[test]
fn an_agent_of_another_managers_node_is_sent_there_and_is_not_registered() {
    for owned in ["n1", "10.0.0.1"] {
        let mut cluster = with_owner_of(&[owned]);
        cluster.register(1, "10.0.0.1", "gate");
        let (_, answer) = cluster.sent.last().expect("it is answered");
        assert_eq!(answer.extension("x_manager_address"), Some("10.0.0.99:55555"));
        assert_eq!(answer.extension("x_manager"), Some("m1"), "the agent knows who has sent it on");
        let Message::InitiationResponse(response) = &answer.message else { panic!("{answer:?}") };
        assert_eq!(response.status, ssmmp::Status::OTHER_MANAGER);
        assert!(cluster.engine.core.nodes().is_empty(), "nothing is executed there");
    }
}

#[test]
fn an_agent_of_ones_own_node_is_told_who_answers() {
    let mut cluster = with_owner_of(&["elsewhere"]);
    cluster.register(1, "10.0.0.1", "gate");
    let (_, answer) = &cluster.sent[0];
    assert_eq!((answer.extension("x_manager"), answer.extension("x_epoch")), (Some("m1"), Some("7")));
    assert_eq!(cluster.engine.core.nodes().len(), 1);
}
