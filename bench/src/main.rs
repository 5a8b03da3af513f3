//! What redirection brings, measured beside the alternatives. `cargo xtask bench` builds and runs it.

mod case;
mod cases;
mod control_plane;
mod ends;
mod footprint;
mod instructions;
mod lab;
mod matrix;
mod profile;
mod programs;
mod report;
mod run;
mod sample;
mod switch;
mod targets;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures what redirection brings on this machine.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measure, and write the reports
    Run(run::Run),
    /// Count the instructions of codec and cores, and compare with the baseline
    Instructions(instructions::Instructions),
    /// Show where a case spends its time, user and kernel, as a flame graph
    Profile(profile::Profile),
    /// One end of the work, as the matrix runs it
    #[command(subcommand)]
    End(ends::End),
    #[command(hide = true)]
    Repeat(instructions::Repeat),
    #[command(hide = true)]
    Instance(control_plane::instance::Instance),
    #[command(hide = true)]
    Enter(lab::enter::Enter),
    #[command(hide = true)]
    Declare(switch::declare::Declare),
    /// Redirect everything in a cgroup without any care, to compare with; it breaks programs
    #[command(hide = true)]
    UnsafeRecipe(switch::recipe::Recipe),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Run(run) => run::run(&run),
        Task::Instructions(instructions) => instructions::run(&instructions),
        Task::Profile(profile) => profile::run(&profile),
        Task::Repeat(repeat) => instructions::repeat(&repeat),
        Task::End(end) => ends::run(&end),
        Task::Instance(instance) => control_plane::instance::run(&instance),
        Task::Enter(enter) => lab::enter::run(&enter),
        Task::Declare(declare) => switch::declare::run(&declare),
        Task::UnsafeRecipe(recipe) => switch::recipe::run(&recipe),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
