//! A session is asked for, answered and acknowledged (section 4, 6 to 9).

use crate::message::message;
use crate::{Address, InstanceId, Name, Port, Status};

message! {
    /// An instance asks where its plug connects.
    SessionRequest {
        /// The asking instance's service.
        source_service_name: Name,
        /// The asking instance.
        source_service_instance_id: InstanceId,
        /// The asking instance's address; absent in older dialects.
        source_service_instance_network_address: Address = optional,
        /// The plug.
        source_plug_name: Name,
        /// The destination service, from the plug configuration.
        dest_service_name: Name,
        /// The destination's socket.
        dest_socket_name: Name,
    }
}

message! {
    /// Where to connect, or why not.
    SessionResponse {
        /// The asking instance's service.
        source_service_name: Name,
        /// The asking instance.
        source_service_instance_id: InstanceId,
        /// The destination service.
        dest_service_name: Name,
        /// The chosen instance; unknown on a failure.
        dest_service_instance_id: InstanceId = optional,
        /// The destination's socket.
        dest_socket_name: Name,
        /// Where the chosen instance is.
        dest_service_instance_network_address: Address,
        /// Where its socket listens.
        dest_socket_port: Port,
        /// 200, 400, 403 no such edge, 404 unknown service or socket, 503, 504.
        status: Status,
    }
}

message! {
    /// The source has connected (or could not).
    SessionAck {
        /// The source's service; absent in older dialects.
        source_service_name: Name = optional ["service_name"],
        /// The source.
        source_service_instance_id: InstanceId = optional ["service_instance_id", "service_instance"],
        /// The plug's local port.
        source_plug_port: Port,
        /// The accepted socket's local port, which in TCP equals the listening port.
        dest_socket_new_port: Port = optional,
        /// 200, or 502 when the connection failed.
        status: Status,
    }
}
