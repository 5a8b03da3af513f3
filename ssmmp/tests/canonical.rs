//! The 36 canonical vectors are parsed and emitted byte for byte.

use ssmmp::Envelope;

#[test]
fn every_canonical_vector_is_parsed_and_emitted_byte_for_byte() {
    let vectors = include_str!("vectors-canonical.jsonl");
    let mut seen = 0;
    for line in vectors.lines() {
        let vector: serde_json::Value = serde_json::from_str(line).expect("a vector is JSON");
        let wire = vector["wire"].as_str().expect("a vector has a wire text");
        let envelope = Envelope::parse(wire.trim_end_matches('\n')).unwrap_or_else(|e| panic!("{e}: {wire}"));
        assert_eq!(envelope.encode(), wire);
        assert!(envelope.extensions.is_empty(), "every field of {wire} is known");
        seen += 1;
    }
    assert_eq!(seen, 36);
}

#[test]
fn forwarding_changes_only_the_sub_type() {
    let up = "type: session_request ~ message_id: 007 ~ sub_type: service_to_agent ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: P ~ dest_service_name: B ~ dest_socket_name: S ~ x_more: kept\n";
    let envelope = Envelope::parse(up.trim_end()).expect("valid").forward(ssmmp::Hop::AgentToManager);
    assert_eq!(envelope.encode(), up.replace("service_to_agent", "agent_to_Manager"));
}
