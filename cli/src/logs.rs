//! `patchbay logs`: what instances wrote, read on their nodes.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use patchbay_api as api;

use crate::client::{Client, Failure};
use crate::output::{self, Output};

/// Between two looks for further lines.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Lines of each instance, unless said otherwise.
const USUAL_LINES: usize = 50;
/// Lines of each instance at most, with --tail: what this program keeps before it shows the first.
const MOST_LINES: usize = 100_000;
/// How far before the earliest line known it is looked first for earlier ones, microseconds; it doubles.
const FIRST_SPAN: u64 = 1_000_000;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  patchbay logs 7\n  patchbay logs posts --follow\n  patchbay logs posts --app social --since 10m\n  \
                  patchbay logs 7 --since 2026-11-29T02:50:00Z --output json\n\n\
                  Ended instances' outputs stay on their nodes for 7 days, of 100 instances at most."
)]
pub struct Logs {
    /// An instance's id, or a service's name: all its instances, the ended ones too
    #[arg(value_name = "INSTANCE|SERVICE")]
    of: String,
    /// Only of this application
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Go on showing what they write
    #[arg(long, short)]
    follow: bool,
    /// So many last lines of each instance, 100,000 at most; 50 unless --since says where to begin
    #[arg(long, value_parser = tail, value_name = "COUNT")]
    tail: Option<usize>,
    /// Lines from this time on: RFC 3339, or how long ago, as 90s, 10m, 2h
    #[arg(long, value_parser = since, value_name = "TIME")]
    since: Option<u64>,
}

fn tail(text: &str) -> Result<usize, String> {
    let count = text.parse::<usize>().ok().filter(|count| *count <= MOST_LINES);
    count.ok_or_else(|| format!("write a number of lines, at most {MOST_LINES}"))
}

/// Microseconds since 1970.
fn since(text: &str) -> Result<u64, String> {
    let at = match humantime::parse_duration(text) {
        Ok(ago) => SystemTime::now().checked_sub(ago),
        Err(_) => humantime::parse_rfc3339_weak(text).ok(),
    };
    let micros = at.and_then(|at| u64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_micros()).ok());
    micros.ok_or_else(|| "write a time as 2026-11-29T02:50:00Z, or how long ago, as 90s, 10m, 2h".into())
}

/// One line of one instance.
#[derive(serde::Serialize)]
struct Line {
    at_us: u64,
    instance: u64,
    service: String,
    text: String,
}

impl Logs {
    pub fn run(&self, client: &Client, output: Output) -> Result<(), Failure> {
        // Where each instance's next lines begin.
        let mut after: BTreeMap<u64, u64> = BTreeMap::new();
        let mut first = true;
        loop {
            let instances = self.instances(client)?;
            if first && instances.is_empty() {
                return Err(Failure::Said(format!(
                    "there is no instance or service `{}`; `patchbay instances --ended` lists them",
                    self.of
                )));
            }
            let mut lines = Vec::new();
            for instance in &instances {
                self.read(client, instance, &mut after, first, &mut lines)?;
            }
            lines.sort_by_key(|line| (line.at_us, line.instance));
            let several = instances.len() > 1;
            for line in &lines {
                show(line, output, several)?;
            }
            if !self.follow {
                return Ok(());
            }
            first = false;
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn instances(&self, client: &Client) -> Result<Vec<api::Instance>, Failure> {
        let app = self.app.as_ref().map(|app| format!("&app={app}")).unwrap_or_default();
        let all = client
            .pages(&format!("/v1/instances?ended=true{app}"), |instance: &api::Instance| instance.id)?;
        let is_meant = |instance: &api::Instance| match self.of.parse::<u64>() {
            Ok(id) => instance.id == id,
            Err(_) => instance.service == self.of,
        };
        Ok(all.into_iter().filter(is_meant).collect())
    }

    /// The lines of an instance that were not shown yet.
    fn read(
        &self,
        client: &Client,
        instance: &api::Instance,
        after: &mut BTreeMap<u64, u64>,
        first: bool,
        lines: &mut Vec<Line>,
    ) -> Result<(), Failure> {
        let begin = self.since.map(|since| since.saturating_sub(1));
        let mut place = match (after.get(&instance.id), first) {
            (Some(place), _) => Some(*place),
            // It has come while others were followed: all of it.
            (None, false) => Some(begin.unwrap_or(0)),
            (None, true) => begin,
        };
        let mut of_instance = Vec::new();
        loop {
            let asked = match place {
                Some(place) => format!("after={place}"),
                None => format!("lines={}", self.tail.unwrap_or(USUAL_LINES)),
            };
            let log: api::Log = match client.get(&format!("/v1/instances/{}/log?{asked}", instance.id)) {
                Ok(log) => log,
                // The others' lines are worth as much; one that was asked for itself has to answer.
                Err(Failure::Refused(_))
                    if instance.ended_ms.is_some() && self.of.parse::<u64>().is_err() =>
                {
                    break;
                }
                // Its node is away for a while.
                Err(Failure::Refused(_)) if !first => break,
                Err(failure) => return Err(failure),
            };
            let is_tail = place.is_none();
            place = log.lines.last().map(|line| line.at_us).or(place);
            of_instance.extend(log.lines);
            let wanted = self.tail.unwrap_or(USUAL_LINES);
            if is_tail && of_instance.len() < wanted {
                // One answer has only so many bytes.
                of_instance = earlier(of_instance, wanted, |after| {
                    client.get(&format!("/v1/instances/{}/log?after={after}", instance.id))
                })?;
                break;
            }
            if !log.more {
                break;
            }
        }
        after.insert(instance.id, place.unwrap_or(0));
        let skipped = match self.tail {
            Some(tail) if first => of_instance.len().saturating_sub(tail),
            _ => 0,
        };
        lines.extend(of_instance.into_iter().skip(skipped).map(|line| Line {
            at_us: line.at_us,
            instance: instance.id,
            service: instance.service.clone(),
            text: line.text,
        }));
        Ok(())
    }
}

/// Puts earlier lines before those that are known, until so many are there or there are no more: lines can only be
/// asked for from a time on, so it is looked further and further back.
fn earlier(
    mut known: Vec<api::LogLine>,
    wanted: usize,
    ask: impl Fn(u64) -> Result<api::Log, Failure>,
) -> Result<Vec<api::LogLine>, Failure> {
    let Some(oldest) = ask(0)?.lines.first().map(|line| line.at_us) else { return Ok(known) };
    let mut span = FIRST_SPAN;
    while known.len() < wanted
        && let Some(first) = known.first().map(|line| line.at_us).filter(|first| *first > oldest)
    {
        let (begin, mut after) = (first.saturating_sub(span), first.saturating_sub(span));
        let mut found = Vec::new();
        loop {
            let log = ask(after)?;
            let Some(last) = log.lines.last().map(|line| line.at_us) else { break };
            found.extend(log.lines.into_iter().filter(|line| line.at_us < first));
            if last >= first || !log.more {
                break;
            }
            after = last;
        }
        if found.is_empty() && begin < oldest {
            // It was removed meanwhile.
            break;
        }
        found.append(&mut known);
        known = found;
        span = span.saturating_mul(2);
    }
    Ok(known.split_off(known.len().saturating_sub(wanted)))
}

fn show(line: &Line, output: Output, several: bool) -> Result<(), Failure> {
    let text = match output {
        Output::Json => serde_json::to_string(line).unwrap_or_default(),
        Output::Table => {
            let at = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_micros(line.at_us));
            // What a program wrote does not drive the terminal.
            let parts: Vec<_> = line.text.split('\t').map(api::visible).collect();
            let text = parts.join("\t");
            match several {
                true => format!("{at} {}/{} {text}", line.service, line.instance),
                false => format!("{at} {text}"),
            }
        }
    };
    output::print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers as an agent does: so many lines at once, those after a time, or the last ones.
    #[test]
    fn a_tail_that_does_not_fit_into_an_answer_is_there_whole() {
        let line = |at_us: u64| api::LogLine { at_us, text: format!("line {at_us}") };
        // Bursts, and a long silence between them.
        let times: Vec<u64> =
            (1..2_000).chain((1..3_000).map(|number| 90_000_000_000 + number * 700)).collect();
        let answer = |after: u64| {
            let mut rest = times.iter().filter(|time| **time > after);
            let lines: Vec<_> = rest.by_ref().take(70).map(|time| line(*time)).collect();
            Ok(api::Log { lines, more: rest.next().is_some() })
        };
        for wanted in [100, 3_000, 4_500, 4_998, 50_000] {
            let last: Vec<_> = times[times.len() - 70..].iter().map(|time| line(*time)).collect();
            let found = earlier(last, wanted, answer).expect("answered");
            let expected = &times[times.len().saturating_sub(wanted)..];
            assert_eq!(found.iter().map(|line| line.at_us).collect::<Vec<_>>(), expected, "{wanted}");
        }
        assert!(tail("100000").is_ok() && tail("100001").is_err() && tail("-1").is_err());
    }

    #[test]
    fn times_are_absolute_or_relative() {
        assert_eq!(since("2026-11-29T02:50:00Z"), Ok(1_795_920_600_000_000));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as u64;
        let ago = since("10m").expect("good");
        assert!((now - ago).abs_diff(600_000_000) < 60_000_000);
        assert!(since("yesterday").is_err_and(|said| said.contains("90s")));
    }
}
