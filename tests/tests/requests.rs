//! Requests of the miniature orchestrate: calls of the model, requests made and served, against
//! what both ends saw.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;

use anyhow::{Context, Result, ensure};
use e2e::harness::{Attach, Mini, MiniOptions, PATIENCE, Scene, Standin};
use e2e::requests;
use e2e::trace::{Span, Trace};

struct Run {
    trace: Trace,
    log: String,
    record: String,
}

/// Runs the miniature under the tracer; `meanwhile` gets the port of its web API.
fn run(options: &MiniOptions, meanwhile: impl FnOnce(u16) -> Result<()>) -> Result<Run> {
    let scene = Scene::new()?;
    let standin = Standin::start(&scene.programs, scene.dir())?;
    let mut mini = Mini::start(&scene.programs, &standin, options, scene.dir())?;
    let mut tracer = Attach::default().start(&scene.programs, mini.pid(), "tracer", scene.dir())?;
    meanwhile(mini.port())?;
    mini.open()?;
    mini.process.succeed(PATIENCE)?;
    let trace = tracer.finish()?;
    let lost = trace.summary()?.lost();
    ensure!(lost.is_empty(), "{lost:?}");
    Ok(Run { trace, log: fs::read_to_string(standin.log())?, record: mini.record()? })
}

/// A connection that is kept.
struct Connection(TcpStream);

impl Connection {
    fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    fn send(&mut self, request: &str) -> Result<()> {
        Ok(self.0.write_all(request.as_bytes())?)
    }

    /// Reads one response; its status.
    fn receive(&mut self) -> Result<u16> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head)?.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
        let mut body = vec![0; length.map_or(Ok(0), str::parse)?];
        self.0.read_exact(&mut body)?;
        let status = head.split(' ').nth(1).context("a status")?;
        Ok(status.parse()?)
    }

    fn ask(&mut self, method: &str, path: &str, headers: &str, body: &str) -> Result<u16> {
        let length = body.len();
        self.send(&format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\
             Content-Type: application/json\r\n\r\n{body}"
        ))?;
        self.receive()
    }
}

fn served(trace: &Trace) -> impl Iterator<Item = &Span> {
    trace.spans.iter().filter(|span| span.name == "http_request" && span.kind == "server")
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn every_model_call_says_what_the_api_saw() -> Result<()> {
    let options = MiniOptions { agents: 8, concurrency: 4, ..MiniOptions::default() };
    let run = run(&options, |_| Ok(()))?;
    ensure!(run.log.lines().count() > 20, "{}", run.log);
    let differs = requests::model_calls(&run.log, &run.trace)?;
    ensure!(differs.is_empty(), "{differs:#?}");
    Ok(())
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn calls_that_are_refused_say_so() -> Result<()> {
    let options = MiniOptions { agents: 5, mix: "faults".into(), ..MiniOptions::default() };
    let run = run(&options, |_| Ok(()))?;
    let differs = requests::model_calls(&run.log, &run.trace)?;
    ensure!(differs.is_empty(), "{differs:#?}");
    let refused = run.trace.spans.iter().filter(|span| {
        let status = span.attributes.get("http.response.status_code");
        span.name == "api_call" && status.is_some_and(|status| *status == 529)
    });
    let wrong = |span: &&Span| span.outcome != "error" || span.attributes["error.type"] != "529";
    ensure!(refused.clone().count() > 0 && !refused.clone().any(|span| wrong(&span)));
    Ok(())
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn requests_served_and_made_are_those_of_the_record() -> Result<()> {
    let run = run(&MiniOptions::default(), |port| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                thread::spawn(move || -> Result<()> {
                    let mut connection = Connection::open(port)?;
                    for turn in 0..10 {
                        let path = ["/api/status", "/api/health", "/api/agents?limit=2&q=secret"]
                            [(client + turn) % 3];
                        ensure!(connection.ask("GET", path, "", "")? == 200);
                    }
                    ensure!(connection.ask("GET", "/nothing", "", "")? == 404);
                    ensure!(connection.ask("GET", "/api/agents/none", "", "")? == 400);
                    let agent = r#"{"agent_type": "none", "task": "secret"}"#;
                    ensure!(connection.ask("POST", "/api/agents", "", agent)? == 400);
                    Ok(())
                })
            })
            .collect();
        for client in clients {
            client.join().ok().context("a client panicked")??;
        }
        Ok(())
    })?;
    let differs = requests::http(&run.record, &run.trace)?;
    ensure!(differs.is_empty(), "{differs:#?}");
    ensure!(served(&run.trace).count() >= 4 * 13, "{}", served(&run.trace).count());
    let orphans = run.trace.spans.iter().filter(|span| span.is_orphan()).count();
    ensure!(orphans == 0, "{orphans} orphans");
    Ok(())
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn the_caller_s_context_is_taken_over() -> Result<()> {
    let (trace_id, caller) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let run = run(&MiniOptions::default(), |port| {
        let context = format!("traceparent: 00-{trace_id}-{caller}-01\r\n");
        let status = Connection::open(port)?.ask("GET", "/api/status", &context, "")?;
        ensure!(status == 200);
        Ok(())
    })?;
    let of_it: Vec<&Span> = run.trace.spans.iter().filter(|s| s.trace_id == trace_id).collect();
    let request = of_it.iter().find(|span| span.name == "http_request").context("the request")?;
    ensure!(request.parent_id.as_deref() == Some(caller), "{request:?}");
    let queries = of_it.iter().filter(|span| span.name == "database_query");
    ensure!(queries.clone().count() >= 4, "{of_it:#?}");
    ensure!(of_it.iter().all(|span| span.parent_id.is_some()), "{of_it:#?}");
    Ok(())
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn what_is_pipelined_has_no_wrong_parent() -> Result<()> {
    let run = run(&MiniOptions::default(), |port| {
        let mut connection = Connection::open(port)?;
        let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        connection.send(&(request("/api/health") + &request("/api/status")))?;
        ensure!(connection.receive()? == 200 && connection.receive()? == 200);
        Ok(())
    })?;
    let (_, children) = run.trace.children();
    let health = run.trace.spans.iter().position(|span| {
        span.kind == "server" && span.attributes.get("path").is_some_and(|p| p == "/api/health")
    });
    let health = health.context("the first request")?;
    // Its handler asks for nothing; the other one's does.
    ensure!(children[health].is_empty(), "{:#?}", run.trace.spans[children[health][0]]);
    Ok(())
}

#[test]
#[ignore = "needs root and eBPF: cargo xtask test"]
fn requests_served_over_tls_are_seen_too() -> Result<()> {
    let scene = Scene::new()?;
    let standin = Standin::start(&scene.programs, scene.dir())?;
    let options = MiniOptions { agents: 3, ..MiniOptions::default() };
    let mut mini = Mini::start(&scene.programs, &standin, &options, scene.dir())?;
    let pid = standin.process.pid();
    let mut tracer = Attach::default().start(&scene.programs, pid, "tracer", scene.dir())?;
    mini.open()?;
    mini.process.succeed(PATIENCE)?;
    let trace = tracer.stop()?;
    let log = fs::read_to_string(standin.log())?;
    let asked = log.lines().count();
    ensure!(asked > 5, "{log}");
    let good = served(&trace).filter(|span| {
        let is = |key: &str, value: &str| span.attributes.get(key).is_some_and(|v| *v == value);
        is("method", "POST")
            && is("path", "/v1/messages")
            && span.attributes.get("status").is_some_and(|status| *status == 200)
    });
    ensure!(good.count() == asked && served(&trace).count() == asked, "{:#?}", trace.spans);
    Ok(())
}
