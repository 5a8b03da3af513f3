"""A gateway that speaks the `semi` dialect with its agent, as the public Java implementation does: for each
user it asks where its plug connects, hands the user's line on, and hands the answer back."""

import os
import socket
import sys

name, instance, address, sockets, plugs = sys.argv[-5:]
plug, dest_socket, dest_service = plugs.split(", ")
port = int(sockets.split(", ")[1])
assert (name, address) == ("old", "127.0.0.1") and int(instance) > 0, sys.argv

host, agent_port = os.environ["SSMMP_AGENT"].rsplit(":", 1)
agent = socket.create_connection((host, int(agent_port)), 10)
heard = agent.makefile("r")


def say(**fields):
    agent.sendall((";".join(f"{key}:{value}" for key, value in fields.items()) + "\n").encode())


say(type="execution_response", message_id=1, status=200)
users = socket.create_server((address, port))
number = 1000
while True:
    user, _ = users.accept()
    line = user.makefile("rb").readline()
    # The dialect's gateway counts itself and repeats ids; leading zeros are kept.
    number += 1
    identity = f"00{number}"
    say(type="session_request", message_id=identity, sub_type="service_to_agent", source_service_name="Old Gateway",
        source_service_instance_id=100, source_plug_name=plug, dest_service_name=dest_service, dest_socket_name=dest_socket)
    while True:
        answer = heard.readline().strip()
        fields = dict(field.split(":", 1) for field in answer.split(";"))
        if fields["type"] == "health_control_request":
            say(type="health_control_response", message_id=fields["message_id"], sub_type="service_instance_to_agent",
                service_name=name, service_instance_id=fields["service_instance_id"], status=200)
        elif fields["type"] == "session_response":
            break
    positions = answer.split(";")
    assert positions[1] == f"message_id:{identity}" and positions[3] == "status:200", answer
    at = int(positions[5].split(":")[1])
    assert positions[4] == f"dest_Service_instance_network_address:localhost_{at}", answer
    session = socket.create_connection((address, at), 10)
    own = session.getsockname()[1]
    say(type="session_ack", message_id=identity, sub_type="service_to_agent", status=200, source_plug_port=own,
        dest_socket_new_port=at)
    session.sendall(line)
    user.sendall(session.makefile("rb").readline())
    session.close()
    user.close()
    say(type="source_service_session_close_info", message_id=number, sub_type="source_service_to_agent",
        source_service_name="Old Gateway", source_service_instance_network_address=f"localhost_{own}",
        source_service_instance_id=100, source_plug_name=plug, source_plug_port=own, dest_service_name=dest_service,
        dest_service_instance_network_address=f"localhost_{at}", dest_socket_name=dest_socket, dest_socket_port=at,
        dest_socket_new_port="l")
