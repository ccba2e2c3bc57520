//! Spans at a steady rate to an endpoint that fails for a while: what arrives, and what it costs.
//! `cargo xtask soak outage` runs it; it also shows how the exporter is used alone.
//!
//! Prints one JSON object; the exit status says whether every span arrived.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use tracer::export::{
    Endpoint, ExportOptions, ExportStats, Exporter, Limits, ResourceInfo, Sender, SpoolConfig,
};
use tracer::plan::TargetMeta;
use tracer::span::{ClockAnchor, MonoNs, Outcome, Span, SpanId, SpanKind, TraceId, Value};

type Error = Box<dyn std::error::Error>;

/// How the endpoint fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Killed,
    Hanging,
    Status(&'static str),
    Garbage,
}

impl Fault {
    fn parse(word: &str) -> Result<Self, Error> {
        Ok(match word {
            "killed" => Self::Killed,
            "hanging" => Self::Hanging,
            "429" => Self::Status("429 Too Many Requests\r\nretry-after: 2"),
            "503" => Self::Status("503 Service Unavailable"),
            "400" => Self::Status("400 Bad Request"),
            "garbage" => Self::Garbage,
            _ => {
                return Err(
                    format!("{word}: not one of killed, hanging, 429, 503, 400, garbage").into()
                );
            }
        })
    }
}

/// What arrived: every span's id is its number.
#[derive(Default)]
struct Arrived {
    seen: Mutex<Vec<u64>>,
    distinct: AtomicU64,
    twice: AtomicU64,
}

impl Arrived {
    fn span(&self, number: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if seen.len() <= word {
            seen.resize(word + 1, 0);
        }
        let counter = if seen[word] & bit == 0 { &self.distinct } else { &self.twice };
        counter.fetch_add(1, Relaxed);
        seen[word] |= bit;
    }
}

/// An endpoint that can be told to fail.
struct Target {
    address: SocketAddr,
    arrived: Arc<Arrived>,
    fault: Arc<Mutex<Fault>>,
    running: Option<Running>,
}

struct Running {
    stop: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    thread: thread::JoinHandle<()>,
}

impl Target {
    fn start() -> Result<Self, Error> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let fault = Arc::new(Mutex::new(Fault::None));
        let mut this = Self { address, arrived: Arc::default(), fault, running: None };
        this.listen()?;
        Ok(this)
    }

    fn listen(&mut self) -> Result<(), Error> {
        let listener = TcpListener::bind(self.address)?;
        let stop = Arc::new(AtomicBool::new(false));
        let connections: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let (fault, arrived) = (Arc::clone(&self.fault), Arc::clone(&self.arrived));
        let (stopped, open) = (Arc::clone(&stop), Arc::clone(&connections));
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Relaxed) {
                    return;
                }
                if let (Ok(mut open), Ok(clone)) = (open.lock(), stream.try_clone()) {
                    open.push(clone);
                }
                let (fault, arrived) = (Arc::clone(&fault), Arc::clone(&arrived));
                thread::spawn(move || serve(stream, &fault, &arrived));
            }
        });
        self.running = Some(Running { stop, connections, thread });
        Ok(())
    }

    fn fail(&mut self, fault: Fault) -> Result<(), Error> {
        if let Ok(mut current) = self.fault.lock() {
            *current = fault;
        }
        match (fault, self.running.take()) {
            (Fault::Killed, Some(Running { stop, connections, thread })) => {
                stop.store(true, Relaxed);
                let _ = TcpStream::connect(self.address);
                let _ = thread.join();
                for connection in connections.lock().map_err(|_| "lock")?.drain(..) {
                    let _ = connection.shutdown(Shutdown::Both);
                }
                Ok(())
            }
            (Fault::Killed, None) => Ok(()),
            (_, None) => self.listen(),
            (_, running) => {
                self.running = running;
                Ok(())
            }
        }
    }
}

fn serve(mut stream: TcpStream, fault: &Mutex<Fault>, arrived: &Arrived) {
    let mut data = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    while let Ok(n @ 1..) = stream.read(&mut chunk) {
        data.extend_from_slice(&chunk[..n]);
        let Some(end) = data.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&data[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let Some(length) = length.and_then(|text| text.trim().parse::<usize>().ok()) else {
            return;
        };
        if data.len() < end + 4 + length {
            continue;
        }
        let body: Vec<u8> = data.drain(..end + 4 + length).skip(end + 4).collect();
        let now = fault.lock().map_or(Fault::None, |fault| *fault);
        let answer = match now {
            Fault::None | Fault::Killed => {
                let Ok(request) = ExportTraceServiceRequest::decode(&*body) else { return };
                let scopes = request.resource_spans.iter().flat_map(|one| &one.scope_spans);
                for span in scopes.flat_map(|scope| &scope.spans) {
                    if let Ok(id) = <[u8; 8]>::try_from(&*span.span_id) {
                        arrived.span(u64::from_be_bytes(id));
                    }
                }
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned()
            }
            Fault::Hanging => continue,
            Fault::Status(status) => format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"),
            Fault::Garbage => "220 mail.example ESMTP\r\n\r\n".to_owned(),
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

struct Args {
    rate: u64,
    outage: Duration,
    fault: Fault,
    restart: bool,
    dir: PathBuf,
}

fn args() -> Result<Args, Error> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [rate, seconds, fault, restart, dir] = &words[..] else {
        return Err("usage: outage RATE SECONDS FAULT RESTART(true|false) DIR".into());
    };
    Ok(Args {
        rate: rate.parse()?,
        outage: Duration::from_secs(seconds.parse()?),
        fault: Fault::parse(fault)?,
        restart: restart.parse()?,
        dir: dir.into(),
    })
}

fn main() -> ExitCode {
    match args().and_then(|args| run(&args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn start(to: &Endpoint, dir: &Path) -> Result<(Exporter, Sender), Error> {
    let spool = SpoolConfig { dir: dir.join("spool"), max_bytes: 1 << 30 };
    let options = ExportOptions { limits: Limits::default(), spool: Some(spool) };
    let exporter = Exporter::start(to.clone(), options)?;
    let target = TargetMeta { pid: 1, executable: "/bin/load".into(), build_id: None };
    let sender = exporter.sender(&ResourceInfo::local(None, target), ClockAnchor::now());
    Ok((exporter, sender))
}

fn run(args: &Args) -> Result<bool, Error> {
    let mut endpoint = Target::start()?;
    let url = format!("http://{}/v1/traces", endpoint.address);
    let to = Endpoint::otlp(Some(&url), None, |_| None)?;
    let (mut exporter, mut sender) = start(&to, &args.dir)?;
    let healthy = Duration::from_secs(5);
    let (down, up) = (healthy, healthy + args.outage);
    let end = up + healthy;
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let mut restart_at = args.restart.then_some(down + args.outage / 2);
    let (mut number, mut state, mut peaks) = (0_u64, 0, Peaks::default());
    let mut before = ExportStats::default();
    loop {
        let at = began.elapsed();
        match state {
            0 if at >= down => {
                endpoint.fail(args.fault)?;
                state = 1;
            }
            1 if at >= up => {
                endpoint.fail(Fault::None)?;
                state = 2;
            }
            _ => {}
        }
        if restart_at.is_some_and(|restart| at >= restart) {
            restart_at = None;
            before = exporter.shutdown(Duration::from_millis(100));
            (exporter, sender) = start(&to, &args.dir)?;
        }
        if at >= end {
            break;
        }
        let due = (at.as_secs_f64() * args.rate as f64) as u64;
        while number < due {
            number += 1;
            sender.send(&span(number));
        }
        peaks.look(&exporter.stats(), &args.dir);
        thread::sleep(Duration::from_millis(5));
    }
    // A refused batch is gone for good; everything else drains.
    let drained = Instant::now();
    while exporter.stats().spooled + exporter.stats().waiting() > 0
        && drained.elapsed() < Duration::from_secs(120)
    {
        thread::sleep(Duration::from_millis(10));
    }
    let drain = drained.elapsed();
    let stats = exporter.shutdown(Duration::from_secs(5));
    let distinct = endpoint.arrived.distinct.load(Relaxed);
    let twice = endpoint.arrived.twice.load(Relaxed);
    let lost = stats.lost() + before.lost();
    let accounted = distinct + lost == number;
    let expected_loss = args.fault == Fault::Status("400 Bad Request");
    let good = accounted && stats.spooled == 0 && (lost == 0 || expected_loss);
    let drops: Vec<String> = stats
        .dropped
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("\"{name}\":{count}"))
        .collect();
    println!(
        "{{\"sent\":{number},\"arrived\":{distinct},\"arrived_twice\":{twice},\"lost\":{lost},\
         \"drops\":{{{}}},\"retries\":{},\"spool_peak_bytes\":{},\"spool_peak_spans\":{},\
         \"drain_seconds\":{:.1},\"cpu_us_per_span\":{:.1},\"rss_peak_kib\":{},\"ok\":{good}}}",
        drops.join(","),
        stats.retries,
        peaks.bytes,
        peaks.spans,
        drain.as_secs_f64(),
        (cpu_seconds() - cpu) * 1e6 / number.max(1) as f64,
        peak_rss_kib(),
    );
    Ok(good)
}

#[derive(Default)]
struct Peaks {
    spans: u64,
    bytes: u64,
    looked: Option<Instant>,
}

impl Peaks {
    fn look(&mut self, stats: &ExportStats, dir: &Path) {
        self.spans = self.spans.max(stats.spooled);
        if self.looked.is_some_and(|at| at.elapsed() < Duration::from_millis(500)) {
            return;
        }
        self.looked = Some(Instant::now());
        let files = std::fs::read_dir(dir.join("spool")).into_iter().flatten().flatten();
        let bytes = files.filter_map(|file| file.metadata().ok()).map(|data| data.len()).sum();
        self.bytes = self.bytes.max(bytes);
    }
}

/// One that looks like a real one, with what an agent's tools say.
fn span(number: u64) -> Span {
    let now = MonoNs(number * 1_000_000);
    Span {
        trace_id: TraceId(u128::from(number / 20 + 1) << 64 | 1),
        span_id: SpanId(number),
        parent_id: (!number.is_multiple_of(20))
            .then_some(SpanId(number / 20 * 20))
            .filter(|p| p.0 > 0),
        name: "tool_call".into(),
        function: "orchestrate_claude::tools::ToolExecutor::execute".into(),
        kind: SpanKind::Internal,
        start: now,
        end: Some(MonoNs(now.0 + 250_000)),
        start_is_late: false,
        outcome: Outcome::Returned,
        orphan: None,
        thread_id: 4242,
        address: 0x7fff_0000_1000,
        polls: Some(3),
        busy_ns: Some(120_000),
        attributes: vec![
            ("tool_name".to_owned(), Value::from("bash")),
            ("gen_ai.operation.name".to_owned(), Value::from("execute_tool")),
            ("gen_ai.tool.name".to_owned(), Value::from("bash")),
        ],
        events: vec![],
    }
}

/// User and system time of this process, the generator and the endpoint included.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / 100.0
}

fn peak_rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
