//! The keeper: a process for each instance that reads its pipe, and keeps lines in files of a bounded size.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::line::{self, Micros};
use super::{EARLIER_FILES, FILE_BYTES, LINE_BYTES, earlier};
use crate::private;

/// Bytes read at once: what a pipe holds.
const READ_BYTES: usize = 64 << 10;
/// A line without an end is kept after so many milliseconds of silence.
const SILENCE_MS: u16 = 1_000;

/// Keeps what comes from standard input until its last writer has gone.
///
/// # Errors
/// Reading fails. That nothing can be written ends nothing: it is said once writing works again.
pub fn keep(log: &Path) -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut keeper = Keeper::new(log);
    let mut bytes = vec![0; READ_BYTES];
    loop {
        if keeper.has_part() {
            let wait = PollFd::new(input.as_fd(), PollFlags::POLLIN);
            if poll(&mut [wait], PollTimeout::from(SILENCE_MS)) == Ok(0) {
                keeper.end_line();
            }
        }
        match read_once(&mut input, &mut bytes) {
            Ok(0) => break,
            Ok(length) => keeper.take(&bytes[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    keeper.end_line();
    Ok(())
}

/// Standard input has a buffer of its own, which would hide what waits from `poll`.
fn read_once(input: &mut io::StdinLock<'_>, bytes: &mut [u8]) -> io::Result<usize> {
    nix::unistd::read(input.as_fd(), bytes).map_err(io::Error::from)
}

/// Lines on their way into files.
struct Keeper {
    log: PathBuf,
    file: Option<(File, u64)>,
    latest: Micros,
    part: Vec<u8>,
    lost: u64,
    /// When the latest of them was, and why it was lost.
    lost_at: (Micros, String),
}

impl Keeper {
    fn new(log: &Path) -> Self {
        let latest = super::read::latest(log);
        Self {
            log: log.to_owned(),
            file: None,
            latest,
            part: Vec::new(),
            lost: 0,
            lost_at: (0, String::new()),
        }
    }

    fn has_part(&self) -> bool {
        !self.part.is_empty()
    }

    /// What was read; whole lines are kept.
    fn take(&mut self, mut bytes: &[u8]) {
        let mut out = Vec::with_capacity(bytes.len() * 2);
        let mut lines = 0;
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.add(&bytes[..end], &mut out, &mut lines);
            lines += 1;
            self.write_part(&mut out);
            bytes = &bytes[end + 1..];
        }
        self.add(bytes, &mut out, &mut lines);
        self.keep(&out, lines);
    }

    /// More of a line; what is too long for one becomes several.
    fn add(&mut self, mut bytes: &[u8], out: &mut Vec<u8>, lines: &mut u64) {
        while self.part.len() + bytes.len() > LINE_BYTES {
            let (now, later) = bytes.split_at(LINE_BYTES - self.part.len());
            self.part.extend_from_slice(now);
            self.write_part(out);
            *lines += 1;
            bytes = later;
        }
        self.part.extend_from_slice(bytes);
    }

    fn write_part(&mut self, out: &mut Vec<u8>) {
        self.latest = line::next_time(self.latest);
        line::write(out, self.latest, &self.part);
        self.part.clear();
    }

    /// A line that has no end.
    fn end_line(&mut self) {
        if self.has_part() {
            let mut out = Vec::new();
            self.write_part(&mut out);
            self.keep(&out, 1);
        }
    }

    /// Writes whole lines, or counts them as lost: the instance is read on, whatever the disk does.
    fn keep(&mut self, lines: &[u8], count: u64) {
        if count == 0 {
            return;
        }
        let written = self.say_lost().and_then(|()| self.write(lines));
        if let Err(error) = written {
            self.lost += count;
            self.lost_at = (self.latest, error.to_string());
        }
    }

    fn say_lost(&mut self) -> io::Result<()> {
        if self.lost == 0 {
            return Ok(());
        }
        let (time, why) = &self.lost_at;
        let text = format!("patchbay: {} lines before this one were lost: {why}", self.lost);
        let mut out = Vec::new();
        // It stands in their place.
        line::write(&mut out, *time, text.as_bytes());
        self.write(&out)?;
        self.lost = 0;
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.file.as_ref().is_some_and(|(_, length)| length + lines.len() as u64 > FILE_BYTES) {
            self.rotate();
        }
        let (mut file, length) = match self.file.take() {
            Some(open) => open,
            None => {
                let file = private::append(&self.log)?;
                let length = file.metadata()?.len();
                (file, length)
            }
        };
        match file.write_all(lines) {
            Ok(()) => {
                self.file = Some((file, length + lines.len() as u64));
                Ok(())
            }
            Err(error) => {
                // No line is kept in part.
                let _ = file.set_len(length);
                Err(error)
            }
        }
    }

    /// Renames: nothing is copied, however much there is.
    fn rotate(&mut self) {
        self.file = None;
        for number in (1..EARLIER_FILES).rev() {
            let _ = fs::rename(earlier(&self.log, number), earlier(&self.log, number + 1));
        }
        if fs::rename(&self.log, earlier(&self.log, 1)).is_err() {
            // The bound holds all the same.
            let _ = fs::remove_file(&self.log);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(log: &Path) -> Vec<String> {
        let whole = fs::read(log).unwrap_or_default();
        let lines = whole.split(|byte| *byte == b'\n').filter_map(line::parse);
        lines.map(|(_, text)| String::from_utf8_lossy(text).into_owned()).collect()
    }

    #[test]
    fn lines_are_kept_with_growing_times_across_keepers() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("a-1.log");
        let mut keeper = Keeper::new(&log);
        keeper.take(b"one\ntw");
        assert!(keeper.has_part());
        keeper.take(b"o\n");
        let mut keeper = Keeper::new(&log);
        keeper.take(b"three");
        keeper.end_line();
        assert_eq!(texts(&log), ["one", "two", "three"]);
        let whole = fs::read(&log).expect("there");
        let times: Vec<Micros> =
            whole.split(|b| *b == b'\n').filter_map(line::parse).map(|(time, _)| time).collect();
        assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&log).expect("there").permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn whatever_is_written_stays_bounded_and_the_latest_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("a-1.log");
        let mut keeper = Keeper::new(&log);
        let without_end = vec![b'x'; READ_BYTES];
        let many = b"line\n".repeat(READ_BYTES / 5);
        for _ in 0..(6 * FILE_BYTES as usize / READ_BYTES) {
            keeper.take(&without_end);
            keeper.take(&many);
        }
        keeper.take(b"\nlast\n");
        let files = fs::read_dir(folder.path()).expect("there").flatten();
        let sizes: Vec<u64> = files.map(|file| file.metadata().expect("there").len()).collect();
        assert_eq!(sizes.len(), 1 + EARLIER_FILES as usize);
        let room = FILE_BYTES + (READ_BYTES * 8) as u64;
        assert!(sizes.iter().all(|size| *size <= room), "{sizes:?}");
        assert_eq!(texts(&log).last().map(String::as_str), Some("last"));
    }

    /// /dev/full refuses every write.
    #[test]
    fn what_a_full_disk_cost_is_said_once_it_works_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("a-1.log");
        let mut keeper = Keeper::new(&log);
        keeper.take(b"before\n");
        let full = File::options().append(true).open("/dev/full").expect("there");
        keeper.file = Some((full, 0));
        keeper.take(b"one\ntwo\n");
        keeper.take(b"after\n");
        assert_eq!(
            texts(&log),
            [
                "before",
                "patchbay: 2 lines before this one were lost: No space left on device (os error 28)",
                "after"
            ]
        );
    }
}
