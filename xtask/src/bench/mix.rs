//! `mix`: a miniature orchestrate that answers requests, traced and untraced by turns.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use e2e::harness::{Mini, MiniOptions, Standin};

use super::Bench;
use super::stats::{Figure, Samples};
use super::tracers::Ours;

const CONNECTIONS: usize = 4;
const TIME: Duration = Duration::from_secs(3);

/// Each request reads the list of agents from SQLite.
const PATH: &str = "/api/agents?limit=10";

/// Requests that were answered, and how long each took.
struct Answers {
    per_second: f64,
    latencies: Vec<Duration>,
}

/// Measures.
///
/// # Errors
/// Something does not run, or answers with an error.
pub fn run(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let standin = Standin::start(&bench.programs, bench.dir)?;
    let options = MiniOptions { agents: 6, concurrency: 3, stay: true, ..MiniOptions::default() };
    let mini = Mini::start(&bench.programs, &standin, &options, bench.dir)?;
    mini.open()?;
    let port = fs::read_to_string(bench.dir.join("mini.port"))?;
    let port: u16 = port.trim().parse().context("its port")?;
    // Agents are done, caches are warm.
    load(port)?;
    load(port)?;
    let mut samples = vec![[Samples::default(), Samples::default(), Samples::default()]; 2];
    let mut spans = Samples::default();
    for _ in 0..bench.rounds {
        push(&mut samples[0], load(port)?);
        let ours = Ours::attach(&bench.programs, mini.pid(), &[], &[], bench.dir)?;
        let answers = load(port);
        let account = ours.finish()?;
        account.must_be_whole()?;
        let answers = answers?;
        spans.push(account.number("spans")? as f64 / answers.latencies.len() as f64);
        push(&mut samples[1], answers);
    }
    let mut figures = vec![];
    let what = [("requests", "1/s"), ("p50", "µs"), ("p99", "µs")];
    for (at, (name, unit)) in what.into_iter().enumerate() {
        let (without, with) = (&samples[0][at], &samples[1][at]);
        figures.push(Figure::new(format!("{name}, untraced"), unit, without));
        figures.push(Figure::new(format!("{name}, traced"), unit, with));
        figures.push(Figure::new(format!("{name}: traced / untraced"), "×", &with.per(without)));
    }
    figures.push(Figure::new("spans of a request", "", &spans));
    Ok(figures)
}

fn push(to: &mut [Samples; 3], answers: Answers) {
    let Answers { per_second, mut latencies } = answers;
    latencies.sort_unstable();
    let at = |percent: usize| {
        let place = latencies.len().saturating_sub(1) * percent / 100;
        latencies.get(place).map_or(0.0, |latency| latency.as_nanos() as f64 / 1000.0)
    };
    to[0].push(per_second);
    to[1].push(at(50));
    to[2].push(at(99));
}

/// Asks as fast as it is answered, over a few connections.
fn load(port: u16) -> Result<Answers> {
    let began = Instant::now();
    let clients: Vec<_> =
        (0..CONNECTIONS).map(|_| std::thread::spawn(move || client(port, began + TIME))).collect();
    let mut latencies = vec![];
    for client in clients {
        latencies.extend(client.join().ok().context("a client panicked")??);
    }
    let per_second = latencies.len() as f64 / began.elapsed().as_secs_f64();
    Ok(Answers { per_second, latencies })
}

fn client(port: u16, until: Instant) -> Result<Vec<Duration>> {
    let connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_nodelay(true)?;
    let mut from = BufReader::new(connection.try_clone()?);
    let mut to = connection;
    let mut latencies = vec![];
    let mut body = vec![];
    while Instant::now() < until {
        let began = Instant::now();
        write!(to, "GET {PATH} HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
        let (mut length, mut line) = (0, String::new());
        from.read_line(&mut line)?;
        if !line.contains(" 200 ") {
            bail!("it answers {line:?}");
        }
        loop {
            line.clear();
            from.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().context("the length of an answer")?;
            }
        }
        body.resize(length, 0);
        from.read_exact(&mut body)?;
        latencies.push(began.elapsed());
    }
    Ok(latencies)
}
