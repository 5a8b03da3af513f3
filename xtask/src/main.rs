//! Everything a developer runs: `cargo xtask --help`.

mod bench;
mod chart;
mod command;
mod cores;
mod demo;
mod fuzz;
mod image;
mod kubernetes;
mod licences;
mod lint;
mod models;
mod setup;
mod simulate;
mod soak;
mod stress;
mod test;
mod toolchain;
mod transparency;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Sets up, builds, runs and tests Patchbay.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building and testing need, with a progress line for each step
    Setup,
    /// Set up and build everything in release mode
    Build,
    /// Set up, build, and run the social application on two nodes of this machine
    Demo(demo::Demo),
    #[command(hide = true)]
    Drive(demo::Drive),
    /// Set up, build, and measure what redirection brings on this machine
    Bench(bench::Bench),
    /// Break everything for some minutes under the social application, then read back every acknowledged write
    Soak(soak::Soak),
    /// Set up, build, and show where a case of the benchmark spends its time, as a flame graph
    Profile(bench::Bench),
    /// Count the instructions of codec and cores, and compare them with the baseline
    Instructions(bench::Bench),
    /// Set up and run every test there is
    Test,
    /// Try every order in which two ends of a session can meet in shared memory
    Models,
    /// Run the fuzz targets of the codec, of both listeners, and of shared memory
    Fuzz(fuzz::Fuzz),
    /// Run programs that nobody here wrote, with redirection off and on, and compare their results
    Transparency(transparency::Transparency),
    /// Run Manager, agents and instances under virtual time with faults, by seed
    Simulate(simulate::Simulate),
    /// Check every byte of many sessions of every kind, as long as wanted
    Stress(stress::Stress),
    /// Check the Helm chart against the manifests in the repository and the schemas of several versions of Kubernetes
    Chart(chart::Chart),
    /// Start a real Kubernetes on this machine, install the chart, and look what becomes of pods' sessions
    Kubernetes(kubernetes::Kubernetes),
    /// Build the images of agent and Manager as OCI layouts and archives, without an engine
    Image(image::Image),
    /// Check format, clippy, documentation and dependency licences
    Lint,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Setup => setup::run(),
        Task::Build => setup::run().and_then(|()| setup::build()),
        Task::Demo(demo) => demo::run(&demo),
        Task::Drive(drive) => demo::run_drive(&drive),
        Task::Bench(bench) => bench::run(&bench),
        Task::Soak(soak) => soak::run(&soak),
        Task::Profile(bench) => bench::profile(&bench),
        Task::Instructions(bench) => bench::instructions(&bench),
        Task::Test => test::run(),
        Task::Models => models::run(),
        Task::Fuzz(fuzz) => setup::run().and_then(|()| fuzz::run(&fuzz)),
        Task::Transparency(transparency) => transparency::run(&transparency),
        Task::Simulate(simulate) => setup::run().and_then(|()| simulate::run(&simulate)),
        Task::Stress(stress) => stress::run(&stress),
        Task::Chart(chart) => chart::run(&chart),
        Task::Kubernetes(kubernetes) => kubernetes::run(&kubernetes),
        Task::Image(image) => image::run(&image),
        Task::Lint => setup::run().and_then(|()| lint::run()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's folder.
fn workspace() -> PathBuf {
    let xtask = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().map_or_else(|| xtask.clone(), PathBuf::from)
}
