//! Builds the kernel programs.

#[path = "../ebpf/build_for_kernel.rs"]
mod build_for_kernel;

use std::process::ExitCode;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../ebpf/build_for_kernel.rs");
    let built = build_for_kernel::workspace().and_then(|workspace| {
        let build = |name| build_for_kernel::build(&workspace, "ebpf", name, &["ebpf-common/src"]);
        build("patchbay-ebpf").and_then(|()| build("patchbay-plugs"))
    });
    match built {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}
