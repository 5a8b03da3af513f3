//! What is wrong is said, and answered with a 4xx in the message's own response type.

use ssmmp::Envelope;

#[track_caller]
fn check(line: &str, problem: &str, refusal: Option<&str>) {
    let error = Envelope::parse(line).expect_err(line);
    assert_eq!(error.problem.to_string(), problem);
    let answer = error.refusal.map(|envelope| {
        let text = envelope.encode();
        text.split(" ~ x_reason").next().unwrap_or_default().to_owned()
    });
    assert_eq!(answer.as_deref(), refusal, "the answer to {line}");
}

#[test]
fn a_session_request_without_its_plug() {
    check(
        "type: session_request ~ message_id: 5 ~ sub_type: service_to_agent ~ source_service_name: A ~ source_service_instance_id: 7 ~ dest_service_name: B ~ dest_socket_name: S",
        "the field `source_plug_name` is missing",
        Some(
            "type: session_response ~ message_id: 5 ~ sub_type: agent_to_service ~ source_service_name: A ~ source_service_instance_id: 7 ~ dest_service_name: B ~ dest_service_instance_id: 0 ~ dest_socket_name: S ~ dest_service_instance_network_address: :: ~ dest_socket_port: 0 ~ status: 400",
        ),
    );
}

#[test]
fn an_execution_request_with_a_port_out_of_range() {
    check(
        "type: execution_request ~ message_id: 9 ~ agent_network_address: ::1 ~ service_name: A ~ service_instance_id: 7 ~ socket_configuration: S, 70000 ~ plug_configuration: ",
        "the field `socket_configuration` has the value `S, 70000`: expected a port of 1 to 65535",
        Some("type: execution_response ~ message_id: 9 ~ status: 400"),
    );
}

#[test]
fn what_has_no_response_gets_no_answer() {
    check(
        "type: service_instance_termination_info ~ message_id: 9",
        "the field `service_name` is missing",
        None,
    );
    check("type: gossip ~ message_id: 9", "unknown message type `gossip`", None);
    check("message_id: 9", "the first line must be `type: …`, it is `message_id`", None);
    check("", "the message is empty", None);
}

#[test]
fn a_field_and_its_alias_together_are_a_duplicate() {
    check(
        "type: hard_shutdown_response ~ message_id: 1 ~ service_instance_id: 7 ~ source_service_instance_id: 8 ~ status: 200",
        "the field `service_instance_id` stands twice",
        None,
    );
}
