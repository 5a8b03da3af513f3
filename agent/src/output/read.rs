//! Kept lines are read: the last ones, or those after a time.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use ssmmp::extension::Log;

use super::line::{self, Micros};
use super::{EARLIER_FILES, LINE_BYTES, earlier, with};

/// Lines that go with the failure of an instance.
const LAST_LINES: usize = 20;
/// Lines in one answer at most.
pub const MAX_LINES: usize = 1_000;
/// Bytes of the lines of one answer as they are told, unless one line alone has more: a message stays below
/// SSMMP's bound.
const ANSWER_BYTES: usize = 40 << 10;
/// Bytes read at a file's end for its last lines at most.
const TAIL_BYTES: u64 = 1 << 20;

/// Lines with their times, microseconds since 1970.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// In their order.
    pub lines: Vec<(Micros, String)>,
    /// More of them follow.
    pub more: bool,
}

/// Bytes of a line as it is told, about.
fn told_bytes(text: &str) -> usize {
    let escaped = text.chars().map(|c| match c {
        '~' | '\0'..='\x1f' => 6,
        '"' | '\\' => 2,
        c => c.len_utf8(),
    });
    escaped.sum::<usize>() + "[1234567890123456,\"\"],".len()
}

/// Reads the output of an instance by its id, ended or not, in a node's folder of instances.
///
/// # Errors
/// There is none, or it can't be read.
pub fn read_of(instances: &Path, question: &Log) -> io::Result<Lines> {
    let folder = super::old::folder_of(instances, question.instance.0).ok_or(io::ErrorKind::NotFound)?;
    read(&folder, question)
}

/// Reads the output of an instance whose folder this is.
fn read(folder: &Path, question: &Log) -> io::Result<Lines> {
    let log = with(folder, "log");
    let count = question.lines.min(MAX_LINES);
    match question.after {
        Some(after) => read_after(&log, after, count),
        None => {
            let mut lines = Vec::new();
            for file in files(&log) {
                let mut of_file = tail(&file, count - lines.len())?;
                of_file.append(&mut lines);
                lines = of_file;
                if lines.len() >= count {
                    break;
                }
            }
            Ok(shortened(lines))
        }
    }
}

/// The newest that fit into an answer.
fn shortened(mut lines: Vec<(Micros, String)>) -> Lines {
    let mut bytes = 0;
    let fit = lines.iter().rev().take_while(|(_, text)| {
        bytes += told_bytes(text);
        bytes <= ANSWER_BYTES
    });
    let fit = fit.count().max(1).min(lines.len());
    Lines { lines: lines.split_off(lines.len() - fit), more: false }
}

/// Those after a time, the oldest first.
fn read_after(log: &Path, after: Micros, count: usize) -> io::Result<Lines> {
    let mut told = Lines::default();
    let mut bytes = 0;
    let mut all = files(log);
    all.reverse();
    for path in all {
        let mut file = match File::open(&path) {
            Ok(file) => file,
            // Renamed meanwhile: what is in it is asked for again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let place = place_after(&mut file, after)?;
        file.seek(SeekFrom::Start(place))?;
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            if line.pop() != Some(b'\n') {
                // It is being written.
                break;
            }
            if let Some((time, text)) = line::parse(&line)
                && time > after
            {
                let text = String::from_utf8_lossy(text).into_owned();
                let cost = told_bytes(&text);
                if told.lines.len() >= count || (bytes > 0 && bytes + cost > ANSWER_BYTES) {
                    told.more = true;
                    return Ok(told);
                }
                bytes += cost;
                told.lines.push((time, text));
            }
            line.clear();
        }
    }
    Ok(told)
}

/// A place in a file before which all lines have this time or an earlier one: lines are in the order of
/// their times.
fn place_after(file: &mut File, after: Micros) -> io::Result<u64> {
    let (mut low, mut high) = (0, file.metadata()?.len());
    // Then reading on costs less than looking further.
    while high - low > 4 * LINE_BYTES as u64 {
        let middle = low + (high - low) / 2;
        match time_behind(file, middle)? {
            Some(time) if time <= after => low = middle,
            _ => high = middle,
        }
    }
    Ok(if low == 0 { 0 } else { next_line(file, low)? })
}

fn next_line(file: &mut File, place: u64) -> io::Result<u64> {
    file.seek(SeekFrom::Start(place))?;
    let mut skipped = Vec::new();
    Ok(place + BufReader::new(file).read_until(b'\n', &mut skipped)? as u64)
}

/// The time of the first line that begins behind a place.
fn time_behind(file: &mut File, place: u64) -> io::Result<Option<Micros>> {
    let begin = next_line(file, place)?;
    file.seek(SeekFrom::Start(begin))?;
    let mut line = Vec::new();
    BufReader::new(file).take(2 * LINE_BYTES as u64).read_until(b'\n', &mut line)?;
    Ok(line::parse(line.strip_suffix(b"\n").unwrap_or(&line)).map(|(time, _)| time))
}

/// The files of an output that exist, the newest first.
fn files(log: &Path) -> Vec<PathBuf> {
    let all = std::iter::once(log.to_owned()).chain((1..=EARLIER_FILES).map(|number| earlier(log, number)));
    all.filter(|path| path.exists()).collect()
}

/// The last lines of a file.
fn tail(path: &Path, count: usize) -> io::Result<Vec<(Micros, String)>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let begin = length.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let whole = bytes.split_inclusive(|byte| *byte == b'\n').skip(usize::from(begin > 0));
    let lines: Vec<(Micros, &[u8])> =
        whole.filter_map(|line| line::parse(line.strip_suffix(b"\n")?)).collect();
    let last = lines[lines.len().saturating_sub(count)..].iter();
    Ok(last.map(|(time, text)| (*time, String::from_utf8_lossy(text).into_owned())).collect())
}

/// The last lines of an output that are not empty, without their times.
pub fn last_lines(log: &Path) -> Vec<String> {
    let lines = tail(log, 2 * LAST_LINES).unwrap_or_default();
    let lines: Vec<String> =
        lines.into_iter().map(|(_, text)| text).filter(|text| !text.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].to_vec()
}

/// The time of an output's latest line; 0 without one.
pub(super) fn latest(log: &Path) -> Micros {
    let newest = files(log).into_iter().find_map(|file| tail(&file, 1).ok()?.pop());
    newest.map_or(0, |(time, _)| time)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use ssmmp::InstanceId;
    use ssmmp::extension::{Extension as _, LogLines};

    use super::*;

    fn write(path: &Path, lines: impl Iterator<Item = u64>) {
        let mut out = Vec::new();
        for number in lines {
            line::write(&mut out, number * 10, format!("line {number} {}", "x".repeat(200)).as_bytes());
        }
        fs::write(path, out).expect("written");
    }

    fn ask(after: Option<Micros>, lines: usize) -> Log {
        Log { instance: InstanceId(1), after, lines }
    }

    fn number((_, text): &(Micros, String)) -> u64 {
        text.split(' ').nth(1).expect("a number").parse().expect("a number")
    }

    #[test]
    fn paging_after_times_finds_every_line_once_whatever_file_it_is_in() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("a.b-1");
        let log = with(&place, "log");
        write(&earlier(&log, 2), 0..2_000);
        write(&earlier(&log, 1), 2_000..2_001);
        write(&log, 2_001..5_000);
        let mut found = Vec::new();
        let mut after = 0;
        loop {
            let told = read(&place, &ask(Some(after), 70)).expect("readable");
            found.extend(told.lines.iter().map(number));
            let Some((time, _)) = told.lines.last() else { break };
            after = *time;
            assert!(told.more || told.lines.len() <= 70);
        }
        assert_eq!(found, (1..5_000).collect::<Vec<_>>(), "the one at time 0 is not after it");
        let last = read(&place, &ask(None, 10)).expect("readable");
        assert_eq!(last.lines.iter().map(number).collect::<Vec<_>>(), (4_990..5_000).collect::<Vec<_>>());
        assert_eq!(latest(&log), 49_990);
    }

    #[test]
    fn an_answer_of_the_worst_text_fits_into_a_message() {
        let folder = tempfile::tempdir().expect("a folder");
        for text in ["~", "\u{1}", "\"", "ä", "\u{10ffff}"] {
            let mut out = Vec::new();
            for time in 1..3_000 {
                let length = if time % 3 == 0 { LINE_BYTES / text.len() } else { 1 };
                line::write(&mut out, time, text.repeat(length).as_bytes());
            }
            fs::write(folder.path().join("a-1.log"), out).expect("written");
            for after in [None, Some(0)] {
                let told = read_of(folder.path(), &ask(after, 1_000)).expect("readable");
                let mut json = String::new();
                LogLines(told.lines.clone()).write(&mut json);
                assert!(json.len() < 52 << 10 && !told.lines.is_empty(), "{} {text:?}", json.len());
                assert!(!json.contains('~'));
                assert_eq!(LogLines::read(&json), Some(LogLines(told.lines)));
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_the_files_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..2_000), after in any::<u64>()) {
            let folder = tempfile::tempdir().expect("a folder");
            let place = folder.path().join("a-1");
            fs::write(with(&place, "log"), &bytes).expect("written");
            read(&place, &ask(Some(after), 5)).expect("readable");
            read(&place, &ask(None, 5)).expect("readable");
            last_lines(&with(&place, "log"));
        }
    }
}
