//! `docs/protocol.md` holds a row for every requirement and every contradiction of SSMMP/1.1's documents,
//! and what a row names exists: its files, and the tests that show it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Groups of requirements and how many each has: 96 in all.
const REQUIREMENTS: [(&str, usize); 15] = [
    ("G", 10),
    ("KB", 5),
    ("I", 6),
    ("X", 9),
    ("S", 9),
    ("C", 9),
    ("T", 9),
    ("M", 6),
    ("D", 4),
    ("L", 5),
    ("F", 8),
    ("P", 3),
    ("W", 3),
    ("N", 6),
    ("E", 4),
];
/// Contradictions of the documents.
const CONTRADICTIONS: usize = 40;
/// What is not built; each row says why.
const NOT_BUILT: [&str; 1] = ["P2"];
/// What begins the last cell of such a row.
const NOT_BUILT_WORDS: &str = "not built: ";

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The cells of the rows of a table, by their first cell.
fn table(heading: &str) -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(workspace().join("docs/protocol.md")).expect("docs/protocol.md");
    let section = text.split("\n## ").find(|section| section.starts_with(heading));
    let section = section.unwrap_or_else(|| panic!("docs/protocol.md has a section `{heading}`"));
    let rows = section.lines().filter(|line| line.starts_with("| "));
    let mut table = BTreeMap::new();
    for row in rows.skip(1) {
        let cells: Vec<String> =
            row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
        assert_eq!(cells.len(), 4, "a row has four cells: {row}");
        assert!(table.insert(cells[0].clone(), cells).is_none(), "two rows for one: {row}");
    }
    table
}

/// The texts in backquotes.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Asserts that each `file::test` names a test function of an existing file, and that there is one.
fn check_tests(id: &str, cell: &str) {
    let names = quoted(cell);
    assert!(!names.is_empty(), "{id} names no test: {cell}");
    for name in names {
        let (file, test) =
            name.rsplit_once("::").unwrap_or_else(|| panic!("{id}: `{name}` is no file::test"));
        let text = fs::read_to_string(workspace().join(file)).unwrap_or_else(|e| panic!("{id}: {file}: {e}"));
        let at =
            text.find(&format!("fn {test}(")).unwrap_or_else(|| panic!("{id}: {file} has no test `{test}`"));
        let before: String = text[..at].lines().rev().take(4).collect();
        let in_proptest = text[..at].contains("proptest! {");
        assert!(
            before.contains("#[test]") || before.contains("test]") || in_proptest,
            "{id}: `{name}` is no test"
        );
    }
}

fn check_rows(heading: &str, names_files: bool, expected: &BTreeSet<String>, not_built: &[&str]) {
    let table = table(heading);
    let found: BTreeSet<String> = table.keys().cloned().collect();
    assert_eq!(&found, expected, "the rows of `{heading}`");
    let mut missing = Vec::new();
    for (id, cells) in &table {
        assert!(!cells[1].is_empty(), "{id} says in words what it is");
        if cells[3].starts_with(NOT_BUILT_WORDS) {
            missing.push(id.as_str());
            continue;
        }
        for file in quoted(&cells[2]).into_iter().filter(|_| names_files) {
            assert!(workspace().join(file).exists(), "{id}: there is no {file}");
        }
        check_tests(id, &cells[3]);
    }
    assert_eq!(missing, not_built, "what is not built is listed here, and nothing else");
}

#[test]
fn every_requirement_has_its_row_and_every_row_its_test() {
    let expected: BTreeSet<String> = REQUIREMENTS
        .iter()
        .flat_map(|(group, many)| (1..=*many).map(move |number| format!("{group}{number}")))
        .collect();
    assert_eq!(expected.len(), 96);
    check_rows("Requirements", true, &expected, &NOT_BUILT);
}

#[test]
fn every_contradiction_has_its_row_and_every_row_its_test() {
    let expected: BTreeSet<String> = (1..=CONTRADICTIONS).map(|row| row.to_string()).collect();
    check_rows("Contradictions", false, &expected, &[]);
}

#[test]
fn the_protocol_crate_knows_no_sockets_clocks_or_runtimes() {
    let mut folders = vec![workspace().join("ssmmp/src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("a file");
            for forbidden in [
                "TcpStream",
                "TcpListener",
                "UdpSocket",
                "tokio",
                "std::time",
                "std::io",
                "std::fs",
                "std::env",
            ] {
                assert!(!text.contains(forbidden), "{} uses {forbidden}", path.display());
            }
        }
    }
}

#[test]
fn every_bound_of_peers_is_listed_with_its_value() {
    let listed = fs::read_to_string(workspace().join("docs/limits.md")).expect("docs/limits.md");
    for file in [
        "ssmmp/src/framing.rs",
        "ssmmp/src/malformed.rs",
        "manager/src/server/admission.rs",
        "manager/src/server/connection.rs",
        "manager/src/server/outbound.rs",
        "manager-core/src/inventory/mod.rs",
        "manager-core/src/inventory/on_node.rs",
        "manager-core/src/state/pending_requests.rs",
        "manager-core/src/state/parts.rs",
        "manager-core/src/state/mod.rs",
        "manager/src/http/gate.rs",
        "manager/src/http/serve.rs",
        "manager-core/src/requests.rs",
        "manager-core/src/queued_requests.rs",
        "manager-core/src/sessions.rs",
        "agent-core/src/closing.rs",
        "agent-core/src/plug_addresses.rs",
        "agent/src/datapath/middle_boxes.rs",
        "ebpf/src/maps.rs",
        "agent/src/plugs/waiting.rs",
        "agent/src/plugs/carrier.rs",
        "agent/src/datapath/entering.rs",
        "manager-core/src/closing.rs",
        "manager-core/src/admission.rs",
        "manager-core/src/registration.rs",
        "manager-core/src/text.rs",
        "agent/src/instance_listener/mod.rs",
        "agent/src/instance_listener/connection.rs",
        "agent/src/manager_link.rs",
        "agent-core/src/asked.rs",
        "agent-core/src/unacknowledged.rs",
        "agent-core/src/unsent.rs",
        "shared-memory/src/layout.rs",
        "shared-memory/src/offer.rs",
        "shared-memory/src/spin.rs",
        "agent-core/src/profiles.rs",
        "agent/src/datapath/examining.rs",
        "agent/src/pods/cgroups.rs",
        "agent/src/pods/table.rs",
        "agent/src/observe/serve.rs",
        "agent/src/scope/pods.rs",
    ] {
        let text = fs::read_to_string(workspace().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        for line in text.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("const MAX_"))
        {
            let name = format!("MAX_{}", line.split(':').next().unwrap_or_default());
            let row = listed.lines().find(|row| row.contains(&format!("`{name}`")) && row.contains(file));
            assert!(row.is_some(), "docs/limits.md does not list {name} of {file}");
        }
    }
}
