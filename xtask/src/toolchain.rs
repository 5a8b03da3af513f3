//! The toolchain for the kernel programs: a rustc with a `core` for the BPF target, and bpf-linker.
//!
//! Debian packages such a rustc (`rustc-web` with `libstd-rust-web-dev-bpf`). Its packages conflict with
//! other Rust installations, so they are unpacked below `target/`, not installed. Nothing outside
//! `target/toolchain` is changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{exists, output, run_quietly};
use crate::workspace;

/// The packages that hold the compiler and its libraries; the versions of the second and the third
/// are whatever the compiler depends on.
const PACKAGES: [&str; 3] = ["rustc-web", "libstd-rust-web-dev", "libstd-rust-web-dev-bpf"];
/// A library's package is unpacked too when its name starts so.
const LIBRARIES: [&str; 2] = ["libstd-rust-web-", "libllvm"];
/// The linker's version; later ones need LLVM's development libraries.
const LINKER_VERSION: &str = "0.10.4";
/// Present when everything is in place; holds what it was made from.
const STAMP: &str = "ready";

/// Makes sure that the toolchain is there; fetches nothing twice.
pub fn ensure(progress: &dyn Fn(&str)) -> Result<()> {
    let root = workspace().join("target/toolchain");
    let stamp = root.join(STAMP);
    if stamp.exists() {
        return Ok(());
    }
    fs::create_dir_all(&root)?;
    ensure_compiler(&root, progress)?;
    ensure_linker(&root, progress)?;
    fs::write(&stamp, format!("{} and bpf-linker {LINKER_VERSION}\n", version(&root)?))?;
    Ok(())
}

fn ensure_compiler(root: &Path, progress: &dyn Fn(&str)) -> Result<()> {
    if version(root).is_ok() {
        return Ok(());
    }
    if !exists("apt-get") || !exists("dpkg-deb") {
        bail!(
            "the kernel programs need a rustc with a `core` for bpfel-unknown-none. On Debian it is unpacked from \
             the packages {}; here apt-get or dpkg-deb is missing. Put such a compiler at {} to go on",
            PACKAGES.join(", "),
            root.join("bpf/usr/bin/rustc").display()
        );
    }
    progress("fetching a compiler for kernel programs (110 MB, once)");
    let packages = packages().or_else(|_| {
        run_quietly(Command::new("apt-get").args(["update", "-qq"]))
            .context("updating the package lists needs root: run `sudo apt-get update`")?;
        packages()
    })?;
    let downloads = root.join("downloads");
    fs::create_dir_all(&downloads)?;
    run_quietly(Command::new("apt-get").arg("download").args(&packages).current_dir(&downloads))?;
    progress("unpacking it below target/toolchain");
    for entry in fs::read_dir(&downloads)? {
        run_quietly(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(root.join("bpf")))?;
    }
    fs::remove_dir_all(&downloads)?;
    version(root).map(drop).context("the unpacked compiler does not run")
}

/// The packages with those of the libraries that they need.
fn packages() -> Result<Vec<String>> {
    let mut packages: Vec<String> = PACKAGES.map(String::from).to_vec();
    let mut next = 0;
    while let Some(package) = packages.get(next).cloned() {
        next += 1;
        let text = output(Command::new("apt-cache").args(["depends", "--important", &package]))
            .with_context(|| format!("the package {package} is in no package list of this machine"))?;
        let depends = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        for found in depends.filter(|name| LIBRARIES.iter().any(|prefix| name.starts_with(prefix))) {
            if !packages.iter().any(|known| known == found) {
                packages.push(found.to_owned());
            }
        }
    }
    Ok(packages)
}

/// What the unpacked compiler says it is.
fn version(root: &Path) -> Result<String> {
    let prefix = root.join("bpf/usr");
    let text = output(
        Command::new(prefix.join("bin/rustc"))
            .arg("--version")
            .env("LD_LIBRARY_PATH", prefix.join(format!("lib/{}-linux-gnu", std::env::consts::ARCH))),
    )?;
    Ok(text.trim().to_owned())
}

fn ensure_linker(root: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf> {
    let linker = root.join("bin/bpf-linker");
    if linker.exists() {
        return Ok(linker);
    }
    progress("building bpf-linker (about two minutes, once)");
    run_quietly(
        Command::new(env!("CARGO"))
            .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--quiet"])
            .args(["--no-default-features", "--features", "rust-llvm-22", "--root"])
            .arg(root),
    )?;
    Ok(linker)
}
