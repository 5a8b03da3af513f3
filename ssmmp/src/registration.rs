//! An agent registers with the Manager (section 4, 1 and 2).

use crate::message::message;
use crate::{Address, NameList, Status};

message! {
    /// An agent's first message on its connection.
    InitiationRequest {
        /// The node's address.
        agent_network_address: Address ["agent_newtork_address"],
        /// The services that this agent can execute.
        service_repository: NameList,
    }
}

message! {
    /// The Manager's answer; the agent goes on only after a 2xx.
    InitiationResponse {
        /// 200, 307 another Manager owns this agent, 400, 401, 403, 409, 503.
        status: Status,
    }
}
