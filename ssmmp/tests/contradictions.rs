//! Where the documents of SSMMP/1.1 disagree or are silent: what is accepted, and that only the canonical
//! form is emitted. Rows are numbered as in `docs/protocol.md`; those about behaviour have their tests
//! in the programs.

use ssmmp::{Conversation, Envelope, Hop, MAX_MESSAGE_BYTES, Speaker};

/// A row, what a peer sends, and what is emitted of it again (or why it is refused).
struct Case {
    row: u8,
    sent: &'static str,
    emitted: &'static [&'static str],
}

const fn case(row: u8, sent: &'static str, emitted: &'static [&'static str]) -> Case {
    Case { row, sent, emitted }
}

const HEALTH: &str = "type: agent_health_control_response ~ message_id: 9 ~ sub_type: agent_to_Manager ~ agent_network_address: 2001:db8::a ~ status: 200";
const REGISTER: &str = "type: initiation_request ~ message_id: 1 ~ agent_network_address: 2001:db8::a ~ service_repository: (A, B, C)";
const EXECUTE: &str = "type: execution_request ~ message_id: 2 ~ agent_network_address: 10.0.0.1 ~ service_name: A ~ service_instance_id: 7 ~ socket_configuration: S, 54000 ~ plug_configuration: P, T, B";
const REQUEST: &str = "type: session_request ~ message_id: 1000 ~ sub_type: service_to_agent ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: P ~ dest_service_name: B ~ dest_socket_name: S";
const ACK: &str = "type: session_ack ~ message_id: 1000 ~ sub_type: agent_to_Manager ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_port: 40122 ~ dest_socket_new_port: 54003 ~ status: 200";
const ACK_OF_NOBODY: &str = "type: session_ack ~ message_id: 1000 ~ sub_type: agent_to_Manager ~ source_service_name: - ~ source_service_instance_id: 0 ~ source_plug_port: 40122 ~ dest_socket_new_port: 54003 ~ status: 200";
const CLOSED: &str = "type: source_service_session_close_info ~ message_id: 3 ~ sub_type: agent_to_Manager ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: P ~ source_plug_port: 40122 ~ dest_service_name: B ~ dest_service_instance_id: 0 ~ dest_service_instance_network_address: 10.0.0.2 ~ dest_socket_name: S ~ dest_socket_port: 54003 ~ dest_socket_new_port: 0 ~ status: 122";
const ENDED: &str = "type: service_instance_termination_info ~ message_id: 4 ~ sub_type: agent_to_Manager ~ service_name: A ~ service_instance_id: 7 ~ service_instance_network_address: 10.0.0.1";
const KILLED: &str = "type: hard_shutdown_response ~ message_id: 5 ~ sub_type: agent_to_Manager ~ service_instance_id: 7 ~ status: 200";
const WELL: &str = "type: service_instance_health_response ~ message_id: 6 ~ sub_type: service_instance_to_agent ~ service_instance_id: 7 ~ status: 200";
const HOW: &str = "type: service_instance_health_request ~ message_id: 6 ~ sub_type: Manager_to_agent ~ service_instance_id: 7 ~ service_instance_network_address: 10.0.0.1";

const CASES: &[Case] = &[
    // 1, 2: several lines; line ends, and none at the end of the stream.
    case(
        1,
        "type: agent_health_control_response\nmessage_id: 9\nsub_type: agent_to_Manager\nagent_network_address: 2001:db8::a\nstatus: 200\n",
        &[HEALTH],
    ),
    case(
        1,
        "type: agent_health_control_response\nstatus: 200\nmessage_id: 9\nagent_network_address: 2001:db8::a\nsub_type: agent_to_Manager\n\n",
        &[HEALTH],
    ),
    case(
        2,
        "type: agent_health_control_response ~ message_id: 9 ~ sub_type: agent_to_Manager ~ agent_network_address: 2001:db8::a ~ status: 200\r\n",
        &[HEALTH],
    ),
    case(2, HEALTH, &[HEALTH]),
    // 3 to 6: separators, tildes, colons and blanks.
    case(
        3,
        "type: agent_health_control_response ~ message_id: 9 ~ ~ sub_type: agent_to_Manager ~ agent_network_address: 2001:db8::a ~ status: 200 ~ \n",
        &[HEALTH],
    ),
    case(
        3,
        "type: agent_health_control_response ~ message_id: 9 ~ sub_type: agent_to_Manager ~ agent_network_address: 2001:db8::a ~ status: 200 ~\n",
        &[HEALTH],
    ),
    case(
        4,
        "type: agent_health_control_response ~ message_id: 9 ~ sub_type: agent_to_Manager ~ agent_network_address: 2001:db8::a ~ status: 200 ~ note: a~b ~ c\n",
        &[
            "type: agent_health_control_response ~ message_id: 9 ~ sub_type: agent_to_Manager ~ agent_network_address: 2001:db8::a ~ status: 200 ~ note: a~b ~ c",
        ],
    ),
    case(
        5,
        "type: initiation_request~message_id: 1\n",
        &["error: unknown message type `initiation_request~message_id: 1`"],
    ),
    case(
        5,
        "type:initiation_request ~ message_id:1 ~ agent_network_address:2001:db8::a ~ service_repository:(A, B, C)\n",
        &[REGISTER],
    ),
    case(
        6,
        " type: agent_health_control_response ~ message_id: 9 ~ sub_type: agent_to_Manager ~ agent_network_address: 2001:db8::a ~ status: 200\n",
        &[HEALTH],
    ),
    // 7, 8: order, sub_types.
    case(
        7,
        "type: session_request ~ message_id: 1000 ~ sub_type: service_to_agent ~ dest_socket_name: S ~ source_service_instance_network_address: 10.0.0.1 ~ dest_service_name: B ~ source_plug_name: P ~ source_service_instance_id: 7 ~ source_service_name: A\n",
        &[REQUEST],
    ),
    case(
        8,
        "type: agent_health_control_response ~ message_id: 9 ~ sub_type: AGENT_TO_MANAGER ~ agent_network_address: 2001:db8::a ~ status: 200\n",
        &[HEALTH],
    ),
    case(
        8,
        "type: agent_health_control_response ~ message_id: 9 ~ agent_network_address: 2001:db8::a ~ status: 200\n",
        &[HEALTH],
    ),
    case(
        8,
        "type: session_ack ~ message_id: 1000 ~ sub_type: source_agent_to_Manager ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_port: 40122 ~ dest_socket_new_port: 54003 ~ status: 200\n",
        &[ACK],
    ),
    case(
        8,
        "type: session_ack ~ message_id: 1000 ~ sub_type: dest_agent_to_Manager ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_port: 40122 ~ dest_socket_new_port: 54003 ~ status: 200\n",
        &[ACK],
    ),
    // 9 to 13: what older dialects leave out, add or don't know.
    case(
        9,
        "type: session_request ~ message_id: 1000 ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_name: P ~ dest_service_name: B ~ dest_socket_name: S ~ agent_network_address: 10.0.0.1\n",
        &[
            "type: session_request ~ message_id: 1000 ~ sub_type: service_to_agent ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_service_instance_network_address: :: ~ source_plug_name: P ~ dest_service_name: B ~ dest_socket_name: S ~ agent_network_address: 10.0.0.1",
        ],
    ),
    case(
        10,
        "type: session_ack ~ message_id: 1000 ~ sub_type: agent_to_Manager ~ service_name: A ~ service_instance_id: 7 ~ source_plug_port: 40122 ~ dest_socket_new_port: 54003 ~ status: 200\n",
        &[ACK],
    ),
    case(
        10,
        "type: session_ack ~ message_id: 1000 ~ sub_type: agent_to_Manager ~ source_plug_port: 40122 ~ dest_socket_new_port: 54003 ~ status: 200\n",
        &[ACK_OF_NOBODY],
    ),
    case(
        11,
        "type: session_response ~ message_id: 1000 ~ sub_type: Manager_to_agent ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: P ~ dest_service_name: B ~ dest_service_instance_id: 9 ~ dest_socket_name: S ~ dest_service_instance_network_address: 10.0.0.2 ~ dest_socket_port: 54003 ~ status: 200\n",
        &[
            "type: session_response ~ message_id: 1000 ~ sub_type: Manager_to_agent ~ source_service_name: A ~ source_service_instance_id: 7 ~ dest_service_name: B ~ dest_service_instance_id: 9 ~ dest_socket_name: S ~ dest_service_instance_network_address: 10.0.0.2 ~ dest_socket_port: 54003 ~ status: 200 ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: P",
        ],
    ),
    case(
        12,
        "type: source_service_session_close_info ~ message_id: 3 ~ sub_type: agent_to_Manager ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: P ~ source_plug_port: 40122 ~ dest_service_name: B ~ dest_service_instance_network_address: 10.0.0.2 ~ dest_socket_name: S ~ dest_socket_port: 54003 ~ status: 122\n",
        &[CLOSED],
    ),
    case(
        13,
        "type: source_service_session_close_info ~ message_id: 3 ~ sub_type: agent_to_Manager ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: P ~ source_plug_port: 40122 ~ dest_service_name: B ~ dest_service_instance_id: - ~ dest_service_instance_network_address: 10.0.0.2 ~ dest_socket_name: S ~ dest_socket_port: 54003 ~ dest_socket_new_port: l ~ status: 122\n",
        &[CLOSED],
    ),
    // 15 to 17, 19, 20: names.
    case(
        15,
        "type: service_instance_termination_info ~ message_id: 4 ~ sub_type: agent_to_Manager ~ service_name: A ~ service_instance_id: 7 ~ source_service_instance_network_address: 10.0.0.1\n",
        &[ENDED],
    ),
    case(
        15,
        "type: service_instance_termination_info ~ message_id: 4 ~ sub_type: agent_to_Manager ~ source_service_name: A ~ source_service_instance_id: 7 ~ service_instance_network_address: 10.0.0.1\n",
        &[ENDED],
    ),
    case(
        16,
        "type: hard_shutdown_response ~ message_id: 5 ~ sub_type: agent_to_Manager ~ source_service_instance_id: 7 ~ status: 200\n",
        &[KILLED],
    ),
    case(
        16,
        "type: hard_shutdown_response ~ message_id: 5 ~ sub_type: agent_to_Manager ~ status: 200\n",
        &[
            "type: hard_shutdown_response ~ message_id: 5 ~ sub_type: agent_to_Manager ~ service_instance_id: 0 ~ status: 200",
        ],
    ),
    case(
        17,
        "type: health_control_response ~ message_id: 9 ~ sub_type: agent_to_Manager ~ agent_network_address: 2001:db8::a ~ status: 200\n",
        &[HEALTH],
    ),
    case(
        17,
        "type: health_control_response ~ message_id: 6 ~ sub_type: service_instance_to_agent ~ service_instance_id: 7 ~ status: 200\n",
        &[WELL],
    ),
    case(
        17,
        "type: health_control_request ~ message_id: 6 ~ sub_type: Manager_to_agent ~ service_instance_id: 7 ~ service_instance_network_address: 10.0.0.1\n",
        &[HOW],
    ),
    case(
        19,
        "type: service_instance_health_request ~ message_id: 6 ~ sub_type: Manager_to_agent ~ service_instance_network_address: 10.0.0.1 ~ service_instance_id: 7\n",
        &[HOW],
    ),
    case(
        20,
        "type: service_instance_health_response ~ message_id: 6 ~ service_instance: 7 ~ status: 200\n",
        &[WELL],
    ),
    // 21, 23 to 25: statuses.
    case(
        21,
        "type: execution_response ~ message_id: 2 ~ status: 300\n",
        &["type: execution_response ~ message_id: 2 ~ status: 300"],
    ),
    case(
        24,
        "type: session_request ~ message_id: 1000 ~ sub_type: service_to_agent ~ source_service_name: A ~ source_service_instance_id: 7 ~ dest_service_name: B ~ dest_socket_name: S\n",
        &[
            "answer: type: session_response ~ message_id: 1000 ~ sub_type: agent_to_service ~ source_service_name: A ~ source_service_instance_id: 7 ~ dest_service_name: B ~ dest_service_instance_id: 0 ~ dest_socket_name: S ~ dest_service_instance_network_address: :: ~ dest_socket_port: 0 ~ status: 400 ~ x_reason: the field `source_plug_name` is missing",
        ],
    ),
    case(
        25,
        "type: session_ack ~ message_id: 1000 ~ sub_type: agent_to_Manager ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_port:  ~ status: 502\n",
        &[
            "type: session_ack ~ message_id: 1000 ~ sub_type: agent_to_Manager ~ source_service_name: A ~ source_service_instance_id: 7 ~ source_plug_port: 0 ~ dest_socket_new_port: 0 ~ status: 502",
        ],
    ),
    // 26 to 28: lists, plugs, addresses.
    case(
        26,
        "type: initiation_request ~ message_id: 1 ~ agent_network_address: 2001:db8::a ~ service_repository: (A; B; C)\n",
        &[REGISTER],
    ),
    case(
        26,
        "type: initiation_request ~ message_id: 1 ~ agent_network_address: 2001:db8::a ~ service_repository: A, B, C, \n",
        &[REGISTER],
    ),
    case(
        26,
        "type: initiation_request ~ message_id: 1 ~ agent_network_address: 2001:db8::a ~ service_repository: A,B,C\n",
        &[REGISTER],
    ),
    case(
        27,
        "type: execution_request ~ message_id: 2 ~ agent_network_address: 10.0.0.1 ~ service_name: A ~ service_instance_id: 7 ~ socket_configuration: (S,54000) & ~ plug_configuration: P, T, B & \n",
        &[EXECUTE],
    ),
    case(
        27,
        "type: execution_request ~ message_id: 2 ~ agent_network_address: 10.0.0.1 ~ service_name: A ~ service_instance_id: 7 ~ socket_configuration: S, 54000 ~ plug_configuration: (P, B)\n",
        &[
            "type: execution_request ~ message_id: 2 ~ agent_network_address: 10.0.0.1 ~ service_name: A ~ service_instance_id: 7 ~ socket_configuration: S, 54000 ~ plug_configuration: P, B",
        ],
    ),
    case(
        28,
        "type: execution_request ~ message_id: 2 ~ agent_newtork_address: ::ffff:10.0.0.1 ~ service_name: A ~ service_instance_id: 7 ~ socket_configuration: S, 54000 ~ plug_configuration: P, T, B\n",
        &[EXECUTE],
    ),
    case(
        28,
        "type: initiation_request ~ message_id: 1 ~ agent_network_address: [2001:db8:0:0:0:0:0:a%eth0] ~ service_repository: (A, B, C)\n",
        &[REGISTER],
    ),
    // 35: the sketch's formats count, not its code: positions and labels with blanks do not matter.
    case(
        35,
        " type : session_ack ~ message_id: 1000 ~ status: 200 ~ dest_socket_new_port: 54003 ~ source_plug_port: 40122 ~ source_service_instance_id: 7 ~ source_service_name: A ~ sub_type: agent_to_Manager \n",
        &[ACK],
    ),
    // 37 to 39: what nobody here knows.
    case(
        37,
        "type: initiation_request ~ message_id: 1 ~ agent_network_address: 2001:db8::a ~ service_repository: (A, B, C) ~ x_sockets: A=S\n",
        &[
            "type: initiation_request ~ message_id: 1 ~ agent_network_address: 2001:db8::a ~ service_repository: (A, B, C) ~ x_sockets: A=S",
        ],
    ),
    case(38, "type: gossip ~ message_id: 1\n", &["error: unknown message type `gossip`"]),
    case(
        38,
        "type: agent_health_control_response ~ mood: good ~ message_id: 9 ~ sub_type: agent_to_Manager ~ agent_network_address: 2001:db8::a ~ status: 200\n",
        &[
            "type: agent_health_control_response ~ message_id: 9 ~ sub_type: agent_to_Manager ~ agent_network_address: 2001:db8::a ~ status: 200 ~ mood: good",
        ],
    ),
    case(
        39,
        "type: agent_health_control_response ~ message_id: 9 ~ x_first: 1 ~ sub_type: agent_to_Manager ~ agent_network_address: 2001:db8::a ~ status: 200 ~ x_last: 2\n",
        &[
            "type: agent_health_control_response ~ message_id: 9 ~ sub_type: agent_to_Manager ~ agent_network_address: 2001:db8::a ~ status: 200 ~ x_first: 1 ~ x_last: 2",
        ],
    ),
];

/// What comes of a stream: what is emitted of its messages on the hop they say, or the answer or the
/// reason where they are refused.
fn heard(stream: &[u8]) -> Vec<String> {
    let text = |envelope: &Envelope| envelope.encode().trim_end().to_owned();
    let mut conversation = Conversation::new(Speaker::Agent, MAX_MESSAGE_BYTES);
    let mut found = Vec::new();
    for bytes in [stream, &[]] {
        conversation.push(bytes);
        while let Some(read) = conversation.next_message() {
            found.push(match read {
                Ok(envelope) => text(&envelope),
                Err(error) => match error.refusal {
                    Some(answer) => format!("answer: {}", text(&answer)),
                    None => format!("error: {}", error.problem),
                },
            });
        }
    }
    found
}

#[test]
fn each_is_accepted_and_emitted_in_the_canonical_form() {
    for Case { row, sent, emitted } in CASES {
        assert_eq!(heard(sent.as_bytes()), *emitted, "row {row}: {sent:?}");
    }
}

#[test]
fn statuses_that_only_inform_are_never_final_except_for_the_three_with_a_meaning() {
    // Rows 21 and 23.
    for (code, is_final, is_success) in [
        (100, false, false),
        (102, false, false),
        (111, true, false),
        (122, true, false),
        (199, true, false),
        (200, true, true),
        (204, true, true),
        (300, true, false),
        (404, true, false),
        (503, true, false),
    ] {
        let status = ssmmp::Status::new(code).expect("three digits");
        assert_eq!((status.is_final(), status.is_success()), (is_final, is_success), "{code}");
    }
}

#[test]
fn a_message_over_64_kib_is_refused_in_its_own_response_type_and_what_follows_is_read() {
    // Row 40.
    let long = format!("{REQUEST} ~ x_much: {}\n{HEALTH}\n", "y".repeat(MAX_MESSAGE_BYTES));
    let found = heard(long.as_bytes());
    assert!(found[0].starts_with("answer: type: session_response ~ message_id: 1000 "), "{}", found[0]);
    assert!(found[0].ends_with("status: 400 ~ x_reason: the message is longer than 65536 bytes"));
    assert_eq!(found[1..], [HEALTH]);
}

#[test]
fn nothing_but_the_canonical_form_is_emitted() {
    for line in include_str!("vectors-canonical.jsonl").lines() {
        let vector: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let wire = vector["wire"].as_str().expect("a wire text");
        let envelope = Envelope::parse(wire.trim_end()).expect(wire);
        for hop in [Hop::InstanceToAgent, Hop::AgentToManager, Hop::ManagerToAgent, Hop::AgentToInstance] {
            let emitted = envelope.clone().forward(hop).encode();
            assert!(emitted.is_ascii() && emitted.ends_with('\n') && emitted.matches('\n').count() == 1);
            assert!(!emitted.starts_with(' ') && !emitted.trim_end_matches('\n').ends_with('~'));
            assert!(emitted.split(" ~ ").all(|field| field.contains(": ")), "{emitted}");
        }
    }
}
