//! The book's examples run, and its reference pages say what the programs say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use patchbay_agent::repository;
use patchbay_tests::{HELLO, Node};
use ssmmp::Envelope;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join("docs").join(name)).unwrap_or_else(|error| panic!("docs/{name}: {error}"))
}

/// The fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| Some(rest.split_once("\n```")?.0.to_owned())).collect()
}

#[test]
fn a_native_service_in_python_asks_answers_closes_and_ends() {
    let folder = root().join("examples/python");
    let text = fs::read_to_string(folder.join("repository.toml")).expect("there");
    let node = Node::start(&text.replace("{here}", &folder.display().to_string()));
    assert!(node.apply(HELLO).status.success());
    let gateway = node.running("gateway");
    let greet = "import socket; s = socket.create_connection(('127.0.0.1', 9000), 20); s.settimeout(20); \
                 s.sendall(b'world\\n'); print(s.makefile().readline().strip())";
    assert_eq!(node.python(greet), "hello, world");
    node.wait("the session is known and over", |node| {
        node.sessions().iter().any(|s| s.state == "closed" && s.status == Some(111))
    });
    assert!(node.patchbay(&["stop", "hello", "--yes"]).status.success());
    node.wait("it ends when it is asked", |node| {
        node.instances().iter().any(|i| i.id == gateway.id && i.state == "ended")
    });
}

/// Somebody who writes a service from the page alone sends these lines.
#[test]
fn the_messages_of_native_services_are_whole() {
    let (mut said, mut heard) = (BTreeSet::new(), BTreeSet::new());
    for line in blocks(&page("native-services.md"), "ssmmp").iter().flat_map(|block| block.lines()) {
        let envelope = Envelope::parse(line).unwrap_or_else(|problem| panic!("{problem}: {line}"));
        assert_eq!(envelope.encode().trim_end(), line);
        assert!(envelope.extensions.is_empty(), "unknown lines in {line}");
        let by_instance = !line.contains("sub_type: agent_to");
        if by_instance { &mut said } else { &mut heard }.insert(envelope.message.message_type().as_str());
    }
    assert_eq!((said.len(), heard.len()), (9, 5), "{said:?} {heard:?}");
}

#[test]
fn the_repositories_of_the_book_are_read() {
    let mut read = 0;
    for name in ["repository.md", "plugs.md"] {
        for block in blocks(&page(name), "toml").iter().filter(|block| block.contains("[service.")) {
            // Programs that this machine may not have are no matter of the page.
            let text =
                block.replace("/opt/shop/bin/front", "/bin/sh").replace("/usr/bin/redis-server", "/bin/sh");
            if let Err(problems) = repository::parse(name, &text) {
                panic!("{problems:?}");
            }
            read += 1;
        }
    }
    assert!(read > 0);
}

#[test]
fn every_page_is_in_the_table_of_contents_and_every_link_leads_somewhere() {
    let contents = page("README.md");
    for entry in fs::read_dir(root().join("docs")).expect("there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.ends_with(".md") {
            continue;
        }
        assert!(
            name == "README.md" || contents.contains(&format!("({name})")),
            "docs/README.md does not list {name}"
        );
        let text = fs::read_to_string(entry.path()).expect("readable");
        for link in text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
            let file = link.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            assert!(
                root().join("docs").join(file).exists(),
                "docs/{name} leads to {file}, which is not there"
            );
        }
    }
}

#[test]
fn the_page_of_the_http_api_has_every_path() {
    let listed = page("http-api.md");
    let sources = ["manager/src/http.rs", "manager/src/http"].map(|place| root().join(place));
    let mut files = vec![sources[0].clone()];
    files.extend(fs::read_dir(&sources[1]).expect("there").flatten().map(|entry| entry.path()));
    let mut paths = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).expect("readable");
        let routes =
            text.split(".route(\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()));
        paths.extend(routes);
    }
    assert!(paths.len() > 15, "{paths:?}");
    let missing: Vec<_> = paths.iter().filter(|path| !listed.contains(&format!("`{path}`"))).collect();
    assert!(missing.is_empty(), "docs/http-api.md lacks {missing:?}");
    let known = listed.split('`').filter(|word| word.starts_with("/v1/") || *word == "/metrics");
    let gone: Vec<_> = known.filter(|word| !paths.contains(*word)).collect();
    assert!(gone.is_empty(), "docs/http-api.md has {gone:?}, which is no more");
}

/// What `--help` of a command and of all its subcommands prints, one section each.
fn help(programs: &Path, program: &str, words: &[String], depth: usize, into: &mut String) {
    let output = Command::new(programs.join(program))
        .args(words)
        .arg("--help")
        .env_clear()
        .output()
        .unwrap_or_else(|error| panic!("{program} is not built: run `cargo xtask test`: {error}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let text: Vec<&str> = text.lines().map(str::trim_end).collect();
    let name = [&[program.to_owned()], words].concat().join(" ");
    into.push_str(&format!(
        "\n{} {name}\n\n```text\n{}\n```\n",
        "#".repeat(depth),
        text.join("\n").trim_end()
    ));
    let mut listed = text.iter().skip_while(|line| **line != "Commands:").skip(1);
    while let Some(line) = listed.next().filter(|line| line.starts_with("  ")) {
        let word = line.split_whitespace().next().unwrap_or_default();
        if line.starts_with("   ") || word == "help" {
            continue;
        }
        help(programs, program, &[words, &[word.to_owned()]].concat(), depth + 1, into);
    }
}

/// `PATCHBAY_WRITE_BOOK=$PWD/target/release cargo test -p patchbay-tests --test book commands` writes the page anew, from the
/// programs in that folder.
#[test]
fn the_reference_of_commands_is_what_help_prints() {
    let mut wanted =
        "# Commands\n\nEvery command as its `--help` prints it; written by `tests/book.rs`.\n".to_owned();
    let written_from = std::env::var_os("PATCHBAY_WRITE_BOOK").map(PathBuf::from);
    let programs = written_from.clone().unwrap_or_else(|| root().join("target/release"));
    for program in ["patchbay", "patchbay-agent", "patchbay-manager"] {
        help(&programs, program, &[], 2, &mut wanted);
    }
    let file = root().join("docs/commands.md");
    if written_from.is_some() {
        fs::write(&file, &wanted).expect("written");
    }
    let is = fs::read_to_string(&file).unwrap_or_default();
    let differs = is.lines().zip(wanted.lines()).find(|(is, wanted)| is != wanted);
    assert!(
        is == wanted,
        "docs/commands.md is not what --help prints, first here: {differs:?}; write it anew with \
                          PATCHBAY_WRITE_BOOK=$PWD/target/release cargo test -p patchbay-tests --test book commands"
    );
}
