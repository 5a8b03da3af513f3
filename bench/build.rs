//! Builds the recipe that Patchbay is compared with.

#[path = "../ebpf/build_for_kernel.rs"]
mod build_for_kernel;

use std::process::ExitCode;

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../ebpf/build_for_kernel.rs");
    let built = build_for_kernel::workspace().and_then(|workspace| {
        build_for_kernel::build(&workspace, "bench/recipe", "patchbay-bench-recipe", &[])
    });
    match built {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}
