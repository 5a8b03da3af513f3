//! Asking a program's files what it could do: a call that can't be answered rightly once bytes are redirected,
//! and that comes without a warning, must be known before.
//!
//! What shows: the functions that the program and its libraries take from others, the functions that a Go
//! program is made of, and the call's number in a program that brings its own C library. What does not: a
//! call by a number that is computed (`syscall`), a library that is loaded later.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use object::read::{ReadCache, ReadRef};
use object::{Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _, SegmentFlags};
use patchbay_ebpf_common::Habit;
use patchbay_ebpf_common::habit::could;

use super::SessionReport;

/// Processes remembered at once; when there are more, all are forgotten and asked anew.
const MAX_PROCESSES: usize = 4_096;
/// Files remembered at once, likewise.
const MAX_FILES: usize = 4_096;
/// A process may have become another program meanwhile: it is looked at again after this time.
const TRUSTED: Duration = Duration::from_secs(1);

/// Programs that ask how much is unread, by the name of a file that they are made of.
const ASK_UNREAD_SIZE: [&str; 3] = ["libjvm.so", "libcoreclr.so", "nginx"];

/// Which process is meant: its number may be another's later, and it may become another program.
type Identity = (u64, u64, u64);

/// What is known of a process.
struct Known {
    identity: Identity,
    looked: Instant,
    /// `None` while its files are being read.
    habits: Option<Vec<Habit>>,
}

/// Knows what processes could do; reads files in a thread of its own.
pub(super) struct Examiner(Mutex<Inner>);

struct Inner {
    known: HashMap<u32, Known>,
    questions: Sender<(u32, Identity)>,
    answers: Receiver<(u32, Identity, Option<Vec<Habit>>)>,
}

impl Examiner {
    pub(super) fn new() -> io::Result<Self> {
        let (questions, asked) = channel::<(u32, Identity)>();
        let (answer, answers) = channel();
        let work = move || {
            let mut files = HashMap::new();
            for (process, identity) in asked {
                let habits =
                    examine(process, &mut files).ok().filter(|_| identity_of(process) == Some(identity));
                if answer.send((process, identity, habits)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("examiner".into()).spawn(work)?;
        Ok(Self(Mutex::new(Inner { known: HashMap::new(), questions, answers })))
    }

    /// Adds to a session's report what the programs at its ends could do, where that is known. Who has connected or
    /// listens is asked before anybody has used the session: a client may be gone soon after.
    pub(super) fn add_to(&self, report: &mut SessionReport) {
        if report.users == [0, 0] && report.processes == [0, 0] {
            return;
        }
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (side, (user, process)) in report.users.into_iter().zip(report.processes).enumerate() {
            if user == 0 && process != 0 {
                inner.ask(process);
            }
            if user != 0
                && let Some(habits) = inner.ask(user)
            {
                report.examined[side] = true;
                report.habits[side].extend(habits);
            }
        }
    }
}

impl Inner {
    /// What a process could do; `None` while that is not known, or when it has ended already.
    fn ask(&mut self, process: u32) -> Option<&[Habit]> {
        while let Ok((process, identity, habits)) = self.answers.try_recv() {
            match self.known.get_mut(&process) {
                Some(known) if known.identity == identity && habits.is_some() => known.habits = habits,
                _ => drop(self.known.remove(&process)),
            }
        }
        let fresh = self.known.get(&process).is_some_and(|known| known.looked.elapsed() < TRUSTED);
        if !fresh {
            self.look(process);
        }
        self.known.get(&process)?.habits.as_deref()
    }

    fn look(&mut self, process: u32) {
        let Some(identity) = identity_of(process) else {
            // It has ended: what was found out holds for what it did.
            return;
        };
        if let Some(known) = self.known.get_mut(&process)
            && known.identity == identity
        {
            known.looked = Instant::now();
            return;
        }
        if self.known.len() >= MAX_PROCESSES {
            self.known.clear();
        }
        if self.questions.send((process, identity)).is_ok() {
            self.known.insert(process, Known { identity, looked: Instant::now(), habits: None });
        }
    }
}

/// Device and inode of this process's PID namespace; zeros in the first one, which sees all processes.
pub(super) fn namespace() -> [u64; 2] {
    const FIRST: u64 = 0xefff_fffc;
    match fs::metadata("/proc/self/ns/pid") {
        Ok(own) if own.ino() != FIRST => [own.dev(), own.ino()],
        _ => [0, 0],
    }
}

/// When it was started, and the device and inode of its program.
fn identity_of(process: u32) -> Option<Identity> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Behind the name, which may hold anything, and its bracket.
    let started = text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let program = fs::metadata(format!("/proc/{process}/exe")).ok()?;
    Some((started, program.dev(), program.ino()))
}

/// Files by device, inode and time of change, with what was found in them.
type Files = HashMap<(u64, u64, i64), Vec<Habit>>;

/// Looks at everything of a process that is mapped to be executed.
fn examine(process: u32, files: &mut Files) -> io::Result<Vec<Habit>> {
    let mut found = Vec::new();
    for file in mapped(process)? {
        let name = file.to_string_lossy();
        if ASK_UNREAD_SIZE.iter().any(|asks| file.file_name().is_some_and(|file| file == *asks)) {
            found.push(Habit::could(could::UNREAD_SIZE));
        }
        let name = name.strip_suffix(" (deleted)").unwrap_or(&name);
        // As the process sees it; a file that was replaced is still there by its own link.
        let seen = PathBuf::from(format!("/proc/{process}/root{name}"));
        let open = File::open(&seen).or_else(|_| File::open(format!("/proc/{process}/exe")))?;
        let about = open.metadata()?;
        let key = (about.dev(), about.ino(), about.ctime());
        if files.len() >= MAX_FILES {
            files.clear();
        }
        let habits = match files.get(&key) {
            Some(habits) => habits.clone(),
            None => {
                let habits = read(open);
                files.insert(key, habits.clone());
                habits
            }
        };
        found.extend(habits);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The files that are mapped to be executed.
fn mapped(process: u32) -> io::Result<Vec<PathBuf>> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
    let mut files: Vec<PathBuf> = maps
        .lines()
        .filter(|line| line.split_whitespace().nth(1).is_some_and(|rights| rights.contains('x')))
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])))
        .collect();
    files.sort_unstable();
    files.dedup();
    if files.is_empty() {
        return Err(io::Error::other("nothing is mapped"));
    }
    Ok(files)
}

/// What the file's code could do. What can't be read or is of no known form could do everything.
fn read(file: File) -> Vec<Habit> {
    let cache = ReadCache::new(file);
    match object::File::parse(&cache) {
        Ok(program) if !calls_splice(&program) => Vec::new(),
        _ => vec![Habit::could(could::SPLICE)],
    }
}

fn calls_splice<'a, R: ReadRef<'a>>(program: &object::File<'a, R>) -> bool {
    let dynamic: Vec<_> = program.dynamic_symbols().collect();
    if dynamic.iter().any(|symbol| symbol.is_undefined() && symbol.name() == Ok("splice")) {
        return true;
    }
    for section in program.sections() {
        // A table of a Go program's functions by name.
        if section.name().is_ok_and(|name| name.ends_with(".gopclntab")) {
            return section.data().is_ok_and(|names| has(names, b"internal/poll.Splice\0"));
        }
    }
    // The C library itself defines it, and is not asked: whoever calls it there is.
    dynamic.is_empty() && code_of(program).any(|code| has(code, SPLICE_NUMBER))
}

/// Puts the number of `splice` where system calls take it.
#[cfg(target_arch = "x86_64")]
const SPLICE_NUMBER: &[u8] = &[0xb8, 0x13, 0x01, 0, 0];
/// The same: `mov x8, #76`.
#[cfg(not(target_arch = "x86_64"))]
const SPLICE_NUMBER: &[u8] = &[0x88, 0x09, 0x80, 0xd2];

fn code_of<'p, 'a: 'p, R: ReadRef<'a>>(
    program: &'p object::File<'a, R>,
) -> impl Iterator<Item = &'a [u8]> + 'p {
    const EXECUTABLE: u32 = 1;
    program
        .segments()
        .filter(|part| matches!(part.flags(), SegmentFlags::Elf { p_flags } if p_flags & EXECUTABLE != 0))
        .filter_map(|part| part.data().ok())
}

fn has(bytes: &[u8], wanted: &[u8]) -> bool {
    let Some(first) = wanted.first() else { return true };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        if rest[at..].starts_with(wanted) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// For tests: what one program's own file says.
#[cfg(test)]
fn of_file(path: &std::path::Path) -> Vec<Habit> {
    read(File::open(path).expect("a program"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn this_program_is_examined() {
        std::hint::black_box(libc::splice as *const () as usize);
        let own = std::process::id();
        let found = examine(own, &mut Files::new()).expect("its own files");
        assert_eq!(found, [Habit::could(could::SPLICE)]);
        let examiner = Examiner::new().expect("a thread");
        let mut examiner = examiner.0.lock().expect("nobody else");
        assert!(examiner.ask(own).is_none(), "files are read in a thread of its own");
        let answer = (0..500).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            examiner.ask(own).map(<[Habit]>::to_vec)
        });
        assert_eq!(answer, Some(found));
        assert!(examiner.ask(u32::MAX).is_none(), "no such process");
    }

    #[test]
    fn a_program_is_known_that_ends_soon_after_it_has_connected() {
        let examiner = Examiner::new().expect("a thread");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("it is everywhere");
        let mut report = SessionReport::between(1, 2, "127.0.0.1:1".parse().expect("an address"));
        report.processes[0] = child.id();
        let is_known = || {
            let inner = examiner.0.lock().expect("nobody else");
            let answered = inner.known.get(&child.id()).is_some_and(|known| known.habits.is_some());
            drop(inner);
            examiner.add_to(&mut report.clone());
            answered
        };
        let known = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            is_known()
        });
        child.kill().and_then(|()| child.wait()).expect("it is ours");
        assert!(known, "it is asked for before it has used the session");
        report.users[0] = child.id();
        examiner.add_to(&mut report);
        assert_eq!(report.examined, [true, false]);
    }

    #[test]
    fn a_program_that_does_not_call_it_could_not() {
        assert_eq!(of_file(Path::new("/bin/true")), []);
        let folder = tempfile::tempdir().expect("a folder");
        let junk = folder.path().join("junk");
        fs::write(&junk, "no program").expect("a file");
        assert_eq!(of_file(&junk), [Habit::could(could::SPLICE)], "what is not known could do everything");
    }

    #[test]
    fn bytes_are_found_wherever_they_are() {
        assert!(has(b"xxabab", b"abab") && has(b"aabc", b"abc") && !has(b"ab", b"abc") && !has(b"", b"a"));
    }
}
