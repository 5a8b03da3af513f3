//! A session ends, or is asked to end (section 4, 10 and 11).

use crate::message::message;
use crate::{Address, InstanceId, Name, Port, Status};

message! {
    /// The source tells that a session ended.
    SourceServiceSessionCloseInfo {
        /// The source's service.
        source_service_name: Name,
        /// The source.
        source_service_instance_id: InstanceId,
        /// The source's address.
        source_service_instance_network_address: Address = optional,
        /// The source's plug.
        source_plug_name: Name,
        /// The plug's local port.
        source_plug_port: Port,
        /// The destination's service.
        dest_service_name: Name,
        /// The destination; a hint, not a key.
        dest_service_instance_id: InstanceId = optional,
        /// The destination's address.
        dest_service_instance_network_address: Address,
        /// The destination's socket.
        dest_socket_name: Name,
        /// The socket's listening port.
        dest_socket_port: Port,
        /// The accepted socket's local port.
        dest_socket_new_port: Port = optional,
        /// 111 closed by business logic, 122 broken.
        status: Status,
    }
}

message! {
    /// The destination tells that a session ended; it knows neither the source's name nor its id.
    DestServiceSessionCloseInfo {
        /// The source's address.
        source_service_instance_network_address: Address,
        /// The source's plug, where the destination knows it.
        source_plug_name: Name,
        /// The plug's local port.
        source_plug_port: Port,
        /// The destination's service.
        dest_service_name: Name,
        /// The destination's address.
        dest_service_instance_network_address: Address = optional,
        /// The destination.
        dest_service_instance_id: InstanceId = optional,
        /// The destination's socket.
        dest_socket_name: Name,
        /// The socket's listening port.
        dest_socket_port: Port,
        /// The accepted socket's local port.
        dest_socket_new_port: Port = optional,
        /// 111 closed by business logic, 122 broken.
        status: Status,
    }
}

message! {
    /// The Manager has the source close a session.
    SourceServiceSessionCloseRequest {
        /// The source's service.
        source_service_name: Name,
        /// The source.
        source_service_instance_id: InstanceId,
        /// The source's address.
        source_service_instance_network_address: Address,
        /// The source's plug.
        source_plug_name: Name,
        /// The plug's local port.
        source_plug_port: Port,
        /// The destination's service.
        dest_service_name: Name,
        /// The destination's address.
        dest_service_instance_network_address: Address,
        /// The destination's socket.
        dest_socket_name: Name,
        /// The socket's listening port.
        dest_socket_port: Port,
        /// The accepted socket's local port.
        dest_socket_new_port: Port = optional,
    }
}

message! {
    /// The source has closed the session.
    SourceServiceSessionCloseResponse {
        /// 200, 404 no such session, 409 refused, 504 no answer.
        status: Status,
    }
}

message! {
    /// The Manager has the destination close a session, the source's side being gone.
    DestServiceSessionCloseRequest {
        /// The destination's service.
        dest_service_name: Name,
        /// The destination; its agent finds it by the socket's port where it is unknown.
        dest_service_instance_id: InstanceId = optional,
        /// The destination's address.
        dest_service_instance_network_address: Address,
        /// The source's address.
        source_service_instance_network_address: Address,
        /// The source's plug.
        source_plug_name: Name,
        /// The plug's local port.
        source_plug_port: Port,
        /// The destination's socket.
        dest_socket_name: Name,
        /// The socket's listening port.
        dest_socket_port: Port,
        /// The accepted socket's local port.
        dest_socket_new_port: Port = optional,
    }
}

message! {
    /// The destination has closed the session.
    DestServiceSessionCloseResponse {
        /// 200, 404 no such session, 409 refused, 504 no answer.
        status: Status,
    }
}
