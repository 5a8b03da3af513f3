//! The Manager has an instance executed (section 4, 3 to 5a).

use crate::message::message;
use crate::{Address, InstanceId, Name, PlugConfiguration, SocketConfiguration, Status};

message! {
    /// Start an instance with exactly this configuration.
    ExecutionRequest {
        /// The address of the agent and so of the instance.
        agent_network_address: Address ["agent_newtork_address"],
        /// The service, from the agent's repository.
        service_name: Name,
        /// The new instance's id.
        service_instance_id: InstanceId ["service_instance"],
        /// A port for each socket.
        socket_configuration: SocketConfiguration,
        /// A target for each plug.
        plug_configuration: PlugConfiguration,
    }
}

message! {
    /// 200 once every socket of the instance listens.
    ExecutionResponse {
        /// 200, 404 not in the repository, 409 id in use, 500 could not start, 503, 504 not
        /// listening in time.
        status: Status,
    }
}
