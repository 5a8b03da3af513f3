//! The store with real files: what is kept, what is refused, what ends.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use patchbay_manager_core::{Apply, Config, Event as CoreEvent, Ticket};

const GRAPH: &str = include_str!("../../../examples/hello/hello.toml");

struct Folder {
    folder: TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("manager.db")
    }

    fn sql(&self, text: &str) {
        Connection::open(self.database()).expect("opened").execute_batch(text).expect(text);
    }

    fn count(&self, what: &str) -> u64 {
        let connection = Connection::open(self.database()).expect("opened");
        connection.query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get(0)).expect(what)
    }

    /// A database with one application, written by a Manager.
    fn with_an_app(&self) -> Store {
        let mut store = Store::open(&self.database()).expect("opened");
        let mut core = Core::new(Config::default(), 1, 0);
        let apply = Apply::of_text(GRAPH).expect("good");
        let mut effects = core.handle(1_000, CoreEvent::Apply(Ticket(0), apply.into()));
        store.write(&mut effects).expect("written");
        store
    }
}

fn row() -> Effect {
    Effect::Save(patchbay_manager_core::Row::MessageIds(7))
}

fn restored(store: &Store) -> Core {
    let mut core = Core::new(Config::default(), 2, 0);
    store.restore(&mut core).expect("restored");
    core
}

#[test]
fn what_was_written_is_read_back() {
    let place = Folder::new();
    drop(place.with_an_app());
    let core = restored(&Store::open(&place.database()).expect("opened"));
    assert_eq!(core.app("hello").map(|app| app.text.as_str()), Some(GRAPH));
}

#[test]
fn a_database_of_the_first_schema_is_migrated_with_its_rows() {
    let place = Folder::new();
    place.sql(include_str!("migrations/001-first.sql"));
    place.sql(
        "PRAGMA user_version = 1;
         INSERT INTO instances (id, app, service, node, address, sockets, state, created_ms, ended_ms,
             reason, output) VALUES (7, 'a', 's', 'n', '10.0.0.1', '[[\"api\",54000]]', 'running', 5, NULL, NULL, '');
         INSERT INTO sessions VALUES (9, 'a', '1', 7, 's', 'p', '10.0.0.1', 40000, 8, 'd', 'api', '10.0.0.2', 54001,
             54001, 6, NULL, NULL, 'kernel', NULL, 1, 2, 3, 4);",
    );
    let core = restored(&Store::open(&place.database()).expect("migrated"));
    assert_eq!(core.instance(7).map(|instance| instance.sockets[0].1), Some(ssmmp::Port(54_000)));
    assert!(core.session(9).is_some());
    assert!(check(&place.database()).expect("sound").rows.contains(&("sessions".into(), 1)));
}

#[test]
fn a_second_manager_is_refused() {
    let place = Folder::new();
    let first = place.with_an_app();
    let error = Store::open(&place.database()).err().expect("refused").to_string();
    assert!(error.contains("another Manager (process "), "{error}");
    drop(first);
    drop(Store::open(&place.database()).expect("free again"));
}

#[test]
fn a_file_that_is_no_database_is_refused_with_advice() {
    let place = Folder::new();
    std::fs::write(place.database(), "this is a letter, not a database. ".repeat(200)).expect("written");
    for error in [Store::open(&place.database()).err(), check(&place.database()).err()] {
        let error = error.expect("refused").to_string();
        assert!(error.contains("is no SQLite database") && error.contains("put a backup"), "{error}");
    }
}

#[test]
fn damaged_pages_are_found_at_start_and_by_check() {
    let place = Folder::new();
    drop(place.with_an_app());
    damage(&place.database());
    for error in [Store::open(&place.database()).err(), check(&place.database()).err()] {
        let error = error.expect("found").to_string();
        assert!(error.contains("it is damaged") && error.contains("put a backup"), "{error}");
    }
}

/// Overwrites all pages but the first, which holds the schema.
fn damage(database: &Path) {
    let mut bytes = std::fs::read(database).expect("read");
    assert!(bytes.len() > 8192, "there is more than the schema");
    bytes[4096..].fill(0x55);
    std::fs::write(database, bytes).expect("written");
}

#[test]
fn a_backup_is_taken_while_the_manager_writes_and_serves_as_a_database() {
    let place = Folder::new();
    let mut store = place.with_an_app();
    let target = place.folder.path().join("backup.db");
    let mut told = 0;
    backup(&place.database(), &target, |copied, all| told = all - copied).expect("copied");
    assert_eq!(told, 0);
    store.write(&mut [row()]).expect("the Manager goes on");
    let again = backup(&place.database(), &target, |_, _| {}).expect_err("not overwritten").to_string();
    assert!(again.contains("is there already"), "{again}");
    let core = restored(&Store::open(&target).expect("it is a database"));
    assert!(core.app("hello").is_some());
    let names: Vec<_> = std::fs::read_dir(place.folder.path())
        .expect("read")
        .map(|e| e.expect("entry").file_name())
        .collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains("partial")), "{names:?}");
}

#[test]
fn checking_what_is_not_there_makes_nothing() {
    let place = Folder::new();
    let error = check(&place.database()).expect_err("absent").to_string();
    assert!(error.contains("can't be read"), "{error}");
    assert!(!place.database().exists());
}

#[test]
fn old_history_ends_in_bounded_steps_and_open_sessions_stay() {
    let place = Folder::new();
    let mut store = place.with_an_app();
    place.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)
         INSERT INTO sessions (id, app, message_id, source_instance, source_service, plug, source_address, source_port,
             destination_instance, destination_service, socket, destination_address, destination_port, new_port,
             opened_ms, closed_ms, status, path, reason, sent_kernel_bytes, sent_tcp_bytes, received_kernel_bytes,
             received_tcp_bytes)
         SELECT i, 'a', '1', 7, 's', 'p', '10.0.0.1', 40000, 8, 'd', 'api', '10.0.0.2', 54001,
             54001, i, CASE i WHEN 600 THEN NULL ELSE i + 1 END, 111, 'kernel', NULL, 1, 2, 3, 4 FROM n;
         INSERT INTO instances (id, app, service, node, address, sockets, state, created_ms, ended_ms)
             VALUES (7, 'a', 's', 'n', '10.0.0.1', '[]', 'ended', 5, 6),
             (8, 'a', 's', 'n', '10.0.0.1', '[]', 'ended', 5, 6);
         INSERT INTO instance_changes VALUES (1, 7, 5, 'running', NULL);",
    );
    store.keep(Kept { time: Duration::from_millis(1_000), rows: 1_000_000 });
    let mut steps = 0;
    // Sessions from number 1100 on are young enough.
    while store.prune(2_101).expect("pruned") == Pruned::More {
        steps += 1;
    }
    assert_eq!(steps, 2);
    assert_eq!(place.count("sessions"), 102);
    assert_eq!(place.count("sessions WHERE id = 600"), 1, "it is open");
    assert_eq!(place.count("instances"), 1, "the newest tells which ids were given");
    assert_eq!(place.count("instance_changes"), 0);
    store.keep(Kept { time: Duration::from_secs(1_000), rows: 10 });
    while store.prune(2_101).expect("pruned") == Pruned::More {}
    assert_eq!(place.count("sessions"), 11);
}

#[test]
fn instances_that_ended_last_are_known_after_a_restart_as_before() {
    let place = Folder::new();
    let store = place.with_an_app();
    place.sql(
        "INSERT INTO instances (id, app, service, node, address, sockets, state, created_ms, ended_ms, reason, output)
             VALUES (7, 'hello', 'gateway', 'n', '10.0.0.1', '[[\"users\",9000]]', 'failed', 100, 900, 'exit status 1', 'x\ny');
         WITH RECURSIVE n(i) AS (SELECT 8 UNION ALL SELECT i + 1 FROM n WHERE i < 1006)
         INSERT INTO instances (id, app, service, node, address, sockets, state, created_ms, ended_ms, reason, output)
             SELECT i, 'hello', 'greeter', 'n', '10.0.0.1', '[]', 'ended', 100, 800, 'stopped', NULL FROM n;
         INSERT INTO instances (id, app, service, node, address, sockets, state, created_ms, ended_ms, reason, output)
             VALUES (6, 'hello', 'greeter', 'n', '10.0.0.1', '[]', 'ended', 100, 200, 'long ago', NULL);",
    );
    let mut core = Core::new(Config::default(), 2, 1_000);
    store.restore(&mut core).expect("restored");
    let all = core.instances(None, true, patchbay_manager_core::Page::ALL);
    assert_eq!(all.len(), patchbay_manager_core::ENDED_KEPT, "the latest ones");
    let first = &all[0];
    assert_eq!((first.id, first.state.as_str(), first.ended_ms), (7, "failed", Some(900)));
    assert_eq!((first.reason.as_deref(), first.output.len()), (Some("exit status 1"), 2));
    assert!(core.instances(None, false, patchbay_manager_core::Page::ALL).is_empty(), "none of them runs");
    assert!(core.nodes().is_empty(), "nobody is expected for them");
}

#[test]
fn history_is_read_beside_the_manager_and_says_what_it_does_not_know() {
    let place = Folder::new();
    let _store = place.with_an_app();
    place.sql(
        "INSERT INTO instances (id, app, service, node, address, sockets, state, created_ms, ended_ms, reason, output)
             VALUES (7, 'a', 's', 'n', '10.0.0.1', '[[\"api\",54000]]', 'ended', 100000, 900000, 'shut down', 'x\ny');
         INSERT INTO instance_changes VALUES (1, 7, 100000, 'starting', NULL), (2, 7, 100500, 'running', NULL),
             (3, 7, 900000, 'ended', 'shut down');
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
         INSERT INTO sessions (id, app, message_id, source_instance, source_service, plug, source_address, source_port,
             destination_instance, destination_service, socket, destination_address, destination_port, new_port,
             opened_ms, closed_ms, status, path, sent_kernel_bytes, sent_tcp_bytes, received_kernel_bytes,
             received_tcp_bytes)
         SELECT i, 'a', '1', CASE i % 10 WHEN 0 THEN 7 ELSE 8 END, 's', 'p', '10.0.0.1', 40000, 9, 'd', 'api',
             '10.0.0.2', 54001, 54001, i * 1000, CASE i WHEN 310 THEN NULL ELSE i * 1000 + 5 END, 111, 'kernel',
             1, 2, 3, 4 FROM n;
         INSERT INTO events VALUES (11, 310000, 'session-opened', 'session 310', 'first'),
             (12, 320000, 'session-closed', 'session 31', 'of another'),
             (13, 100500, 'instance-running', 'instance 7 (s)', 'on node n'), (14, 5, 'node-up', 'node n', 'came');",
    );
    let history = History::new(&place.database());
    let session = history.session(310).expect("known");
    assert_eq!((session.session.state.as_str(), session.session.source.node.as_str()), ("open", "n"));
    assert_eq!(session.events.len(), 1, "{:?}", session.events);
    let instance = history.instance(7).expect("known");
    assert_eq!(
        instance.changes.iter().map(|c| c.state.as_str()).collect::<Vec<_>>(),
        ["starting", "running", "ended"]
    );
    // It lived from second 100 to second 900; sessions of other times are another's, whatever they say.
    assert!(instance.sessions.len() > 80 && instance.sessions.iter().all(|s| s.source.instance == 7));
    assert!(!instance.more_sessions && instance.instance.output == ["x", "y"]);
    let node = history.node("n").expect("known");
    assert_eq!((node.instances.len(), node.events.len()), (1, 1));
    for error in
        [history.session(3000).err(), history.instance(70).err(), history.node("m").err()].map(Option::unwrap)
    {
        assert!(
            matches!(&error, StoreError::Unknown(text) if text.contains("in the kept history")),
            "{error}"
        );
    }
    let readable = place.count("readable_sessions WHERE opened = '1970-01-01 00:05:10.000'");
    assert_eq!(readable, 1);
}

#[test]
fn a_manager_stays_the_same_and_its_epochs_grow_also_after_a_restored_backup() {
    let place = Folder::new();
    let first = Store::open(&place.database()).expect("opened").identify(1_000_000).expect("identified");
    let copy = place.folder.path().join("backup.db");
    backup(&place.database(), &copy, |_, _| {}).expect("copied");
    let second = Store::open(&place.database()).expect("opened").identify(1_000_100).expect("identified");
    assert_eq!((first.epoch, second.epoch), (1_000, 1_001));
    let restored = Store::open(&copy).expect("opened").identify(2_000_000).expect("identified");
    assert!(restored.id == first.id && second.id == first.id && restored.epoch > second.epoch);
}

#[test]
fn nothing_is_written_to_a_database_that_was_moved_away() {
    let place = Folder::new();
    drop(place.with_an_app());
    let mut store = Store::open(&place.database()).expect("opened");
    let elsewhere = place.folder.path().join("elsewhere.db");
    std::fs::rename(place.database(), &elsewhere).expect("moved");
    let error = store.write(&mut [row()]).expect_err("refused").to_string();
    assert!(error.contains("was moved or replaced"), "{error}");
    std::fs::rename(&elsewhere, place.database()).expect("put back");
    store.write(&mut [row()]).expect("it goes on");
}

#[test]
fn only_its_user_reads_the_database_whatever_its_mode_was() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("manager.db");
    let mode = |suffix: &str| {
        let file = folder.path().join(format!("manager.db{suffix}"));
        std::fs::metadata(&file).expect("there").permissions().mode() & 0o777
    };
    for _ in 0..2 {
        let store = Store::open(&path).expect("opened");
        store.next_epoch().expect("written");
        assert_eq!([mode(""), mode("-wal"), mode("-shm")], [0o600; 3]);
        drop(store);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("set");
    }
}
