//! Parsing what was emitted is the identity, and nothing a peer sends makes parsing panic.

use proptest::prelude::*;
use ssmmp::{Envelope, Hop, MessageType};

/// A line of any type with plausible and implausible values.
fn lines() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        "[A-Za-z0-9_.-]{1,8}",
        "[0-9]{1,5}",
        Just("200".to_owned()),
        Just("2001:db8::1".to_owned()),
        Just("S, 54000 & S2, 54001".to_owned()),
        Just("P, S, B".to_owned()),
        "\\PC{0,20}",
        "[~:a ,(&]{0,12}",
    ];
    let names = prop::sample::select(vec![
        "sub_type",
        "agent_network_address",
        "service_repository",
        "status",
        "service_name",
        "service_instance_id",
        "socket_configuration",
        "plug_configuration",
        "source_service_name",
        "source_service_instance_id",
        "source_service_instance_network_address",
        "source_plug_name",
        "source_plug_port",
        "dest_service_name",
        "dest_service_instance_id",
        "dest_socket_name",
        "dest_service_instance_network_address",
        "dest_socket_port",
        "dest_socket_new_port",
        "x_more",
        "service_instance_network_address",
    ]);
    let colon = prop::sample::select(vec![": ", ":", " :\t"]);
    let types = prop::sample::select(MessageType::ALL.to_vec());
    (types, 1u64..1_000_000, prop::collection::btree_map(names, (colon, value), 0..21)).prop_map(
        |(t, id, fields)| {
            let mut line = format!("type: {t} ~ message_id: {id}");
            for (name, (colon, value)) in fields {
                line.push_str(&format!(" ~ {name}{colon}{value}"));
            }
            line
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_was_parsed_is_emitted_and_parsed_again_unchanged(line in lines()) {
        if let Ok(envelope) = Envelope::parse(&line) {
            for hop in [Hop::InstanceToAgent, Hop::AgentToManager, Hop::ManagerToAgent, Hop::AgentToInstance] {
                let sent = envelope.clone().forward(hop);
                let wire = sent.encode();
                let again = Envelope::parse(wire.trim_end_matches('\n')).map_err(|e| TestCaseError::fail(format!("{e}: {wire}")))?;
                prop_assert_eq!(&again.message, &sent.message);
                prop_assert_eq!(&again.extensions, &sent.extensions);
            }
        }
    }

    #[test]
    fn no_bytes_make_parsing_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Envelope::parse_bytes(&bytes);
    }

    #[test]
    fn no_text_makes_parsing_panic(line in "\\PC{0,200}") {
        let _ = Envelope::parse(&line);
    }
}
