//! README's commands, pasted as a block by somebody who has just built it.

use std::fs;
use std::path::Path;

use patchbay_tests::Node;

/// The block of commands behind a sentence of README.md.
fn block(behind: &str) -> String {
    let readme =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).expect("README.md");
    let rest = readme.split_once(behind).expect(behind).1;
    let block = rest.split_once("```sh\n").expect("a block").1;
    block.split_once("```").expect("its end").0.to_owned()
}

#[test]
fn a_service_of_your_own_runs_as_readme_says() {
    let node = Node::prepare("", &[], &[]);
    let folder = node.folder().display().to_string();
    let commands = block("As root, on one machine").replace("/tmp/", &format!("{folder}/"));
    // What was started is ended as people do it, whatever came of it.
    let script = format!("{commands}\nended=$?; kill %2; wait %2; kill %1; wait %1; exit $ended");
    let name = node.folder().file_name().expect("a name").to_string_lossy().into_owned();
    let output = node
        .command("timeout")
        .args(["90", "bash", "-c", &script])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .env("PATCHBAY_SOCKET", format!("{folder}/manager.sock"))
        .env("PATCHBAY_MANAGER", format!("unix:{folder}/manager.sock"))
        .env("PATCHBAY_NODE", &name)
        .output()
        .expect("bash is installed");
    let _ = fs::remove_dir_all(Path::new("/var/lib/patchbay/nodes").join(&name));
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("hello, world"), "{said}\n{told}");
    let session = said.lines().find(|line| line.contains("gateway/") && line.contains("greeter/"));
    // Its first bytes may have gone before both ends had taken their memory.
    let is_fast = |line: &str| line.contains("memory") || line.contains("kernel");
    assert!(session.is_some_and(is_fast), "{said}\n{told}");
    assert!(output.status.success(), "{said}\n{told}");
}
