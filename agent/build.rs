//! Builds the kernel programs for the BPF target with the toolchain that `cargo xtask setup` prepares.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let agent = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = agent.parent().ok_or("the agent has no parent folder")?;
    for source in ["ebpf/src", "ebpf/Cargo.toml", "ebpf/Cargo.lock", "ebpf-common/src"] {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
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
        .arg(workspace.join("ebpf/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        // Outside the workspace, where no configuration of it applies.
        .current_dir(workspace.join("ebpf"))
        .env("RUSTC", &rustc)
        // aya-ebpf needs unstable features; `1` would also switch build-std on.
        .env("RUSTC_BOOTSTRAP", "aya_ebpf")
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
    fs::copy(target.join("bpfel-unknown-none/release/patchbay-ebpf"), out.join("patchbay-ebpf"))
        .map_err(|error| format!("the kernel programs can't be copied: {error}"))?;
    Ok(())
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
