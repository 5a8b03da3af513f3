//! For build scripts: builds a crate of kernel programs for the BPF target with the toolchain that
//! `cargo xtask setup` prepares.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Builds the program `name` of the crate in `folder` and puts it into the build's output folder.
/// `sources` are what it is made from, below the workspace.
pub fn build(workspace: &Path, folder: &str, name: &str, sources: &[&str]) -> Result<(), String> {
    let own = ["src", "Cargo.toml", "Cargo.lock"].map(|source| format!("{folder}/{source}"));
    for source in own.iter().map(String::as_str).chain(sources.iter().copied()) {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    if env::var_os("CARGO_CFG_FUZZING").is_some() {
        // The fuzzer drives cores; it loads no kernel programs.
        let out = PathBuf::from(variable("OUT_DIR")?);
        return fs::write(out.join(name), []).map_err(|error| error.to_string());
    }
    let toolchain = workspace.join("target/toolchain");
    println!("cargo::rerun-if-changed={}", toolchain.join("ready").display());
    let rustc = toolchain.join("bpf/usr/bin/rustc");
    let linker = toolchain.join("bin/bpf-linker");
    for part in [&rustc, &linker] {
        if !part.exists() {
            return Err(format!("{} is missing: run `cargo xtask setup` first", part.display()));
        }
    }
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target = out.join("ebpf");
    let status = Command::new(variable("CARGO")?)
        .args(["build", "--quiet", "--release", "--locked", "--target", "bpfel-unknown-none"])
        .arg("--manifest-path")
        .arg(workspace.join(folder).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        // Outside the workspace, where no configuration of it applies.
        .current_dir(workspace.join(folder))
        .env("RUSTC", &rustc)
        // aya-ebpf needs unstable features; `1` would also switch build-std on.
        .env("RUSTC_BOOTSTRAP", "aya_ebpf,patchbay_ebpf")
        .env("LD_LIBRARY_PATH", libraries(&toolchain))
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            [format!("-Clinker={}", linker.display()), "-Clink-arg=--btf".into(), "-Cdebuginfo=2".into()]
                .join("\u{1f}"),
        )
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .map_err(|error| format!("cargo can't be run: {error}"))?;
    if !status.success() {
        return Err(format!("building the kernel programs failed ({status}); see above"));
    }
    fs::copy(target.join("bpfel-unknown-none/release").join(name), out.join(name))
        .map_err(|error| format!("the kernel programs can't be copied: {error}"))?;
    Ok(())
}

/// The workspace that the crate being built belongs to.
pub fn workspace() -> Result<PathBuf, String> {
    let krate = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    krate.parent().map(Path::to_owned).ok_or_else(|| "the crate has no parent folder".into())
}

fn libraries(toolchain: &Path) -> PathBuf {
    let multiarch = match env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("aarch64") => "aarch64-linux-gnu",
        _ => "x86_64-linux-gnu",
    };
    toolchain.join("bpf/usr/lib").join(multiarch)
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("{name} is not set; build with cargo"))
}
