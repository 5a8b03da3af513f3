//! Choices that agents ask for ahead, for plugs of adapted programs (`x_ahead`).

use super::*;

impl Cluster {
    fn request_ahead(&mut self, connection: u64, source: InstanceId, id: u64) {
        self.message(connection, &format!(
            "type: session_request ~ message_id: {id} ~ sub_type: agent_to_Manager ~ source_service_name: gate ~ source_service_instance_id: {source} ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: store ~ dest_service_name: store ~ dest_socket_name: api ~ x_ahead: yes"
        ));
    }
}

#[test]
fn a_choice_asked_ahead_is_answered_and_nothing_is_kept_of_it() {
    let (mut cluster, gate) = Cluster::running();
    cluster.request_ahead(1, gate, 70);
    assert_eq!(cluster.responses(), [503], "none runs");
    assert_eq!(cluster.executions(), 1, "and none is started: only the gateway was");
    assert!(!cluster.events.iter().any(|(kind, _)| kind == "session-refused"), "nobody was refused");
    cluster.request(1, gate, 71, "store");
    let (store, _) = cluster.execute("store", 200);
    cluster.request_ahead(1, gate, 72);
    assert_eq!(cluster.responses(), [503, 200, 200]);
    let Message::SessionResponse(chosen) = &cluster.sent.last().expect("answered").1.message else {
        panic!()
    };
    assert_eq!((chosen.dest_service_instance_id, chosen.message_id.to_string()), (store, "72".to_owned()));
    assert_eq!(cluster.engine.core.state.sessions.iter().count(), 1, "only the one that was asked for");
    // The connection that is made there is told, with the request's id or another.
    let at = (chosen.dest_service_instance_network_address, chosen.dest_socket_port);
    cluster.message(1, &format!(
        "type: session_ack ~ message_id: 72 ~ sub_type: agent_to_Manager ~ source_service_name: gate ~ source_service_instance_id: {gate} ~ source_plug_port: 40001 ~ dest_socket_new_port: {} ~ status: 200 ~ x_live: {gate}, 40001, {store}, {}, {}, 72, store",
        at.1, at.0, at.1
    ));
    assert_eq!(cluster.engine.core.state.sessions.open(), 1);
}

#[test]
fn a_choice_asked_ahead_obeys_the_graph() {
    let (mut cluster, gate) = Cluster::running();
    cluster.message(1, &format!(
        "type: session_request ~ message_id: 70 ~ sub_type: agent_to_Manager ~ source_service_name: gate ~ source_service_instance_id: {gate} ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: other ~ dest_service_name: store ~ dest_socket_name: api ~ x_ahead: yes"
    ));
    cluster.request_ahead(1, InstanceId(999), 71);
    assert_eq!(cluster.responses(), [403, 403]);
}
