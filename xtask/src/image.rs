//! Images as OCI layouts, written without an engine: a program, the libraries that it needs, and nothing else. The
//! same files give the same image, byte for byte.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::command::{output, progress, run_quietly};
use crate::{setup, workspace};

/// Mode of what may be executed.
const PROGRAM: u32 = 0o755;
/// User and group of the Manager in its image, as distroless images name nobody in particular.
const NON_ROOT: u32 = 65_532;
/// Where programs are in an image.
const BIN: &str = "usr/bin";

/// Which images to build.
#[derive(Args)]
pub struct Image {
    /// The folder that gets a layout and an archive for each
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Instead of Patchbay's: an image of one program of this machine, named after it, for tests
    #[arg(long, value_name = "PROGRAM")]
    of: Vec<PathBuf>,
    /// The tag
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"), value_name = "TAG")]
    tag: String,
    /// Take the programs that are built already
    #[arg(long)]
    no_build: bool,
}

/// Builds the images.
pub fn run(image: &Image) -> Result<()> {
    let out = image.out.clone().unwrap_or_else(|| workspace().join("target/images"));
    fs::create_dir_all(&out)?;
    if !image.of.is_empty() {
        for program in &image.of {
            let name = program.file_name().context("a program has a name")?.to_string_lossy().into_owned();
            let content = Content::of(&[(program.clone(), format!("{BIN}/{name}"))])?;
            let config = json!({"Entrypoint": [format!("/{BIN}/{name}")]});
            write(&out, &format!("localhost/{name}:{}", image.tag), &content, &config)?;
        }
        return Ok(());
    }
    if !image.no_build {
        setup::run()?;
        setup::build()?;
    }
    let bill = bill()?;
    fs::write(out.join("patchbay.spdx.json"), &bill)?;
    for (name, programs, user) in [
        // Kernel programs are loaded by root with some capabilities: the chart says which.
        ("patchbay-agent", &["patchbay-agent", "patchbay"][..], 0),
        ("patchbay-manager", &["patchbay-manager", "patchbay"][..], NON_ROOT),
    ] {
        let built = workspace().join("target/release");
        let files: Vec<_> =
            programs.iter().map(|program| (built.join(program), format!("{BIN}/{program}"))).collect();
        let mut content = Content::of(&files)?;
        content.add("usr/share/doc/patchbay/patchbay.spdx.json", 0o644, bill.clone().into_bytes());
        content.add("usr/share/doc/patchbay/LICENSE", 0o644, fs::read(workspace().join("LICENSE"))?);
        content.folder("var/lib/patchbay", 0o700, user);
        content.folder("run/patchbay", 0o755, user);
        let config = json!({
            "Entrypoint": [format!("/{BIN}/{name}")],
            "User": format!("{user}:{user}"),
            "Env": ["PATH=/usr/bin"],
            "WorkingDir": "/",
            "Labels": labels(name),
        });
        write(&out, &format!("localhost/{name}:{}", image.tag), &content, &config)?;
    }
    Ok(())
}

fn labels(name: &str) -> Value {
    json!({
        "org.opencontainers.image.title": name,
        "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.revision": revision(),
        "org.opencontainers.image.description": "Service sessions of one node through the kernel",
    })
}

fn revision() -> String {
    let mut git = Command::new("git");
    git.args(["rev-parse", "HEAD"]).current_dir(workspace());
    output(&mut git).map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
}

/// One layer's files, by path.
struct Content(BTreeMap<String, Entry>);

enum Entry {
    Folder { mode: u32, user: u32 },
    File { mode: u32, bytes: Vec<u8> },
}

impl Content {
    /// Programs, where they go, and the libraries that the loader finds for them.
    fn of(programs: &[(PathBuf, String)]) -> Result<Self> {
        let mut content = Self(BTreeMap::new());
        content.folder("tmp", 0o1777, 0);
        content.add(
            "etc/passwd",
            0o644,
            format!(
                "root:x:0:0:root:/:/sbin/nologin\npatchbay:x:{NON_ROOT}:{NON_ROOT}:patchbay:/:/sbin/nologin\n"
            )
            .into_bytes(),
        );
        content.add("etc/group", 0o644, format!("root:x:0:\npatchbay:x:{NON_ROOT}:\n").into_bytes());
        for (program, place) in programs {
            let bytes = stripped(program)?;
            content.add(place, PROGRAM, bytes);
            for library in libraries(program)? {
                let bytes = fs::read(&library)?;
                content.add(library.to_string_lossy().trim_start_matches('/'), PROGRAM, bytes);
            }
        }
        Ok(content)
    }

    fn add(&mut self, path: &str, mode: u32, bytes: Vec<u8>) {
        self.above(path);
        self.0.insert(path.to_owned(), Entry::File { mode, bytes });
    }

    fn folder(&mut self, path: &str, mode: u32, user: u32) {
        self.above(path);
        self.0.insert(path.to_owned(), Entry::Folder { mode, user });
    }

    fn above(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_owned()).or_insert(Entry::Folder { mode: 0o755, user: 0 });
        }
    }

    /// As a tar archive without times and names of people.
    fn layer(&self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(0);
            let (kind, mode, user, bytes) = match entry {
                Entry::Folder { mode, user } => (tar::EntryType::Directory, mode, *user, &[][..]),
                Entry::File { mode, bytes } => (tar::EntryType::Regular, mode, 0, &bytes[..]),
            };
            header.set_entry_type(kind);
            header.set_mode(*mode);
            header.set_uid(user.into());
            header.set_gid(user.into());
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, path, bytes)?;
        }
        Ok(archive.into_inner()?)
    }
}

/// A program without what only debuggers read.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let missing = || format!("{} can't be read: build it first", program.display());
    let file = std::env::temp_dir().join(format!("patchbay-stripped-{}", std::process::id()));
    run_quietly(Command::new("strip").arg("--strip-debug").arg("-o").arg(&file).arg(program))
        .with_context(missing)?;
    let bytes = fs::read(&file)?;
    fs::remove_file(&file)?;
    Ok(bytes)
}

/// What the dynamic loader would load, the loader itself included; nothing for a static program.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = Command::new("ldd").arg(program).output().context("ldd is part of libc-bin")?;
    let text = String::from_utf8_lossy(&listed.stdout);
    if text.contains("not found") {
        bail!("{} lacks libraries on this machine:\n{text}", program.display());
    }
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(text.lines().filter_map(path).collect())
}

/// Writes the layout, and an archive of it beside.
fn write(out: &Path, name: &str, content: &Content, config: &Value) -> Result<()> {
    let short = name.rsplit('/').next().and_then(|name| name.split(':').next()).context("a name")?;
    let folder = out.join(short);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let put = |kind: &str, bytes: &[u8]| -> Result<Value> {
        let digest = hexadecimal(&Sha256::digest(bytes));
        fs::write(blobs.join(&digest), bytes)?;
        Ok(
            json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{digest}"), "size": bytes.len()}),
        )
    };
    let layer = put("layer.v1.tar", &content.layer()?)?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture,
        "os": "linux",
        "config": config,
        // Not compressed: the layer's own digest.
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = put("config.v1+json", &serde_json::to_vec(&config)?)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
    });
    let mut manifest = put("manifest.v1+json", &serde_json::to_vec(&manifest)?)?;
    manifest["annotations"] =
        json!({"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name});
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]});
    fs::write(folder.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(folder.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}")?;
    let archive = out.join(format!("{short}.tar"));
    let mut tar = tar::Builder::new(File::create(&archive)?);
    tar.mode(tar::HeaderMode::Deterministic);
    tar.append_dir_all(".", &folder)?;
    tar.into_inner()?.flush()?;
    fs::set_permissions(&archive, fs::Permissions::from_mode(0o644))?;
    progress(&format!("{name}: {} ({} KiB)", archive.display(), fs::metadata(&archive)?.len() / 1024));
    Ok(())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the programs are made of: crates by name, version and licence, as SPDX 2.3 writes it.
fn bill() -> Result<String> {
    let mut metadata = Command::new(env!("CARGO"));
    let text =
        output(metadata.args(["metadata", "--format-version", "1", "--locked"]).current_dir(workspace()))?;
    let metadata: Value = serde_json::from_str(&text)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    let package = |package: &Value| {
        let (name, version) =
            (package["name"].as_str().unwrap_or_default(), package["version"].as_str().unwrap_or_default());
        json!({
            "SPDXID": format!("SPDXRef-{name}-{version}").replace(['_', '+'], "-"),
            "name": name,
            "versionInfo": version,
            "downloadLocation": package["repository"].as_str().unwrap_or("NOASSERTION"),
            "licenseDeclared": package["license"].as_str().map_or("NOASSERTION".into(), |it| it.replace('/', " OR ")),
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": format!("pkg:cargo/{name}@{version}"),
            }],
        })
    };
    let mut listed: Vec<Value> = packages.iter().map(package).collect();
    listed.sort_by_key(|package| package["SPDXID"].to_string());
    let bill = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": "patchbay",
        "documentNamespace": format!("https://patchbay.dev/spdx/{}", env!("CARGO_PKG_VERSION")),
        "creationInfo": {"created": "1970-01-01T00:00:00Z", "creators": ["Tool: cargo-xtask-image"]},
        "packages": listed,
    });
    Ok(serde_json::to_string_pretty(&bill)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_give_the_same_image() {
        let folder = std::env::temp_dir().join(format!("patchbay-image-{}", std::process::id()));
        let shell = [(PathBuf::from("/bin/sh"), "usr/bin/sh".to_owned())];
        let digests = ["a", "b"].map(|name| {
            let content = Content::of(&shell).expect("every machine has a shell");
            write(&folder.join(name), "localhost/shell:1", &content, &json!({})).expect("written");
            fs::read_to_string(folder.join(name).join("shell/index.json")).expect("written")
        });
        let _ = fs::remove_dir_all(&folder);
        assert_eq!(digests[0], digests[1]);
        assert!(digests[0].contains("localhost/shell:1"));
    }
}
