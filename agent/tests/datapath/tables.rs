//! Every table is bounded by what lives, and a full one is counted.

use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use patchbay_agent::datapath::{Datapath, Options, Scope, SessionEvent};
use patchbay_ebpf_common::{ConnectionName, LAYOUT, Member};

use crate::peers::script;
use crate::place::Place;

fn options(place: &Place, sessions_limit: u32) -> Options {
    let scope = Some(Scope { always: true, refusal: None });
    Options { scope, sessions_limit, pins: Some(place.pins()), ..Options::new(place.cgroup()) }
}

fn entries<K: aya::Pod, V: aya::Pod>(place: &Place, table: &str) -> usize {
    let map = MapData::from_pin(place.pins().join(format!("layout-{LAYOUT}")).join(table)).expect("pinned");
    HashMap::<_, K, V>::try_from(Map::HashMap(map)).expect("a hash").keys().count()
}

/// Ten thousand listeners and a hundred thousand sessions, through tables that hold a fraction of them, told by
/// a ring that overflows: the agent looks once in a while. Every session and every byte is counted.
#[tokio::test]
async fn listeners_and_sessions_that_have_ended_leave_nothing_and_are_all_counted() {
    const LISTENERS: u64 = 10_000;
    const SESSIONS: u64 = 100_000;
    let place = Place::one_namespace();
    let mut datapath = Datapath::load(&options(&place, 32_768)).expect("the kernel takes the programs");
    let mut peer =
        script(&place, "tables.py", &["churn", &LISTENERS.to_string(), &SESSIONS.to_string()]).within(300);
    let (mut sessions, mut sent, mut received, mut established) = (0, 0, 0, 0);
    loop {
        let running = peer.is_running();
        if !running {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        while let Some(event) = datapath.waiting_event() {
            match event {
                SessionEvent::Established(_) => established += 1,
                SessionEvent::Closed(report, _) => {
                    sessions += 1;
                    sent += report.sent.kernel_bytes + report.sent.tcp_bytes;
                    received += report.received.kernel_bytes + report.received.tcp_bytes;
                }
                _ => {}
            }
        }
        if !running {
            break;
        }
        // Long enough for the ring to overflow, too short for a fast machine to fill the tables.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let printed = peer.output();
    assert_eq!((established, sessions), (SESSIONS, SESSIONS));
    assert_eq!((sent, received), (7 * SESSIONS, 5 * SESSIONS));
    assert_eq!(datapath.refused_by_full_tables().expect("readable"), 0);
    assert_eq!(datapath.listened().expect("readable"), LISTENERS);
    assert_eq!(datapath.sessions().expect("readable"), []);
    assert_eq!(entries::<u64, Member>(&place, "MEMBERS"), 0);
    assert_eq!(entries::<ConnectionName, u64>(&place, "PENDING"), 0);
    let times: Vec<f64> = printed.split_whitespace().map(|time| time.parse().expect("seconds")).collect();
    assert!(times[1] < 3.0 * times[0], "the last ones were slower than the first: {printed}");
}

#[tokio::test]
async fn sessions_beyond_a_full_table_are_counted_and_work() {
    const LIMIT: u32 = 16;
    const SESSIONS: u64 = 50;
    let place = Place::one_namespace();
    let mut datapath = Datapath::load(&options(&place, LIMIT)).expect("the kernel takes the programs");
    script(&place, "tables.py", &["hold", &SESSIONS.to_string()]).succeed();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut counted = 0;
    while let Some(event) = datapath.waiting_event() {
        counted += u64::from(matches!(event, SessionEvent::Closed(..)));
    }
    let refused = datapath.refused_by_full_tables().expect("readable");
    assert_eq!(counted + refused, SESSIONS);
    assert!(counted >= u64::from(LIMIT / 2) && refused > 0, "{counted} counted, {refused} refused");
}
