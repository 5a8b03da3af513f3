"""The gateway of the hello application as a native service without a library: SSMMP/1.1 in some 60 lines.

Its agent starts it as PROGRAM … SERVICE ID ADDRESS SOCKETS PLUGS, with SSMMP_AGENT in its environment."""
import os
import queue
import socket
import sys
import threading

service, instance, address, sockets, plugs = sys.argv[-5:]
users_port = int(sockets.split(", ")[1])            # "users, 9000", further ones behind " & "
plug, dest_socket, dest_service = plugs.split(", ")  # "greeter, names, greeter", likewise
host, port = os.environ["SSMMP_AGENT"].rsplit(":", 1)
agent = socket.create_connection((host.strip("[]"), int(port)))
lock, numbers = threading.Lock(), iter(range(1, 1 << 60))
answers, sessions = {}, {}  # by message_id; by the plug's port: what was answered, and the connection


def say(**fields):
    line = " ~ ".join(f"{name}: {value}" for name, value in fields.items())
    with lock:
        agent.sendall(line.encode() + b"\n")


def ask_for_session():
    number = str(next(numbers))
    answers[number] = queue.Queue()
    say(type="session_request", message_id=number, sub_type="service_to_agent", source_service_name=service,
        source_service_instance_id=instance, source_service_instance_network_address=address,
        source_plug_name=plug, dest_service_name=dest_service, dest_socket_name=dest_socket)
    answer = answers[number].get()
    if not answer["status"].startswith("2"):
        raise ConnectionError(f"no session: {answer['status']} {answer.get('x_reason', '')}")
    at = answer["dest_service_instance_network_address"], int(answer["dest_socket_port"])
    session = socket.create_connection(at)
    own = session.getsockname()[1]
    sessions[own] = answer, session
    say(type="session_ack", message_id=number, sub_type="service_to_agent", source_service_name=service,
        source_service_instance_id=instance, source_plug_port=own, dest_socket_new_port=at[1], status=200)
    return own, session


def end_session(own, status):
    answer, session = sessions.pop(own, (None, None))
    if answer is None:  # the other thread was first
        return False
    session.close()
    say(type="source_service_session_close_info", message_id=next(numbers), sub_type="source_service_to_agent",
        source_service_name=service, source_service_instance_id=instance,
        source_service_instance_network_address=address, source_plug_name=plug, source_plug_port=own,
        dest_service_name=dest_service, dest_service_instance_id=answer["dest_service_instance_id"],
        dest_service_instance_network_address=answer["dest_service_instance_network_address"],
        dest_socket_name=dest_socket, dest_socket_port=answer["dest_socket_port"],
        dest_socket_new_port=answer["dest_socket_port"], status=status)
    return True


def hear():
    for line in agent.makefile("r"):
        fields = dict(part.split(": ", 1) for part in line.strip().split(" ~ ") if ": " in part)
        kind, number = fields["type"], fields["message_id"]
        if kind == "session_response" and not fields["status"].startswith("1"):
            answers.pop(number).put(fields)
        elif kind == "service_instance_health_request":
            say(type="service_instance_health_response", message_id=number,
                sub_type="service_instance_to_agent", service_instance_id=instance, status=200)
        elif kind == "source_service_session_close_request":
            found = end_session(int(fields["source_plug_port"]), 111)
            say(type="source_service_session_close_response", message_id=number,
                sub_type="source_service_to_agent", status=200 if found else 404)
        elif kind == "graceful_shutdown_request":
            say(type="graceful_shutdown_response", message_id=number, sub_type="service_instance_to_agent", status=200)
            os._exit(0)
    os._exit(1)  # the simplest answer to a lost agent; better: connect again, and tell it the open sessions


def serve(user):
    with user:
        for line in user.makefile("rb"):
            own, session = ask_for_session()
            session.sendall(line)
            user.sendall(session.makefile("rb").readline())
            end_session(own, 111)


say(type="service_instance_health_response", message_id=next(numbers), sub_type="service_instance_to_agent",
    service_instance_id=instance, status=200)
threading.Thread(target=hear, daemon=True).start()
with socket.create_server((address, users_port)) as users:
    while True:
        threading.Thread(target=serve, args=(users.accept()[0],), daemon=True).start()
