//! What is refused in a graph file, with its place.

use super::{Graph, Redirect};

const GOOD: &str = r#"app = "hello"
[service.gateway]
kind = "gateway"
sockets.http = { protocol = "http", port = 8080 }
plugs.store = { protocol = "text" }
[service.store]
kind = "baas"
sockets.api = { protocol = "text" }
[[connection]]
from = "gateway.store"
to = "store.api"
redirect = "always"
"#;

/// Replaces a piece of the good graph and expects exactly these problems, as `line: message`.
#[track_caller]
fn check(replace: &str, with: &str, expected: &[&str]) {
    assert!(GOOD.contains(replace), "{replace:?} is in the good graph");
    let found: Vec<String> = match Graph::read(&GOOD.replacen(replace, with, 1)) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(|p| format!("{}: {}", p.line, p.message)).collect(),
    };
    assert_eq!(found, expected);
}

#[test]
fn a_good_graph_is_read() {
    let (graph, _) = Graph::read(GOOD).expect("it is good");
    assert_eq!(graph.services["gateway"].plugs["store"].redirect, Redirect::Always);
    assert_eq!((graph.services["gateway"].least, graph.services["store"].least), (1, 0));
}

#[test]
fn every_problem_names_its_line() {
    check(
        "to = \"store.api\"",
        "to = \"stor.api\"",
        &["11: there is no service `stor`; did you mean `store`?"],
    );
    check("to = \"store.api\"", "to = \"store.apu\"", &["11: the service `store` has no socket `apu`"]);
    check(
        "from = \"gateway.store\"",
        "from = \"gateway\"",
        &["5: the plug `gateway.store` leads nowhere", "10: `gateway` is not of the form service.plug"],
    );
    check(
        "sockets.api = { protocol = \"text\" }",
        "sockets.api = { protocol = \"json\" }",
        &["11: `gateway.store` speaks text, `store.api` speaks json"],
    );
    check(", port = 8080", "", &["4: the gateway's socket `http` needs a port"]);
    check("port = 8080", "port = 54000", &["4: port 54000 is among those that the Manager assigns"]);
    check(
        "kind = \"baas\"",
        "kind = \"regular\"",
        &["6: the regular service `store` needs at least one socket and one plug"],
    );
    check(
        "kind = \"baas\"",
        "kind = \"baas\"\nreplicas = { min = 3, max = 2 }",
        &["8: `store` has bounds of 3 to 2 replicas"],
    );
    check(
        "kind = \"baas\"",
        "kind = \"baas\"\nreplicas = { max = 2 }",
        &["8: `store` holds its state on its node and can't have several replicas"],
    );
    check(
        "port = 8080 }",
        "port = 8080 }\nstate = \"shared\"",
        &["5: `gateway` is stateless and names a place for its state"],
    );
}

#[test]
fn a_policys_problem_names_its_line() {
    check(
        "kind = \"baas\"",
        "kind = \"baas\"\npolicy.idle = \"soon\"",
        &["8: `soon` is no time (expected number at 0); write it like \"30s\" or \"10m\", or \"never\""],
    );
    check(
        "redirect = \"always\"",
        "balance = \"fair\"",
        &["12: unknown variant `fair`, expected one of `least-sessions`, `round-robin`, `two-choices`"],
    );
    check(
        "kind = \"baas\"",
        "kind = \"baas\"\npolicy = { near = { weight = 0 } }",
        &["8: invalid value: integer `0`, expected a nonzero u32"],
    );
}

#[test]
fn what_is_allowed_is_known_and_goes_with_auto() {
    let graph = GOOD.replace("redirect = \"always\"", "allow = [\"splice\"]");
    let (graph, warnings) = Graph::read(&graph).expect("a good graph");
    assert_eq!(warnings, []);
    assert_eq!(graph.services["gateway"].plugs["store"].allowances(), "splice");
    check(
        "redirect = \"always\"",
        "allow = [\"teleport\"]",
        &["12: unknown variant `teleport`, expected `splice`"],
    );
    check(
        "redirect = \"always\"",
        "redirect = \"never\"\nallow = [\"splice\"]",
        &["13: `allow` says nothing beside redirect = \"never\""],
    );
}

#[test]
fn form_errors_have_a_place_too() {
    let problems =
        Graph::read(&GOOD.replace("kind = \"baas\"", "kind = \"bass\"")).expect_err("unknown kind");
    assert_eq!(problems[0].line, 7);
    let problems = Graph::read("app = \"x\"\ncolour = 1\n").expect_err("unknown key");
    assert!(problems[0].message.contains("colour") && problems[0].line == 2, "{problems:?}");
    assert!(Graph::read("").is_err());
}

#[test]
fn cycles_must_be_declared() {
    let cycle = r#"app = "c"
[service.a]
kind = "regular"
sockets.in = { protocol = "p" }
plugs.out = { protocol = "p" }
[service.b]
kind = "regular"
sockets.in = { protocol = "p" }
plugs.out = { protocol = "p" }
[[connection]]
from = "a.out"
to = "b.in"
[[connection]]
from = "b.out"
to = "a.in"
"#;
    assert_eq!(Graph::read(cycle).expect_err("a cycle")[0].message, "`a` and `b` are in a cycle");
    assert!(Graph::read(&cycle.replace("app = \"c\"", "app = \"c\"\nallow_cycles = true")).is_ok());
}
