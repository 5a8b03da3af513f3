//! The plain always-redirect recipe (`bench/recipe`), loaded for a cgroup. Not safe; to compare with.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use aya::EbpfLoader;
use aya::maps::{MapData, SockHash};
use aya::programs::{CgroupAttachMode, SkMsg, SockOps};
use clap::Args;
use nix::sys::signal::{SigSet, Signal};

static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/patchbay-bench-recipe"));

/// Where.
#[derive(Args)]
pub struct Recipe {
    /// Whose connections
    #[arg(long)]
    cgroup: PathBuf,
}

/// Redirects everything until SIGTERM.
pub fn run(recipe: &Recipe) -> Result<()> {
    let mut programs = EbpfLoader::new().load(PROGRAMS).context("the kernel refuses the recipe")?;
    let map = programs.map("RECIPE_SOCKETS").context("the recipe's map")?;
    let sockets: SockHash<&MapData, [u32; 4]> = SockHash::try_from(map)?;
    let map = sockets.fd().try_clone()?;
    let messages: &mut SkMsg = programs.program_mut("recipe_sk_msg").context("a program")?.try_into()?;
    messages.load()?;
    messages.attach(&map)?;
    let connections: &mut SockOps =
        programs.program_mut("recipe_sock_ops").context("a program")?.try_into()?;
    connections.load()?;
    connections.attach(File::open(&recipe.cgroup)?, CgroupAttachMode::Single)?;
    let mut end = SigSet::empty();
    end.add(Signal::SIGTERM);
    end.thread_block()?;
    println!("ready");
    end.wait()?;
    Ok(())
}
