//! The agent's core: messages of sessions on their way between an instance and the Manager.

use std::hint::black_box;

use patchbay_agent_core::profiles::Profiles;
use patchbay_agent_core::repository::parse;
use patchbay_agent_core::{Core, Effect, Event, Redirects};
use ssmmp::extension::Redirection;
use ssmmp::{Address, Envelope, InstanceId};

const REPOSITORY: &str = r#"
[service.A]
kind = "native"
program = "/bin/sh"
sockets = ["in"]
plugs = ["P"]
"#;

fn envelope(line: &str) -> Envelope {
    Envelope::parse(line).expect("a message of the protocol")
}

/// A session is asked for, answered, acknowledged and closed.
pub fn session(times: u32) {
    let repository = parse("r", REPOSITORY, |_, _| None).expect("a good repository");
    let redirects =
        Redirects { redirection: Redirection::Kernel, sees_all: true, observes: true, harmless: 0 };
    let address = Address("10.0.0.1".parse().expect("an address"));
    let mut core = Core::new(address, "n".into(), redirects, repository, Profiles::default());
    let effects = core.handle(0, Event::ManagerUp);
    let Some(Effect::ToManager(request)) = effects.last() else { panic!("it registers") };
    let id = request.message.message_id();
    core.handle(
        0,
        Event::FromManager(envelope(&format!(
            "type: initiation_response ~ message_id: {id} ~ status: 200 ~ x_manager: m ~ x_epoch: 1"
        ))),
    );
    core.handle(
        0,
        Event::FromManager(envelope(
            "type: execution_request ~ message_id: 7 ~ agent_network_address: 10.0.0.1 ~ service_name: A ~ \
         service_instance_id: 7 ~ socket_configuration: in, 54007 ~ plug_configuration: P, in, A",
        )),
    );
    let mut passed = 0;
    for number in 0..u64::from(times) {
        let (id, port) = (1_000 + 2 * number, 10_000 + number % 40_000);
        let asked = envelope(&format!(
            "type: session_request ~ message_id: {id} ~ sub_type: service_to_agent ~ source_service_name: A ~ \
             source_service_instance_id: 7 ~ source_service_instance_network_address: 10.0.0.1 ~ \
             source_plug_name: P ~ dest_service_name: A ~ dest_socket_name: in"
        ));
        let effects = black_box(core.handle(0, Event::FromInstance(InstanceId(7), black_box(asked))));
        passed += u32::from(effects.iter().any(|effect| matches!(effect, Effect::ToManager(_))));
        let answered = envelope(&format!(
            "type: session_response ~ message_id: {id} ~ sub_type: Manager_to_agent ~ source_service_name: A ~ \
             source_service_instance_id: 7 ~ dest_service_name: A ~ dest_service_instance_id: 9 ~ \
             dest_socket_name: in ~ dest_service_instance_network_address: 10.0.0.1 ~ dest_socket_port: 54009 ~ \
             status: 200"
        ));
        black_box(core.handle(0, Event::FromManager(answered)));
        let opened = envelope(&format!(
            "type: session_ack ~ message_id: {id} ~ sub_type: service_to_agent ~ source_service_name: A ~ \
             source_service_instance_id: 7 ~ source_plug_port: {port} ~ dest_socket_new_port: 54009 ~ status: 200"
        ));
        black_box(core.handle(0, Event::FromInstance(InstanceId(7), opened)));
        let closed = envelope(&format!(
            "type: source_service_session_close_info ~ message_id: {} ~ sub_type: source_service_to_agent ~ \
             source_service_name: A ~ source_service_instance_id: 7 ~ \
             source_service_instance_network_address: 10.0.0.1 ~ source_plug_name: P ~ source_plug_port: {port} ~ \
             dest_service_name: A ~ dest_service_instance_id: 9 ~ dest_service_instance_network_address: 10.0.0.1 ~ \
             dest_socket_name: in ~ dest_socket_port: 54009 ~ dest_socket_new_port: 54009 ~ status: 111",
            id + 1
        ));
        black_box(core.handle(0, Event::FromInstance(InstanceId(7), closed)));
    }
    assert_eq!(passed, times, "every request goes on to the Manager");
}
