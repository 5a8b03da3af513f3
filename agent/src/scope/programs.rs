//! Which programs the ends of a scope's sessions are: a file as it is now, and for an interpreter the script that
//! it runs. Neither a name nor a process's number says that.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use patchbay_agent_core::profiles::ProgramFile;
use patchbay_ebpf_common::{ARGUMENT_BYTES, ProgramName, arguments_hash};

use crate::datapath::{Program, Source};

/// Processes remembered at once; when there are more, all are forgotten and looked at anew.
const MAX_PROCESSES: usize = 4_096;

/// Programs that run other programs, by what their files' names begin with: what these do with sockets is not the
/// interpreter's own.
const INTERPRETERS: [&str; 36] = [
    "python", "pypy", "perl", "ruby", "node", "deno", "bun", "php", "lua", "tclsh", "wish", "expect", "sh",
    "bash", "dash", "zsh", "ksh", "mksh", "fish", "busybox", "java", "dotnet", "mono", "Rscript", "R",
    "julia", "guile", "erl", "beam", "awk", "gawk", "mawk", "socat", "qemu-", "wine", "racket",
];

/// What is known of the processes seen so far.
#[derive(Default)]
pub struct Programs {
    processes: HashMap<(u32, Program), Option<(String, ProgramFile)>>,
    /// Programs that no interpreter runs, by what the kernel sees of them: a process of one may end within the
    /// milliseconds in which it would be looked at.
    compiled: HashMap<(ProgramName, u32, u64), (String, ProgramFile)>,
    /// Whether the numbers of files say nothing, because each container has its own of the same image.
    pub by_image: bool,
}

impl Programs {
    /// The name of the program that a process runs, and its files; `None` when nothing tells what it runs. `seen` is
    /// what the kernel saw of it, all zero if nothing, and `is_seen` whether it saw this very process.
    pub fn of(&mut self, process: u32, seen: &Program, is_seen: bool) -> Option<&(String, ProgramFile)> {
        if process == 0 {
            return None;
        }
        if self.processes.len() >= MAX_PROCESSES {
            self.processes.clear();
            self.compiled.clear();
        }
        let key = (process, *seen);
        if !self.processes.contains_key(&key) {
            let file = (seen.name, seen.device, seen.inode);
            let found = look(process, seen, self.by_image);
            if let Some(found) = found.as_ref().filter(|found| seen.inode != 0 && found.1.arguments.is_none())
            {
                self.compiled.insert(file, found.clone());
            }
            let has_ended = || !Path::new(&format!("/proc/{process}")).exists();
            let found = found.or_else(|| {
                let known = self.compiled.get(&file).filter(|_| is_seen && has_ended())?;
                // Not what another file at its place would be.
                let now = name_of(Path::new("/"), &known.1, self.by_image).ok()?;
                (now == known.0).then(|| known.clone())
            });
            self.processes.insert(key, found);
        }
        self.processes.get(&key)?.as_ref()
    }

    /// What a process that has no connection yet runs, as the kernel will see it.
    pub fn running(&mut self, process: u32) -> Option<(Program, String, ProgramFile)> {
        let folder = PathBuf::from(format!("/proc/{process}"));
        let own = fs::metadata(folder.join("exe")).ok()?;
        let mut name = [0; 16];
        let comm = fs::read(folder.join("comm")).ok()?;
        // The last byte stays zero, as in the kernel.
        for (to, from) in name[..15].iter_mut().zip(comm.into_iter().take_while(|byte| *byte != b'\n')) {
            *to = from;
        }
        let (major, minor) = (nix::sys::stat::major(own.dev()), nix::sys::stat::minor(own.dev()));
        let device = u32::try_from(major << 20 | minor).ok()?;
        let arguments = arguments_of(&folder)?;
        let seen = Program { name, inode: own.ino(), arguments, device, padding: 0 };
        let (name, file) = self.of(process, &seen, true)?.clone();
        Some((seen, name, file))
    }

    /// Forgets everything: numbers of processes and files may be others' now.
    pub fn forget(&mut self) {
        self.processes.clear();
        self.compiled.clear();
    }
}

/// How the kernel knows a program that connects to a port, or accepts there. An interpreter's is known by its
/// arguments too.
pub fn source(seen: &Program, is_interpreter: bool, port: Option<u16>, accepts: bool) -> Source {
    Source {
        name: seen.name,
        file: (seen.inode != 0).then_some((seen.device, seen.inode)),
        arguments: (is_interpreter && seen.arguments != 0).then_some(seen.arguments),
        port,
        accepts,
    }
}

/// The same for one that was learned about earlier; `None` when its files are not what they were.
pub fn source_of(name: &str, file: &ProgramFile, port: Option<u16>, accepts: bool) -> Option<Source> {
    if name_of(Path::new("/"), file, false).ok()? != name {
        return None;
    }
    let mut kernel_name = [0; 16];
    // The last byte stays zero, as in the kernel.
    for (to, from) in kernel_name[..15].iter_mut().zip(file.name.bytes()) {
        *to = from;
    }
    let arguments = file.arguments;
    Some(Source { name: kernel_name, file: Some((file.device, file.inode)), arguments, port, accepts })
}

fn look(process: u32, seen: &Program, by_image: bool) -> Option<(String, ProgramFile)> {
    let folder = PathBuf::from(format!("/proc/{process}"));
    let own = fs::metadata(folder.join("exe")).ok()?;
    let root = folder.join("root");
    // The process's number may be another's by now, or it has become another program.
    if seen.inode != 0 && own.ino() != seen.inode {
        return None;
    }
    let program = fs::read_link(folder.join("exe")).ok()?;
    let mut script = None;
    let mut arguments = None;
    if is_interpreter(&program) {
        script = script_of(&folder, &root);
        // Code that is no file, `sh -c`, a program from standard input: the arguments are all there is.
        arguments = match seen.arguments {
            0 if seen.inode == 0 => Some(arguments_of(&folder)?),
            0 => return None,
            known => Some(known),
        };
    }
    let name = String::from_utf8_lossy(&seen.name).trim_end_matches('\0').to_owned();
    let Program { device, inode, .. } = *seen;
    let file = ProgramFile { name, device, inode, program, script, arguments };
    Some((name_of(&root, &file, by_image).ok()?, file))
}

fn is_interpreter(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    INTERPRETERS.iter().any(|known| {
        let rest = name.strip_prefix(known);
        // `sh`, and `python3.11`, but not `shutdown`.
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphabetic()) || known.ends_with('-'))
    })
}

/// The first argument that is a file, as the process sees it.
fn script_of(folder: &Path, root: &Path) -> Option<PathBuf> {
    let arguments = fs::read(folder.join("cmdline")).ok()?;
    let working = fs::read_link(folder.join("cwd")).ok()?;
    let arguments = arguments.split(|byte| *byte == 0).skip(1).map(String::from_utf8_lossy);
    let mut files = arguments.filter(|text| !text.is_empty() && !text.starts_with('-'));
    files.find_map(|text| {
        let path = working.join(&*text);
        fs::metadata(below(root, &path)).is_ok_and(|found| found.is_file()).then_some(path)
    })
}

/// The kernel programs' hash of a process's arguments.
fn arguments_of(folder: &Path) -> Option<u64> {
    let arguments = fs::read(folder.join("cmdline")).ok()?;
    let mut bytes = [0; ARGUMENT_BYTES];
    let length = arguments.len().min(ARGUMENT_BYTES);
    bytes[..length].copy_from_slice(&arguments[..length]);
    Some(arguments_hash(&bytes, length))
}

/// A path as a process sees it that has this root.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// `python3.11:serve.py#1f2e3d4c5b6a7988`: what a person knows it by, and what changes with its files.
fn name_of(root: &Path, file: &ProgramFile, by_image: bool) -> io::Result<String> {
    let base = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut hash = Hash::new();
    hash.file(root, &file.program, by_image)?;
    // One file may be several programs by the names of links to it.
    hash.add(file.name.as_bytes());
    let mut name = match (file.arguments, &*file.name) {
        (Some(_), _) | (None, "") => base(&file.program),
        (None, name) => name.to_owned(),
    };
    if let Some(script) = &file.script {
        hash.file(root, script, by_image)?;
        name = format!("{name}:{}", base(script));
    }
    hash.add(&file.arguments.unwrap_or_default().to_ne_bytes());
    Ok(format!("{name}#{:016x}", hash.0))
}

/// FNV-1a: no secret is kept by it, and it stays the same from one build to the next.
struct Hash(u64);

impl Hash {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Where it is, and what another file at its place would not have.
    fn file(&mut self, root: &Path, path: &Path, by_image: bool) -> io::Result<()> {
        let found = fs::metadata(below(root, path))?;
        self.add(path.as_os_str().as_bytes());
        let numbers = if by_image { [0; 2] } else { [found.dev(), found.ino()] };
        for number in numbers.into_iter().chain([found.size()]) {
            self.add(&number.to_ne_bytes());
        }
        for number in [found.mtime(), found.mtime_nsec()] {
            self.add(&number.to_ne_bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_known_by_their_names() {
        for name in ["python3", "python3.11", "sh", "node", "php8.2-fpm", "qemu-x86_64", "perl5.36", "R"] {
            assert!(is_interpreter(&Path::new("/usr/bin").join(name)), "{name}");
        }
        for name in ["redis-server", "shutdown", "nginx", "nodepad", "Relay", "javac"] {
            assert!(!is_interpreter(&Path::new("/usr/bin").join(name)), "{name}");
        }
    }

    #[test]
    fn another_script_and_a_changed_one_are_other_programs() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (folder.path().join("one.py"), folder.path().join("other.py"));
        fs::write(&one, "print(1)").expect("written");
        fs::write(&other, "print(1)").expect("written");
        let file = |script: &Path| ProgramFile {
            name: "python3".into(),
            device: 1,
            inode: 2,
            program: "/proc/self/exe".into(),
            script: Some(script.to_owned()),
            arguments: Some(7),
        };
        let name = |script: &Path| name_of(Path::new("/"), &file(script), false).expect("files");
        let first = name(&one);
        assert!(first.starts_with("exe:one.py#"), "{first}");
        assert_eq!(first, name(&one), "it stays the same");
        assert_ne!(first.rsplit('#').next(), name(&other).rsplit('#').next());
        let linked = |name: &str| {
            let file = ProgramFile { name: name.into(), arguments: None, script: None, ..file(&one) };
            name_of(Path::new("/"), &file, false).expect("a file")
        };
        assert!(linked("redis-server").starts_with("redis-server#"));
        assert_ne!(linked("redis-server").rsplit('#').next(), linked("redis-check-rdb").rsplit('#').next());
        let known = file(&one);
        let source = source_of(&first, &known, Some(80), false).expect("nothing has changed");
        assert_eq!((source.file, source.arguments, source.port), (Some((1, 2)), Some(7), Some(80)));
        assert_eq!(&source.name[..8], b"python3\0");
        fs::write(&one, "print(12)").expect("written");
        assert_ne!(first, name(&one));
        assert_eq!(
            source_of(&first, &known, Some(80), false),
            None,
            "what was learned is of another program"
        );
        fs::remove_file(&one).expect("ours");
        assert_eq!(source_of(&first, &known, Some(80), false), None);
    }

    #[test]
    fn a_process_is_looked_at_once_and_only_while_it_is_the_one() {
        let mut programs = Programs::default();
        let own = std::process::id();
        let inode = fs::metadata("/proc/self/exe").expect("it runs").ino();
        let seen = Program { inode, ..Program::default() };
        let (name, file) = programs.of(own, &seen, true).expect("it runs").clone();
        assert!(name.starts_with("patchbay_agent-") && file.script.is_none(), "{name}");
        assert!(programs.of(own, &Program { inode: inode + 1, ..seen }, true).is_none(), "another program");
        assert!(programs.of(0, &seen, true).is_none());
        assert!(programs.of(u32::MAX, &seen, false).is_none(), "nobody saw what this one was");
        assert!(programs.of(u32::MAX - 1, &Program { inode: inode + 1, ..seen }, true).is_none());
        let ended = programs.of(u32::MAX - 2, &seen, true);
        assert_eq!(ended, Some(&(name, file)), "what has ended is known by its file");
    }
}
