//! `profiles`: what was learned of programs and of their traffic, for people.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use patchbay_agent_core::profiles::{Profile, Profiles, Traffic};

use crate::datapath::Reason;
use crate::{profile_file, scope, show};

/// Where agents keep their state, one folder for each node.
const NODES: &str = "/var/lib/patchbay/nodes";

/// Which profiles to show.
#[derive(Args)]
pub struct ProfileTable {
    /// A state folder [default: those of all agents, and that of `exec`]
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Prints the profiles of one state folder, or of all that are found.
///
/// # Errors
/// There are none, or the file that was asked for is no good.
pub fn print(table: &ProfileTable) -> Result<()> {
    let folders = table.state_dir.clone().map_or_else(usual_folders, |folder| vec![folder]);
    let mut found = Vec::new();
    for folder in folders {
        let profiles = match profile_file::find(&folder) {
            Ok(profiles) => profiles,
            Err(error) if table.state_dir.is_some() => return Err(error),
            Err(error) => {
                eprintln!("{error:#}");
                continue;
            }
        };
        if profiles != Profiles::default() {
            found.push((folder, profiles));
        }
    }
    if found.is_empty() {
        bail!("nothing was learned yet; --state-dir names another state folder");
    }
    if table.json {
        let by_folder: std::collections::BTreeMap<_, _> = found.into_iter().collect();
        return show(&(serde_json::to_string_pretty(&by_folder)? + "\n"));
    }
    let tables: Vec<String> = found.iter().map(|(folder, profiles)| text(folder, profiles)).collect();
    show(&tables.concat())
}

fn usual_folders() -> Vec<PathBuf> {
    let nodes = fs::read_dir(NODES).into_iter().flatten().flatten().map(|entry| entry.path());
    nodes.chain([PathBuf::from(scope::STATE)]).collect()
}

/// The verdicts are those of a kernel with every known difference; `probe` shows this one's.
fn text(folder: &Path, profiles: &Profiles) -> String {
    let mut text = format!("{}\n", folder.display());
    let mut line = |cells: [&str; 5]| {
        let [name, calls, sessions, habits, verdict] = cells;
        let _ = writeln!(text, "  {name:<57} {calls:>8} {sessions:>8}  {verdict:<28} {habits}");
    };
    line(["PLUG OR SOCKET", "CALLS", "SESSIONS", "HABITS", "AUTO"]);
    for (end, profile) in &profiles.endpoints {
        let verdict = match profile.verdict(0) {
            Ok(()) => "redirected",
            Err(Reason::Habit) => "TCP",
            Err(reason) => reason.text(),
        };
        line([
            &end.to_string(),
            &profile.calls.to_string(),
            &profile.sessions.to_string(),
            &habits(profile),
            verdict,
        ]);
    }
    if !profiles.connections.is_empty() {
        let _ = writeln!(text, "  {:<57} {:>8}  {:<28}", "ABSTRACT CONNECTION", "SESSIONS", "AUTO");
    }
    for (connection, traffic) in &profiles.connections {
        let Traffic { small_writes, outran, .. } = *traffic;
        let verdict = match (traffic.better_over_tcp(), small_writes, outran) {
            (Some(Reason::OutrunsReader), _, outran) => format!("TCP: {outran} outran their reader"),
            (Some(_), small, _) => format!("TCP: {small} streams of small writes"),
            (None, 0, 0) => "redirected".to_owned(),
            (None, small, outran) => {
                format!(
                    "redirected; taken back: {small} streams of small writes, {outran} outran their reader"
                )
            }
        };
        let _ = writeln!(text, "  {connection:<57} {:>8}  {verdict}", traffic.sessions);
    }
    text
}

/// What keeps it on TCP, with when that was seen first; `-` for nothing.
fn habits(profile: &Profile) -> String {
    let seen: Vec<String> =
        profile.habits.iter().map(|it| format!("{} (since {})", it.name, time(it.seen))).collect();
    match (seen.is_empty(), profile.examined) {
        (true, true) => "-".into(),
        (true, false) => "its files were not read yet".into(),
        _ => seen.join(", "),
    }
}

/// A time of the calendar, in UTC.
fn time(seconds: u64) -> String {
    const DAY: u64 = 86_400;
    let (mut day, second) = (seconds / DAY, seconds % DAY);
    // Days are counted from a 1 March, in eras of 400 years.
    day += 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (of_month, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year}-{month:02}-{of_month:02} {:02}:{:02} UTC", second / 3_600, second % 3_600 / 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use patchbay_agent_core::profiles::{Endpoint, SeenHabit};

    #[test]
    fn decisions_and_their_numbers_can_be_read() {
        let mut profiles = Profiles::default();
        let known = Profile { sessions: 3, calls: 1_000, examined: true, ..Profile::default() };
        profiles.endpoints.insert(Endpoint::new(&"web", &"cache"), known);
        let habit = SeenHabit { name: "splice".into(), code: 6 << 56 | 275, seen: 1_700_000_000 };
        let splices =
            Profile { sessions: 1, calls: 2, examined: true, habits: vec![habit], ..Profile::default() };
        profiles.endpoints.insert(Endpoint::new(&"proxy", &"in"), splices);
        profiles
            .connections
            .insert("web.cache → redis.in".into(), Traffic { sessions: 4, small_writes: 3, outran: 0 });
        let text = text(Path::new("/state"), &profiles);
        let line = |name: &str| text.lines().find(|line| line.contains(name)).expect("a line").to_owned();
        assert!(line("web.cache  ").contains("redirected"));
        assert!(line("proxy.in").contains("TCP  "));
        assert!(line("proxy.in").contains("splice (since 2023-11-14 22:13 UTC)"));
        assert!(line("→").contains("TCP: 3 streams of small writes"));
    }
}
