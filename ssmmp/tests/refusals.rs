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

const REQUEST: &str = "type: session_request ~ message_id: 5 ~ sub_type: service_to_agent ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_name: P ~ dest_service_name: B ~ dest_socket_name: S";
const REFUSED: &str = "type: session_response ~ message_id: 5 ~ sub_type: agent_to_service ~ source_service_name: A ~ source_service_instance_id: 7 ~ dest_service_name: B ~ dest_service_instance_id: 0 ~ dest_socket_name: S ~ dest_service_instance_network_address: :: ~ dest_socket_port: 0 ~ status: 400";

#[test]
fn a_field_that_stands_twice() {
    check(
        &format!("{REQUEST} ~ x_more: 1 ~ X_MORE: 2"),
        "the field `X_MORE` stands twice",
        // A message whose fields contradict each other is answered by its head alone.
        Some(
            &REFUSED
                .replace("dest_service_name: B", "dest_service_name: -")
                .replace("dest_socket_name: S", "dest_socket_name: -")
                .replace(
                    "source_service_name: A ~ source_service_instance_id: 7",
                    "source_service_name: - ~ source_service_instance_id: 0",
                ),
        ),
    );
}

#[test]
fn a_message_that_is_not_utf_8() {
    let mut bytes = format!("{REQUEST} ~ x_more: ").into_bytes();
    bytes.extend([0xff, 0xfe]);
    let error = Envelope::parse_bytes(&bytes).expect_err("refused");
    assert_eq!(error.problem.to_string(), "the message is not UTF-8");
    let answer = error.refusal.expect("answered").encode();
    assert!(answer.starts_with(REFUSED), "{answer}");
}

#[test]
fn values_out_of_range() {
    let with = |field: &str, value: &str| {
        let line = "type: execution_request ~ message_id: 9 ~ agent_network_address: ::1 ~ service_name: A ~ service_instance_id: 7 ~ socket_configuration:  ~ plug_configuration: ";
        let at = line.find(field).expect("it is there") + field.len() + 2;
        let end = line[at..].find(" ~").map_or(line.len(), |end| at + end);
        format!("{}{value}{}", &line[..at], &line[end..])
    };
    for (field, value) in [
        ("agent_network_address", "300.1.2.3"),
        ("service_instance_id", "-1"),
        ("service_instance_id", "99999999999999999999"),
        ("socket_configuration", "S, 0"),
        ("socket_configuration", "S"),
        ("plug_configuration", "P"),
        ("service_name", ""),
    ] {
        let error = Envelope::parse(&with(field, value)).expect_err(value);
        let answer = error.refusal.expect("answered").encode();
        assert!(
            answer.starts_with("type: execution_response ~ message_id: 9 ~ status: 400 ~ x_reason: "),
            "{answer}"
        );
        assert!(error.problem.to_string().contains(field), "{}", error.problem);
    }
    // Without an id that could be echoed there is no answer.
    for id in ["0", "x", "123456789012345678901", ""] {
        // What can't be read can't be repeated: the answer has the id that nobody uses.
        let refusal = Envelope::parse(&format!(
            "type: hard_shutdown_request ~ message_id: {id} ~ service_name: A ~ service_instance_id: 7"
        ))
        .expect_err(id)
        .refusal
        .expect("answered");
        assert!(refusal.encode().contains("message_id: 0 "), "{id}");
    }
}
