//! An instance ends: asked to, forced to, or by itself (section 4, 12 to 14).

use crate::message::message;
use crate::{Address, InstanceId, Name, Status};

message! {
    /// Answer, then exit; the Manager has closed the instance's sessions before.
    GracefulShutdownRequest {
        /// The instance's service.
        service_name: Name,
        /// The instance.
        service_instance_id: InstanceId,
    }
}

message! {
    /// The instance's last message before it exits.
    GracefulShutdownResponse {
        /// 200, 409 sessions still open, 504 no answer.
        status: Status,
    }
}

message! {
    /// End the process and everything it started; never forwarded to the instance.
    HardShutdownRequest {
        /// The instance's service.
        service_name: Name,
        /// The instance.
        service_instance_id: InstanceId,
    }
}

message! {
    /// The process and everything it started are gone.
    HardShutdownResponse {
        /// The instance; absent in the oldest dialect.
        service_instance_id: InstanceId = optional ["source_service_instance_id", "service_instance"],
        /// 200, 404 no such instance, 500.
        status: Status,
    }
}

message! {
    /// The instance ends by its own logic, or the agent noticed that it has ended.
    ServiceInstanceTerminationInfo {
        /// The instance's service.
        service_name: Name ["source_service_name"],
        /// The instance.
        service_instance_id: InstanceId ["source_service_instance_id", "service_instance"],
        /// The instance's address.
        service_instance_network_address: Address = optional ["source_service_instance_network_address"],
    }
}
