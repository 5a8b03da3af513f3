//! Plugs' own addresses: where programs that connect there end up, and what they see of it.

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use patchbay_agent::datapath::{Destination, PlugAddress, PlugAddresses};

use crate::place::Place;

/// Connects to each address given, says which listener has accepted (its greeting), and what `getpeername` shows.
/// `bind=ADDRESS` before one binds the socket first, `v6` takes an IPv6 socket, `fast` TCP Fast Open, `udp` a datagram
/// socket, `twice` connects once more to the next with the same socket.
const CONNECT: &str = r#"
import socket, struct, sys
family, bound, flags, earlier = None, None, set(), None
for word in sys.argv[1:]:
    if word.startswith('bind='):
        bound = word[5:]
        continue
    if '=' not in word and word in ('v6', 'fast', 'udp', 'twice'):
        flags.add(word)
        continue
    host, port = word.rsplit(':', 1)
    v6 = ':' in host or 'v6' in flags
    s = earlier or socket.socket(socket.AF_INET6 if v6 else socket.AF_INET,
                                 socket.SOCK_DGRAM if 'udp' in flags else socket.SOCK_STREAM)
    if bound:
        s.bind((bound, 0))
    s.settimeout(None if 'fast' in flags else 5)
    try:
        if 'fast' in flags:
            s.sendto(b'x', 0x20000000, (host, int(port)))
        else:
            s.connect((host, int(port)))
        if 'udp' in flags:
            print('udp', '%s:%d' % s.getpeername()[:2])
            continue
        print(s.recv(20).decode(), '%s:%d' % s.getpeername()[:2])
        if 'twice' in flags:
            while s.recv(20): pass
            import ctypes
            # AF_UNSPEC dissolves the association.
            ctypes.CDLL(None).connect(s.fileno(), struct.pack('H14x', 0), 16)
            earlier = s
    except OSError as error:
        print(type(error).__name__)
"#;

/// Two listeners, `own` at the plug's address and `far` at the destination; each greets with its name and closes.
struct Listeners {
    child: std::process::Child,
    own: SocketAddr,
    far: SocketAddr,
}

impl Listeners {
    fn start(place: &Place, own: &str, far: &str) -> Self {
        let script = r#"
import socket, sys, threading
def serve(s, name):
    while True:
        c, _ = s.accept()
        c.sendall(name)
        # Closing it with something unread would be a reset.
        c.shutdown(socket.SHUT_WR)
        kept.append(c)
ports, kept = [], []
for host, name in zip(sys.argv[1:], (b'own', b'far')):
    v6 = ':' in host
    s = socket.create_server((host, 0), family=socket.AF_INET6 if v6 else socket.AF_INET, backlog=100)
    ports.append(str(s.getsockname()[1]))
    threading.Thread(target=serve, args=(s, name), daemon=True).start()
print(*ports, flush=True)
sys.stdin.read()
"#;
        let mut child = Command::new("ip")
            .args(["netns", "exec", &place.namespace("s"), "python3", "-c", script, own, far])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let mut line = String::new();
        let output = child.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line)
            .expect("it says its ports");
        let ports: Vec<u16> = line.split_whitespace().map(|port| port.parse().expect("a port")).collect();
        let at = |host: &str, port| SocketAddr::new(host.parse().expect("an address"), port);
        Self { child, own: at(own, ports[0]), far: at(far, ports[1]) }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The cookie of a place's network namespace, by a thread that enters it.
fn namespace(place: &Place) -> u64 {
    let file = std::fs::File::open(format!("/run/netns/{}", place.namespace("s"))).expect("made above");
    let entered = std::thread::spawn(move || {
        nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may");
        let any = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback is up");
        patchbay_agent::plugs::namespace_of(&any).expect("the kernel tells")
    });
    entered.join().expect("no panic")
}

/// What a program in a cgroup prints for words of [`CONNECT`].
fn connect(place: &Place, cgroup: &str, words: &[String]) -> Vec<String> {
    let folder: PathBuf = place.cgroup().join(cgroup);
    let output = Command::new("sh")
        .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
        .arg(folder.join("cgroup.procs"))
        .args(["ip", "netns", "exec", &place.namespace("s"), "python3", "-c", CONNECT])
        .args(words)
        .output()
        .expect("python3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// The programs at a source's cgroup, with a plug that leads from one listener to the other.
fn leading(place: &Place, listeners: &Listeners, within: Option<Duration>) -> (PlugAddresses, PlugAddress) {
    let mut plugs = PlugAddresses::load(None).expect("the kernel takes the programs");
    let cgroup = place.source_cgroup();
    plugs.attach(cgroup, &place.cgroup().join("s")).expect("root may");
    let address = PlugAddress { cgroup, namespace: namespace(place), at: listeners.own };
    let to = Destination { instance: 9, at: listeners.far };
    plugs.lead(&address, to, within).expect("there is room");
    assert_eq!(plugs.leads(&address), Some(to));
    (plugs, address)
}

fn words(all: &[&dyn std::fmt::Display]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

#[test]
fn a_plugs_address_leads_to_the_destination_and_getpeername_shows_the_plugs() {
    for (own, far) in [("127.0.0.1", "127.0.0.2"), ("::1", "::1"), ("::1", "127.0.0.2")] {
        let place = Place::one_namespace();
        let listeners = Listeners::start(&place, own, far);
        let (mut plugs, address) = leading(&place, &listeners, None);
        let at = format!("{}:{}", own, listeners.own.port());
        let led = format!("far {at}");
        assert_eq!(connect(&place, "s", &words(&[&at])), std::slice::from_ref(&led), "{own} to {far}");
        assert_eq!(connect(&place, "s", &words(&[&"fast", &at])), [led], "with data in its first packet");
        plugs.lead_nowhere(&address).expect("the kernel takes it");
        assert_eq!(connect(&place, "s", &words(&[&at])), [format!("own {at}")]);
    }
}

#[test]
fn an_ipv6_socket_with_an_ipv4_address_is_led_too() {
    let place = Place::one_namespace();
    let listeners = Listeners::start(&place, "127.0.0.1", "127.0.0.2");
    let _leading = leading(&place, &listeners, None);
    let at = format!("::ffff:{}", listeners.own);
    assert_eq!(connect(&place, "s", &words(&[&at])), [format!("far {at}")]);
}

#[test]
fn what_can_not_be_led_reaches_the_plugs_own_address() {
    let place = Place::one_namespace();
    // An IPv4 socket and an IPv6 destination.
    let listeners = Listeners::start(&place, "127.0.0.1", "::1");
    let at = listeners.own.to_string();
    let _leading = leading(&place, &listeners, None);
    assert_eq!(connect(&place, "s", &words(&[&at])), [format!("own {at}")]);
    // A datagram.
    assert_eq!(connect(&place, "s", &words(&[&"udp", &at])), [format!("udp {at}")]);
}

#[test]
fn a_destination_that_listens_no_more_is_not_led_to() {
    for (own, far) in [("127.0.0.1", "127.0.0.2"), ("::1", "::1")] {
        let place = Place::one_namespace();
        let listeners = Listeners::start(&place, own, far);
        let (mut plugs, address) = leading(&place, &listeners, None);
        let nobody = SocketAddr::new(listeners.far.ip(), 1);
        plugs.lead(&address, Destination { instance: 9, at: nobody }, None).expect("there is room");
        let at = format!("{own}:{}", listeners.own.port());
        assert_eq!(connect(&place, "s", &words(&[&at])), [format!("own {at}")], "its agent may not know yet");
    }
}

#[test]
fn only_the_instances_own_connections_are_led() {
    let place = Place::one_namespace();
    let listeners = Listeners::start(&place, "127.0.0.1", "127.0.0.2");
    let (mut plugs, _) = leading(&place, &listeners, None);
    let at = listeners.own.to_string();
    plugs.attach(place.destination_cgroup(), &place.cgroup().join("d")).expect("root may");
    assert_eq!(connect(&place, "d", &words(&[&at])), [format!("own {at}")], "another instance's plug");
    // A cgroup of the program's own below its instance's is the instance's.
    let below = place.cgroup().join("s/below");
    std::fs::create_dir(&below).expect("root makes cgroups");
    let led = connect(&place, "s/below", &words(&[&at]));
    for _ in 0..100 {
        if std::fs::remove_dir(&below).is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(led, [format!("far {at}")]);
    plugs.detach(place.source_cgroup());
    assert_eq!(connect(&place, "s", &words(&[&at])), [format!("own {at}")], "the instance is gone");
}

#[test]
fn a_destination_is_believed_in_for_no_longer_than_said() {
    let place = Place::one_namespace();
    let listeners = Listeners::start(&place, "127.0.0.1", "127.0.0.2");
    let (plugs, address) = leading(&place, &listeners, Some(Duration::from_millis(1)));
    std::thread::sleep(Duration::from_millis(2));
    let at = listeners.own.to_string();
    assert_eq!(connect(&place, "s", &words(&[&at])), [format!("own {at}")]);
    assert_eq!(plugs.leads(&address), None);
}

#[test]
fn a_socket_that_connects_again_elsewhere_shows_where_it_is() {
    let place = Place::one_namespace();
    let listeners = Listeners::start(&place, "127.0.0.1", "127.0.0.2");
    let _leading = leading(&place, &listeners, None);
    let (at, far) = (listeners.own.to_string(), listeners.far.to_string());
    let shown = connect(&place, "s", &words(&[&"twice", &at, &at]));
    assert_eq!(shown, [format!("far {at}"), format!("far {at}")]);
    // Whoever names the destination itself is shown it.
    assert_eq!(connect(&place, "s", &words(&[&far])), [format!("far {far}")]);
}

#[test]
fn what_is_pinned_leads_on_without_the_agent_and_is_taken_over() {
    let place = Place::one_namespace();
    let listeners = Listeners::start(&place, "127.0.0.1", "127.0.0.2");
    let pins = place.pins();
    let cgroup = place.source_cgroup();
    let address = PlugAddress { cgroup, namespace: namespace(&place), at: listeners.own };
    let to = Destination { instance: 9, at: listeners.far };
    let at = listeners.own.to_string();
    let mut first = PlugAddresses::load(Some(&pins)).expect("the kernel takes the programs");
    first.attach(cgroup, &place.cgroup().join("s")).expect("root may");
    first.lead(&address, to, None).expect("there is room");
    drop(first);
    assert_eq!(connect(&place, "s", &words(&[&at])), [format!("far {at}")], "no agent is there");
    let mut second = PlugAddresses::load(Some(&pins)).expect("taken over");
    assert_eq!(second.leads(&address), Some(to));
    second.attach(cgroup, &place.cgroup().join("s")).expect("in place of the first one's");
    assert_eq!(connect(&place, "s", &words(&[&at])), [format!("far {at}")]);
    second.detach(cgroup);
    assert_eq!(connect(&place, "s", &words(&[&at])), [format!("own {at}")]);
    drop(second);
    PlugAddresses::remove(&pins).expect("no trace is left");
}

/// A process keeps a listener that it inherits; the agent takes it back from there.
#[tokio::test]
async fn a_listener_is_taken_back_from_the_process_that_inherited_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let at = listener.local_addr().expect("bound");
    // Unlike the listener itself, what dup makes is inherited.
    let inherited = nix::unistd::dup(&listener).expect("a descriptor");
    let mut child = Command::new("sleep").arg("30").spawn().expect("it starts");
    let number = inherited.as_raw_fd();
    drop((listener, inherited));
    let process = patchbay_agent::adopted::AdoptedProcess::open(child.id().cast_signed()).expect("it runs");
    let back = process.descriptor(number).expect("root may");
    let listener: std::net::TcpListener = back.into();
    assert_eq!(listener.local_addr().expect("a listener"), at);
    let _connected = std::net::TcpStream::connect(at).expect("it listens");
    listener.accept().expect("accepted");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}
