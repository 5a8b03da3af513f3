//! nginx under wrk (HTTP/1.1), nghttpd under h2load (HTTP/2).

use std::fs;

use anyhow::{Context as _, Result};

use super::{MEAN, Read, RealProgram, usual};
use crate::case::Bench;
use crate::lab::{Place, Program, Role};
use crate::sample::metrics::{P50, P99};

/// Size of the answer, in bytes.
const BODY: usize = 1024;

/// nginx under wrk.
pub struct Wrk;

impl RealProgram for Wrk {
    fn name(&self) -> &'static str {
        "wrk-nginx"
    }

    fn about(&self) -> String {
        "wrk to nginx: a file of 1 KiB, 16 connections kept alive".into()
    }

    fn is_quick(&self) -> bool {
        true
    }

    fn server(&self, bench: &Bench<'_>, port: u16) -> Result<Program> {
        let folder = bench.lab.folder().join("wrk");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("file"), "x".repeat(BODY))?;
        let configuration = folder.join("nginx.conf");
        fs::write(
            &configuration,
            format!(
                "daemon off;\nworker_processes 1;\nuser root;\npid {folder}/pid;\nerror_log {folder}/error.log;\n\
                 events {{ worker_connections 1024; }}\nhttp {{ access_log off; keepalive_requests 10000000; \
                 server {{ listen {port}; root {folder}; }} }}\n",
                folder = folder.display()
            ),
        )?;
        let program = bench.lab.program(Role::Destination, Place::Loopback, "nginx");
        Ok(program.arg("-p").arg(&folder).arg("-c").arg(&configuration))
    }

    fn client(&self, bench: &Bench<'_>, port: u16) -> Result<Program> {
        let seconds = self.lasts(&bench.pace).as_secs();
        let program = bench.lab.program(Role::Source, Place::Loopback, "wrk");
        Ok(program
            .args(["-t1", "-c16", &format!("-d{seconds}s"), "--latency"])
            .arg(format!("http://127.0.0.1:{port}/file")))
    }

    fn read(&self, output: &str) -> Result<Read> {
        let after = |name: &str| {
            let line = output.lines().map(str::trim).find(|line| line.starts_with(name));
            line.and_then(|line| line.strip_prefix(name))
                .map(str::trim)
                .with_context(|| format!("no `{name}`"))
        };
        let rate: f64 = after("Requests/sec:")?.parse()?;
        let (p50, p99) = (seconds(after("50%")?)?, seconds(after("99%")?)?);
        // "  123456 requests in 1.00s, 150.00MB read"
        let line = output.lines().find(|line| line.contains(" requests in ")).context("no count")?;
        let requests = line.split_whitespace().next().context("a count")?.parse()?;
        if let Some(errors) =
            output.lines().find(|line| line.contains("Socket errors") || line.contains("Non-2xx"))
        {
            anyhow::bail!("{}", errors.trim());
        }
        Ok(Read { samples: usual(rate, &[(P50, p50), (P99, p99)]), requests })
    }
}

/// nghttpd under h2load.
pub struct H2load;

impl RealProgram for H2load {
    fn name(&self) -> &'static str {
        "h2load-nghttpd"
    }

    fn about(&self) -> String {
        "h2load to nghttpd: a file of 1 KiB, 8 connections of 10 streams, no TLS".into()
    }

    fn is_quick(&self) -> bool {
        false
    }

    fn server(&self, bench: &Bench<'_>, port: u16) -> Result<Program> {
        let folder = bench.lab.folder().join("h2load");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("file"), "x".repeat(BODY))?;
        let program = bench.lab.program(Role::Destination, Place::Loopback, "nghttpd");
        Ok(program.arg("--no-tls").arg("-d").arg(&folder).arg(port.to_string()))
    }

    fn client(&self, bench: &Bench<'_>, port: u16) -> Result<Program> {
        let requests = if bench.pace.full { "80000" } else { "20000" };
        let program = bench.lab.program(Role::Source, Place::Loopback, "h2load");
        Ok(program.args(["-n", requests, "-c", "8", "-m", "10"]).arg(format!("http://127.0.0.1:{port}/file")))
    }

    /// `finished in 1.05s, 19000.00 req/s, 19.5MB/s`, and under `time for request:` the mean as third value.
    fn read(&self, output: &str) -> Result<Read> {
        let line =
            output.lines().find(|line| line.starts_with("finished in")).context("it did not finish")?;
        let rate: f64 = line
            .split(", ")
            .nth(1)
            .and_then(|word| word.strip_suffix(" req/s"))
            .context("no rate")?
            .parse()?;
        let line = output.lines().find(|line| line.starts_with("requests:")).context("no count")?;
        let requests: f64 = line.split_whitespace().nth(1).context("a count")?.parse()?;
        if !line.contains(" 0 failed") {
            anyhow::bail!("{line}");
        }
        let line = output.lines().find(|line| line.starts_with("time for request:")).context("no times")?;
        let mean = seconds(line.split_whitespace().nth(5).context("a mean")?)?;
        Ok(Read { samples: usual(rate, &[(MEAN, mean)]), requests })
    }
}

/// A time as wrk and h2load print it, in seconds.
fn seconds(text: &str) -> Result<f64> {
    for (unit, factor) in [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)] {
        if let Some(value) = text.strip_suffix(unit) {
            return Ok(value.parse::<f64>().with_context(|| format!("`{text}` is no time"))? * factor);
        }
    }
    anyhow::bail!("`{text}` is no time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_clients_print_is_understood() {
        let wrk = "Running 1s test\n  Latency Distribution\n     50%  212.00us\n     99%    1.50ms\n  123456 requests in 1.00s, 150.00MB read\nRequests/sec: 122222.50\n";
        let read = Wrk.read(wrk).expect("understood");
        let values: Vec<f64> = read.samples.iter().map(|sample| sample.value).collect();
        assert_eq!((values[0], values[1].round(), read.requests), (122_222.5, 212_000.0, 123_456.0));
        let h2load = "finished in 1.05s, 19000.00 req/s, 19.50MB/s\nrequests: 20000 total, 20000 started, 20000 done, 20000 succeeded, 0 failed, 0 errored, 0 timeout\ntime for request:      100us      3.00ms       400us       50us    70.00%\n";
        let read = H2load.read(h2load).expect("understood");
        assert_eq!((read.samples[0].value, read.samples[1].value.round()), (19_000.0, 400_000.0));
    }
}
