//! What people read: a page, a summary, a table in the terminal.

mod chart;
mod page;
mod summary;
mod terminal;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

pub use chart::escape;

use crate::run::results::Results;

/// Where the summary goes in the README.
const MARKERS: [&str; 2] = ["<!-- benchmark: begin -->\n", "<!-- benchmark: end -->"];

/// Writes everything into a folder, and the summary into the README if that is wanted.
///
/// # Errors
/// A file can't be written.
pub fn write(results: &Results, folder: &Path, readme: bool) -> Result<()> {
    let page = folder.join("index.html");
    let summary = summary::markdown(results);
    fs::write(&page, page::html(results)).with_context(|| format!("{} can't be written", page.display()))?;
    fs::write(folder.join("summary.md"), &summary)?;
    print!("{}", terminal::text(results));
    if readme {
        let old = fs::read_to_string("README.md").context("README.md is in the folder of the project")?;
        fs::write("README.md", put(&old, &summary)?)?;
        println!("The summary is in README.md.");
    }
    println!("The page is {}; results.json beside it has every sample.", page.display());
    Ok(())
}

/// A text with the summary between its markers.
fn put(text: &str, summary: &str) -> Result<String> {
    let [begin, end] = MARKERS;
    let (before, rest) = text.split_once(begin).with_context(|| format!("README.md has no line {begin}"))?;
    let (_, after) = rest.split_once(end).with_context(|| format!("README.md has no line {end}"))?;
    Ok(format!("{before}{begin}{}\n{end}{after}", summary.trim_end()))
}

/// The day of a time in seconds since 1970, as people write it.
fn date(seconds: u64) -> String {
    // The civil calendar from days, with years that begin in March.
    let days = i64::try_from(seconds / 86_400).unwrap_or(0) + 719_468;
    let era = days.div_euclid(146_097);
    let day = days.rem_euclid(146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let in_year = day - (365 * year + year / 4 - year / 100);
    let march = (5 * in_year + 2) / 153;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    format!("{year}-{month:02}-{:02}", in_year - (153 * march + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_767_225_599), "2025-12-31");
    }

    #[test]
    fn the_summary_replaces_what_is_between_the_markers() {
        let text = format!("a\n{}old\n{}\nb", MARKERS[0], MARKERS[1]);
        let new = put(&text, "new\n").expect("it has markers");
        assert_eq!(new, format!("a\n{}new\n{}\nb", MARKERS[0], MARKERS[1]));
        assert!(put("nothing", "new").is_err());
    }
}
