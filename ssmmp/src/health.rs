//! The Manager polls instances and agents (section 4, 15 and 16).

use crate::message::message;
use crate::{Address, InstanceId, Status};

message! {
    /// Is this instance well?
    ServiceInstanceHealthRequest {
        /// The instance.
        service_instance_id: InstanceId ["service_instance"],
        /// The instance's address.
        service_instance_network_address: Address = optional,
    }
}

message! {
    /// How the instance is. An instance also sends it unasked as its first message, so that its
    /// agent can reach it before it ever asks for a session.
    ServiceInstanceHealthResponse {
        /// The instance.
        service_instance_id: InstanceId ["service_instance"],
        /// 200 fine, 199 overloaded, 504 no answer.
        status: Status,
    }
}

message! {
    /// Is this agent well?
    AgentHealthControlRequest {
        /// The agent's address.
        agent_network_address: Address = optional ["agent_newtork_address"],
    }
}

message! {
    /// How the agent is; also sent unasked, to carry what it has measured.
    AgentHealthControlResponse {
        /// The agent's address.
        agent_network_address: Address = optional ["agent_newtork_address"],
        /// 200 fine, 199 node overloaded.
        status: Status,
    }
}
