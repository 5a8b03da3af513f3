//! What the sources may look like: files use each other in one direction, and parts own their methods.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Files that may use each other in a circle at most: a type and its reader, say.
const LARGEST_CIRCLE: usize = 3;

/// Modules by their paths, as `state::agenda`, with the code of each; without tests.
fn modules() -> BTreeMap<String, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path: PathBuf = entry.expect("an entry").path();
            let name = path.strip_prefix(&source).expect("inside").to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if let Some(name) = name.strip_suffix(".rs").filter(|name| !name.contains("tests")) {
                let text = fs::read_to_string(&path).expect("a file");
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
                let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
                let module = name.trim_end_matches("mod").trim_end_matches('/').replace('/', "::");
                found.insert(module, lines.collect::<Vec<_>>().join("\n"));
            }
        }
    }
    found
}

/// `a::{b, c::{d, e}}` is `a::b`, `a::c::d`, `a::c::e`.
fn spread(path: &str) -> Vec<String> {
    let path = path.trim();
    let Some((head, group)) = path.split_once('{') else { return vec![path.to_owned()] };
    let group = group.trim_end().strip_suffix('}').unwrap_or(group);
    let (mut depth, mut parts, mut part) = (0, Vec::new(), String::new());
    for character in group.chars().chain([',']) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if character == ',' && depth == 0 {
            parts.push(std::mem::take(&mut part));
        } else {
            part.push(character);
        }
    }
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts
        .flat_map(|part| spread(part).into_iter().map(|end| format!("{head}{end}")).collect::<Vec<_>>())
        .collect()
}

/// Where a path leads to, seen from a module.
fn target(modules: &BTreeMap<String, String>, from: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> =
        path.split("::").map(|part| part.split(" as ").next().unwrap_or(part).trim()).collect();
    let mut at: Vec<&str> = match parts.remove(0) {
        "crate" => Vec::new(),
        "self" => from.split("::").collect(),
        "super" => from.rsplit_once("::").map(|(parent, _)| parent.split("::").collect()).unwrap_or_default(),
        first => {
            // A child of its own, or a module that was imported by name.
            let child = format!("{from}::{first}");
            match modules.contains_key(&child) {
                true => child.leak().split("::").collect(),
                false if modules.contains_key(first) => vec![first],
                false => return None,
            }
        }
    };
    while parts.first() == Some(&"super") {
        parts.remove(0);
        at.pop();
    }
    at.extend(parts);
    while !at.is_empty() {
        let name = at.join("::");
        if modules.contains_key(&name) {
            return Some(name);
        }
        at.pop();
    }
    // What the crate's root has is the root's.
    path.starts_with("crate::").then(|| "lib".to_owned())
}

/// Who uses whom, by every path in the code.
fn uses(modules: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
    let mut edges = BTreeMap::new();
    for (from, code) in modules {
        let mut paths = Vec::new();
        for statement in code.split(';') {
            let statement = statement.trim();
            if let Some(path) = statement.rsplit_once("use ").map(|(_, path)| path)
                && statement.rsplit('\n').any(|line| line.trim_start_matches("pub ").starts_with("use "))
            {
                paths.extend(spread(&path.replace('\n', " ")));
            }
        }
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        paths.extend(
            code.split(|c| !is_part(c))
                .filter(|word| word.contains("::") && !word.ends_with("::"))
                .map(str::to_owned),
        );
        let to = paths.iter().filter_map(|path| target(modules, from, path));
        edges.insert(from.clone(), to.filter(|to| to != from).collect());
    }
    edges
}

fn reaches(edges: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(at) = next.pop() {
        for to in edges.get(&at).into_iter().flatten() {
            if seen.insert(to.clone()) {
                next.push(to.clone());
            }
        }
    }
    seen
}

/// The strongly connected components of more than one.
fn circles(edges: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<BTreeSet<String>> {
    let reached: BTreeMap<&String, BTreeSet<String>> =
        edges.keys().map(|from| (from, reaches(edges, from))).collect();
    let circle = |from: &String| -> BTreeSet<String> {
        reached[from]
            .iter()
            .filter(|to| reached.get(to).is_some_and(|back| back.contains(from)))
            .cloned()
            .collect()
    };
    edges.keys().map(circle).filter(|circle| circle.len() > 1).collect()
}

#[test]
fn files_use_each_other_in_one_direction() {
    let modules = modules();
    let edges = uses(&modules);
    assert!(
        edges["lib"].len() > 20 && edges["shutdown"].contains("closing"),
        "the paths are read: {edges:?}"
    );
    let large: Vec<_> = circles(&edges).into_iter().filter(|circle| circle.len() > LARGEST_CIRCLE).collect();
    assert!(large.is_empty(), "these files use each other in a circle: {large:?}");
}

#[test]
fn no_file_of_the_logic_is_called_by_what_it_calls() {
    let modules = modules();
    let logic: BTreeMap<String, BTreeSet<String>> = uses(&modules)
        .into_iter()
        .filter(|(from, _)| {
            modules[from].contains("core: &mut ManagerState") || modules[from].contains("core: &ManagerState")
        })
        .collect();
    assert!(logic.len() > 20, "{logic:?}");
    assert_eq!(circles(&logic), BTreeSet::new());
}

#[test]
fn the_core_is_a_way_in_and_a_view_and_nothing_else() {
    let with = |text: &str| -> Vec<String> {
        modules().into_iter().filter(|(_, code)| code.contains(text)).map(|(name, _)| name).collect()
    };
    assert_eq!(with("\nimpl Core {"), ["debug_view", "lib", "view"]);
    assert_eq!(with("\nimpl ManagerState {"), ["state"]);
}
