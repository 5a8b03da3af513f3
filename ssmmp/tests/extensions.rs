//! Every extension line is read as it was written, whatever a peer writes harms nothing, and docs/protocol.md has them all.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use ssmmp::extension::*;
use ssmmp::{
    Address, AgentHealthControlRequest, Envelope, Hop, InstanceId, MessageId, MessageType, Name, Port,
    SocketPort,
};

/// What is written is read as it was; and whatever is read is written as it is read.
macro_rules! check {
    ($value:expr, $type:ty) => {{
        let (value, mut text): ($type, String) = ($value, String::new());
        value.write(&mut text);
        prop_assert!(!text.contains(['~', '\n', '\r']), "{text:?}");
        prop_assert_eq!(<$type>::read(text.trim()), Some(value), "{}", text);
    }};
}

macro_rules! harmless {
    ($text:expr; $($type:ty),+ $(,)?) => {$(
        if let Some(value) = <$type>::read($text) {
            let mut written = String::new();
            value.write(&mut written);
            let again = <$type>::read(written.trim());
            let mut twice = String::new();
            again.ok_or_else(|| TestCaseError::fail(format!("{written:?} of {:?}", $text)))?.write(&mut twice);
            prop_assert_eq!(written.trim(), twice.trim());
        }
    )+};
}

fn name() -> impl Strategy<Value = Name> {
    "[A-Za-z0-9_.]{1,8}".prop_map(|text| Name::new(&text).expect("a name"))
}

/// A sentence without separators.
fn text() -> impl Strategy<Value = String> {
    "[a-z(]{1,6}( [a-zA-Z_.]{1,6}){0,4}"
}

fn end() -> impl Strategy<Value = End> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(address, port)| (Address::from(address), Port(port)))
}

fn id() -> impl Strategy<Value = InstanceId> {
    any::<u64>().prop_map(InstanceId)
}

fn live() -> impl Strategy<Value = LiveSession> {
    let message_id = prop::option::of((1..u64::MAX).prop_map(MessageId::from));
    (id(), any::<u16>(), id(), end(), message_id, prop::option::of(name())).prop_map(
        |(source, port, destination, at, message_id, plug)| LiveSession {
            source,
            port: Port(port),
            destination,
            at,
            message_id,
            plug,
        },
    )
}

fn running() -> impl Strategy<Value = RunningInstance> {
    let socket = (name(), any::<u16>()).prop_map(|(socket, port)| SocketPort { socket, port: Port(port) });
    let stage = prop::sample::select(vec![Stage::Starting, Stage::Running, Stage::Ending]);
    (name(), id(), prop::collection::vec(socket, 0..3), stage)
        .prop_map(|(service, id, sockets, stage)| RunningInstance { service, id, sockets, stage })
}

fn switched() -> impl Strategy<Value = SwitchedSession> {
    (id(), any::<u16>(), end()).prop_map(|(source, port, at)| SwitchedSession {
        source,
        port: Port(port),
        at,
    })
}

fn counters() -> impl Strategy<Value = SessionCounters<'static>> {
    let traffic = any::<[u64; 4]>().prop_map(|[kernel_bytes, tcp_bytes, kernel_messages, tcp_messages]| {
        Traffic { kernel_bytes, tcp_bytes, kernel_messages, tcp_messages }
    });
    let latest = prop_oneof![
        Just(None),
        Just(Some(Latest::Fast(Path::Memory))),
        Just(Some(Latest::Fast(Path::Kernel))),
        text()
            .prop_filter("a reason is no path", |text| text != "kernel" && text != "memory")
            .prop_map(|why| Some(Latest::Tcp(why.into()))),
    ];
    let memory = any::<[[u64; 2]; 2]>()
        .prop_map(|ways| ways.map(|[bytes, messages]| ThroughMemory { bytes, messages }));
    let details =
        ([latest.clone(), latest], any::<[u32; 2]>(), any::<[u32; 2]>(), any::<Option<u64>>(), memory);
    let details = details.prop_map(|(latest, switches, in_flight, idle, memory)| Details {
        latest,
        switches,
        in_flight,
        idle,
        memory,
    });
    let (ends, path) = ([end(), end()], prop::sample::select(Path::ALL.to_vec()));
    let reason = prop::option::of(text().prop_map(Cow::Owned));
    (ends, path, reason, [traffic.clone(), traffic], any::<bool>(), prop::option::of(details)).prop_map(
        |([source, destination], path, reason, [sent, received], is_open, details)| SessionCounters {
            source,
            destination,
            path,
            reason,
            sent,
            received,
            is_open,
            details,
        },
    )
}

fn some<T: std::fmt::Debug>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(of, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn lines_of_one_value(text in text(), name in name(), number in any::<u64>(), time in any::<i64>(), (address, port) in any::<(IpAddr, u16)>()) {
        check!(Node(&text), Node<'_>);
        check!(Secret(&text), Secret<'_>);
        check!(Version(&text), Version<'_>);
        check!(Reason(&text), Reason<'_>);
        check!(Unlimited(&text), Unlimited<'_>);
        check!(Manager(&text), Manager<'_>);
        check!(Forced(&text), Forced<'_>);
        check!(Redirection::Kernel, Redirection);
        check!(Redirection::Off(format!("off: {text}")), Redirection);
        check!(Time(time), Time);
        check!(App(name.clone()), App);
        check!(Service(name), Service);
        check!(Epoch(number), Epoch);
        check!(Within(number), Within);
        check!(Ending(number), Ending);
        check!(ManagerAddress(SocketAddr::new(address, port)), ManagerAddress);
    }

    #[test]
    fn lines_of_items(
        live in some(live()), running in some(running()), switched in some(switched()), on in any::<bool>(),
        counters in some(counters()), unavailable in some((name(), text())), unlimited in some((id(), text())),
    ) {
        check!(Live(live), Live);
        check!(Running(running), Running);
        check!(Switch { on, which: Switched::Sessions(switched) }, Switch);
        check!(Sessions(counters), Sessions<'_>);
        check!(Unavailable(unavailable), Unavailable);
        check!(UnlimitedInstances(unlimited), UnlimitedInstances);
    }

    #[test]
    fn lines_of_their_own(
        (plug, service, destination, socket, at) in (name(), name(), id(), name(), end()),
        (instance, after, lines) in (id(), any::<Option<u64>>(), any::<usize>()),
        output in some(text()), told in prop::collection::vec((any::<u64>(), "\\PC{0,20}|[~\"\n]{0,3}"), 0..4), on in any::<bool>(),
    ) {
        check!(WholeSession { plug, service, destination, socket, at }, WholeSession);
        check!(Log { instance, after, lines }, Log);
        check!(LogLines(told), LogLines);
        check!(Output(output), Output);
        check!(Switch { on, which: Switched::Node }, Switch);
        for redirect in [Redirect::Auto, Redirect::Always, Redirect::Never] {
            check!(redirect, Redirect);
        }
        check!(Allow(vec![Allowance::Splice]), Allow);
        check!(Ahead, Ahead);
        check!(Exiting, Exiting);
        check!(Extensions, Extensions);
        check!(RunningMore, RunningMore);
        check!(LogMore, LogMore);
        check!(NoMemory, NoMemory);
        check!(LiveComplete, LiveComplete);
    }

    #[test]
    fn no_text_harms(text in "\\PC{0,60}|([0-9]{1,6}|[a-z.:]{1,4}|on|off|node|[,&|; ]{1,3}){0,14}") {
        let text = text.trim();
        harmless!(text; Live, Running, Switch, Sessions<'_>, Unavailable, UnlimitedInstances, WholeSession, Log, LogLines,
            Redirect, Allow, Redirection, Time, App, Service, Epoch, Within, Ending, ManagerAddress);
    }
}

/// Text of a program or a person is told without what separates items.
#[test]
fn separators_in_texts_become_spaces() {
    let mut text = String::new();
    Unavailable(vec![(Name::new("a").expect("a name"), "no & such, program\n".into())]).write(&mut text);
    assert_eq!(text, "a, no   such, program");
    text.clear();
    Output(vec!["last | words".into(), "second".into()]).write(&mut text);
    assert_eq!(text, "last / words | second");
}

#[test]
fn what_makes_no_sense_is_as_if_it_were_not_there() {
    for wrong in [
        "",
        "on",
        "maybe, node",
        "off, ",
        "off, 7",
        "off, 7, 40122",
        "off, 7, 70000, ::1, 1",
        "off, 7, 1, ::1, 1 & x",
    ] {
        assert_eq!(Switch::read(wrong), None, "{wrong}");
    }
    assert_eq!(Allow::read("splice, teleport"), Some(Allow(vec![Allowance::Splice])));
    assert_eq!(Redirect::read("sometimes"), None);
    assert_eq!(Output::read(" | "), None);
    // An agent that ends in a time that can't be read ends at once.
    assert_eq!(Ending::read("soon"), Some(Ending(0)));
}

/// Instances with and without a stage, as older agents tell them.
#[test]
fn a_running_instance_may_say_no_stage() {
    let read = |text| Running::read(text).map(|Running(found)| found).unwrap_or_default();
    let found = read(
        " shop, 7, in=54000;out=54001, ending & shop, 8, in=54000 & shop, 9, , starting & shop, seven, in=1",
    );
    let told: Vec<_> = found
        .iter()
        .map(|found| (found.id.0, found.sockets.iter().map(|s| s.port.0).collect(), found.stage))
        .collect();
    let expected: [(u64, Vec<u16>, Stage); 3] = [
        (7, vec![54000, 54001], Stage::Ending),
        (8, vec![54000], Stage::Running),
        (9, vec![], Stage::Starting),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_line_is_told_and_understood() {
    let request = AgentHealthControlRequest { message_id: 7.into(), agent_network_address: Address::UNKNOWN };
    let at = (Address("10.0.0.1".parse().expect("an address")), Port(54000));
    let sessions = [40_122, 1].map(|port| SwitchedSession { source: InstanceId(7), port: Port(port), at });
    let switch = Switch { on: true, which: Switched::Sessions(sessions.to_vec()) };
    let wire = Envelope::new(request, Hop::ManagerToAgent).with(switch.clone()).encode();
    assert!(
        wire.ends_with(" ~ x_redirect: on, 7, 40122, 10.0.0.1, 54000 & 7, 1, 10.0.0.1, 54000\n"),
        "{wire}"
    );
    let understood = Envelope::parse(wire.trim_end()).expect("a message");
    assert_eq!((understood.line(), understood.line::<Log>()), (Some(switch), None));
}

#[test]
fn the_protocols_page_lists_every_line_with_its_messages() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md");
    let page = std::fs::read_to_string(page).expect("docs/protocol.md");
    let table = page
        .split("## Extension lines")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next())
        .expect("its part");
    let mut listed = BTreeSet::new();
    for row in table.lines().filter(|line| line.starts_with("| ") && line.contains("`x_")) {
        let mut cells = row.trim_matches('|').split(" | ").map(str::trim);
        let (messages, lines) = (cells.next().expect("messages"), cells.next().expect("lines"));
        for line in lines.split(", ").map(|line| line.trim_matches('`')) {
            for message in messages.split(", ") {
                assert!(
                    listed.insert((line.to_owned(), message.to_owned())),
                    "{line} of {message} is there twice"
                );
            }
        }
    }
    let of_types: BTreeSet<(String, String)> = LINES
        .iter()
        .flat_map(|(name, on)| on.iter().map(|on: &MessageType| ((*name).to_owned(), on.to_string())))
        .collect();
    let missing: Vec<_> = of_types.difference(&listed).collect();
    let stale: Vec<_> = listed.difference(&of_types).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "not listed: {missing:?}; listed and not there: {stale:?}"
    );
}
