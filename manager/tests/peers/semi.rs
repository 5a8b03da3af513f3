//! A whole life with an agent of the public Java implementation's dialect, in its own words.

use patchbay_manager::server::Options;

use super::manager::{GRAPH, Manager};

#[test]
fn an_agent_of_the_semi_dialect_is_served_in_its_dialect() {
    let manager = Manager::start(Options { accept_semi: true, ..Options::default() });
    manager.apply(&GRAPH.replace("port = 8080", "port = 34100"));
    let mut agent = manager.connect();
    agent.say("type:initiation_request;message_id:0010;agent_network_address:localhost_34011;service_repository:gate,store");
    assert_eq!(agent.hear(), "type:initiation_response;message_id:0010;status:200");
    let execution = agent.hear();
    let fields: Vec<&str> = execution.split(';').collect();
    let id = fields[1].strip_prefix("message_id:").expect("an id").to_owned();
    assert_eq!(fields[2..4], ["agent_newtork_address:localhost_34011", "Service_name:gate"]);
    let gate = fields[4].strip_prefix("Service_instance:").expect("an id").to_owned();
    assert_eq!(fields[5], "socket_configuration:localhost_34100");
    agent.say(&format!("type:execution_response;message_id:{id};status:200"));

    agent.say(&format!("type:session_request;message_id:1000;sub_type:agent_to_Manager;source_service_name:gate;source_service_instance_id:{gate};source_plug_name:store;dest_service_name:store;dest_socket_name:api"));
    let execution = agent.hear_of("Service_name:store");
    let store = field(&execution, "Service_instance:");
    agent.say(&format!("type:execution_response;message_id:{};status:200", field(&execution, "message_id:")));
    assert_eq!(
        agent.hear(),
        "type:session_response;message_id:1000;sub_type:Manager_to_agent;status:200;dest_Service_instance_network_address:localhost_54000;dest_socket_port:54000"
    );
    agent.say("type:session_ack;message_id:1000;sub_type:agent_to_Manager;status:200;source_plug_port:34100;dest_socket_new_port:54000");
    agent.say(&format!("type:process_data;message_id:1000;sub_type:agent_to_Manager;source_name:store;service_instance_id:{store}"));
    wait(&manager, 1);
    agent.say(&format!("type:source_service_session_close_info;message_id:10;sub_type:source_agent_to_Manager;source_service_name:gate;source_service_instance_network_address:localhost_34100;source_service_instance_id:{gate};source_plug_name:store;source_plug_port:34100;dest_service_name:store;dest_service_instance_network_address:localhost_54000;dest_socket_name:api;dest_socket_port:54000;dest_socket_new_port:l"));
    wait(&manager, 0);
    // Another agent speaks SSMMP/1.1 on the same listener.
    manager.agent("127.0.0.2");
}

#[test]
fn the_dialect_is_refused_without_the_flag() {
    let manager = Manager::start(Options::default());
    let mut agent = manager.connect();
    agent.say(
        "type:initiation_request;message_id:10;agent_network_address:localhost_34011;service_repository:gate",
    );
    agent.say("type: initiation_request ~ message_id: 11 ~ agent_network_address: 127.0.0.1 ~ service_repository: (gate)");
    assert_eq!(agent.hear(), "type: initiation_response ~ message_id: 11 ~ status: 200");
}

fn field(line: &str, name: &str) -> String {
    let found = line.split(';').find_map(|field| field.strip_prefix(name));
    found.unwrap_or_else(|| panic!("{name} in {line}")).to_owned()
}

fn wait(manager: &Manager, sessions: usize) {
    let begun = std::time::Instant::now();
    while manager.sessions() != sessions {
        assert!(begun.elapsed() < super::manager::WITHIN, "{sessions} open sessions");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
