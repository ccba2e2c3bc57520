//! A real Jaeger, and a real OpenTelemetry Collector in front of it: one program, built from
//! `tests/interop`.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::harness::{Process, wait_for};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::sh;

/// The package in the module `tests/interop`.
const PACKAGE: &str = "github.com/jaegertracing/jaeger/cmd/jaeger";

/// Both are up within a second or two; a machine under load takes longer.
const START: Duration = Duration::from_secs(60);

/// Builds it, unless it has been built from the same module.
///
/// # Errors
/// Go is missing, or the build fails.
pub fn build() -> Result<PathBuf> {
    let module = sh::root().join("tests/interop");
    let mut hash = Sha256::new();
    for name in ["go.mod", "go.sum"] {
        hash.update(fs::read(module.join(name)).with_context(|| format!("tests/interop/{name}"))?);
    }
    let version = format!("{:x}", hash.finalize());
    let dir = sh::target_dir().join("interop");
    let (program, stamp) = (dir.join("jaeger"), dir.join("jaeger.version"));
    if program.exists() && fs::read_to_string(&stamp).is_ok_and(|built| built == version) {
        return Ok(program);
    }
    let go = sh::output(Command::new("go").arg("version")).context(
        "interop builds Jaeger from the Go module proxy: install Go 1.25 or later \
         (https://go.dev/dl), or put it on the PATH",
    )?;
    sh::say(format_args!("building Jaeger with {go}; the first time takes some minutes"));
    fs::create_dir_all(&dir)?;
    sh::run(
        Command::new("go")
            .current_dir(&module)
            .args(["build", "-trimpath", "-ldflags=-s -w", "-o"])
            .arg(&program)
            .arg(PACKAGE),
    )?;
    fs::write(stamp, version)?;
    Ok(program)
}

/// Where something receives spans.
#[derive(Clone, Debug)]
pub struct Receivers {
    /// OTLP by gRPC.
    pub otlp_grpc: String,
    /// OTLP by HTTP.
    pub otlp_http: String,
    /// Jaeger's Thrift by HTTP.
    pub thrift: String,
}

impl Receivers {
    fn choose() -> Result<Self> {
        Ok(Self { otlp_grpc: address()?, otlp_http: address()?, thrift: address()? })
    }

    fn tell(&self, command: &mut Command) {
        let Self { otlp_grpc, otlp_http, thrift } = self;
        command
            .env("OTLP_GRPC", otlp_grpc)
            .env("OTLP_HTTP", otlp_http)
            .env("JAEGER_THRIFT", thrift);
    }
}

/// An address that nobody uses now.
fn address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// A Jaeger that keeps everything in memory.
#[derive(Debug)]
pub struct Jaeger {
    /// Where it listens.
    pub receivers: Receivers,
    query: String,
    _process: Process,
}

impl Jaeger {
    /// Starts it and waits until it can be asked.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(program: &Path, dir: &Path) -> Result<Self> {
        let receivers = Receivers::choose()?;
        let query = address()?;
        let mut command = Command::new(program);
        command.arg("--config").arg(sh::root().join("tests/interop/jaeger.yaml"));
        receivers.tell(&mut command);
        command.env("QUERY_HTTP", &query).env("QUERY_GRPC", address()?);
        let mut process = Process::start(&mut command, "jaeger", dir)?;
        process.wait_until("Jaeger's API", START, |_| Ok(get(&query, "/api/services").ok()))?;
        up(&mut process, &receivers)?;
        Ok(Self { receivers, query, _process: process })
    }

    /// Everything that it has of a service, as its API gives it: a list of traces.
    ///
    /// # Errors
    /// It does not answer.
    pub fn traces(&self, service: &str) -> Result<Vec<Value>> {
        let path = format!("/api/traces?service={service}&limit=100000&lookback=2h");
        let answer: Value = serde_json::from_str(&get(&self.query, &path)?)?;
        match answer.get("data") {
            Some(Value::Array(traces)) => Ok(traces.clone()),
            _ => Ok(vec![]),
        }
    }
}

/// A Collector with the configuration that we ship.
#[derive(Debug)]
pub struct Collector {
    /// Where it listens.
    pub receivers: Receivers,
    prometheus: String,
    _process: Process,
}

impl Collector {
    /// Starts one that sends `percentage` of all traces to `jaeger`, and waits until it is up.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(program: &Path, jaeger: &Jaeger, percentage: u8, dir: &Path) -> Result<Self> {
        let receivers = Receivers::choose()?;
        let prometheus = address()?;
        let mut command = Command::new(program);
        command.arg("--config").arg(sh::root().join("packaging/otel-collector.yaml"));
        receivers.tell(&mut command);
        command
            .env("JAEGER", &jaeger.receivers.otlp_grpc)
            .env("PROMETHEUS", &prometheus)
            .env("DECISION_WAIT", "5s")
            .env("METRICS_FLUSH", "1s")
            .env("SAMPLING_PERCENTAGE", percentage.to_string())
            .env("OWN_METRICS", "none");
        let name = format!("collector-{percentage}");
        let mut process = Process::start(&mut command, &name, dir)?;
        up(&mut process, &receivers)?;
        Ok(Self { receivers, prometheus, _process: process })
    }

    /// How many spans of a service it has counted, before sampling.
    ///
    /// # Errors
    /// It does not answer.
    pub fn counted(&self, service: &str) -> Result<u64> {
        let label = format!("service_name=\"{service}\"");
        let text = get(&self.prometheus, "/metrics")?;
        let calls = text.lines().filter(|line| {
            line.starts_with("traces_span_metrics_calls_total{") && line.contains(&label)
        });
        let values = calls.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum::<f64>() as u64)
    }
}

fn up(process: &mut Process, receivers: &Receivers) -> Result<()> {
    let Receivers { otlp_grpc, otlp_http, thrift } = receivers;
    for address in [otlp_grpc, otlp_http, thrift] {
        process.wait_until(&format!("a listener on {address}"), START, |_| {
            Ok(TcpStream::connect(address).ok().map(drop))
        })?;
    }
    Ok(())
}

/// The body of the answer. HTTP/1.0, so that it comes in one piece.
fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 "), "{address}{path}: {status}");
    Ok(body.to_owned())
}

/// Asks until there are as many spans as there should be, or fails saying how many there are.
///
/// # Errors
/// Jaeger does not answer, or the spans do not come.
pub fn wait_for_spans(jaeger: &Jaeger, service: &str, expected: usize) -> Result<Vec<Value>> {
    let mut last = 0;
    let found = wait_for("spans in Jaeger", Duration::from_secs(45), || {
        let traces = jaeger.traces(service)?;
        last = traces.iter().map(|trace| spans_of(trace).len()).sum();
        Ok((last >= expected).then_some(traces))
    });
    match found {
        Ok(traces) => Ok(traces),
        Err(error) => bail!("{error:#}: {last} of {expected} spans of {service}"),
    }
}

/// The spans of a trace as the API gives it.
pub fn spans_of(trace: &Value) -> &[Value] {
    trace.get("spans").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
