//! An HTTPS stand-in for the Claude Messages API. It keeps no conversations: what it answers follows
//! from the request and the seed; only ids are numbered, so that none is repeated.

mod answer;
mod certificates;
mod log;

use anyhow::{Context, Result};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use axum_server::tls_openssl::{OpenSSLAcceptor, OpenSSLConfig};
use clap::Parser;
use serde_json::{json, Value};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// The largest request taken.
const MAX_BODY: usize = 32 * 1024 * 1024;

#[derive(Parser)]
#[command(version, about = "An HTTPS stand-in for the Claude Messages API")]
struct Cli {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Where to write the certificate of the authority, PEM
    #[arg(long)]
    ca_out: PathBuf,

    /// Where to write the port, once it listens
    #[arg(long)]
    port_file: Option<PathBuf>,

    /// Where to log the requests served, as JSON lines
    #[arg(long)]
    log: Option<PathBuf>,

    /// Another seed gives other answers
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// After how many turns with tools a conversation ends
    #[arg(long, default_value_t = 4)]
    tools: usize,

    /// How long an answer takes: MIN..MAX, in milliseconds
    #[arg(long, default_value = "20..120", value_parser = parse_range)]
    latency_ms: (u64, u64),
}

struct Standin {
    seed: u64,
    tool_turns: usize,
    latency_ms: (u64, u64),
    /// How many answers were given.
    answers: AtomicU64,
    log: log::Log,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Cli { listen, ca_out, port_file, log, seed, tools, latency_ms } = Cli::parse();
    let issued = certificates::issue()?;
    publish(&ca_out, &issued.authority_pem)?;
    let tls = OpenSSLConfig::try_from(issued.acceptor()?)?;
    let standin = Arc::new(Standin {
        seed,
        tool_turns: tools,
        latency_ms,
        answers: AtomicU64::new(0),
        log: log::Log::create(log.as_deref())?,
    });
    let router = Router::new()
        .route("/v1/messages", post(create_message))
        .fallback(not_found)
        .with_state(standin);

    let listener = TcpListener::bind(listen).with_context(|| format!("listening on {listen}"))?;
    let address = listener.local_addr()?;
    if let Some(file) = port_file {
        publish(&file, &address.port().to_string())?;
    }
    println!("https://localhost:{}/v1", address.port());
    axum_server::from_tcp(listener)
        .acceptor(OpenSSLAcceptor::new(tls))
        .serve(router.into_make_service())
        .await
        .context("serving")
}

async fn create_message(State(standin): State<Arc<Standin>>, request: Request) -> Response {
    let mut entry = standin.log.begin(request.uri().path());
    let body = match axum::body::to_bytes(request.into_body(), MAX_BODY).await {
        Ok(body) => body,
        Err(error) => return refuse(&mut entry, StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let request: Value = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return refuse(&mut entry, StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let question = answer::Question::read(&request, standin.seed);
    question.model.clone_into(&mut entry.model);
    let (min, max) = standin.latency_ms;
    let latency = min + question.random(0, max.saturating_sub(min) + 1);
    tokio::time::sleep(Duration::from_millis(latency)).await;
    if question.has_marker("overloaded") {
        let overloaded = StatusCode::from_u16(529).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        return refuse(&mut entry, overloaded, "Overloaded");
    }
    let answer =
        question.answer(standin.tool_turns, standin.answers.fetch_add(1, Ordering::Relaxed));
    entry.answered(&answer);
    Json(answer).into_response()
}

async fn not_found(State(standin): State<Arc<Standin>>, request: Request) -> Response {
    let mut entry = standin.log.begin(request.uri().path());
    refuse(&mut entry, StatusCode::NOT_FOUND, "no such endpoint")
}

fn refuse(entry: &mut log::Entry<'_>, status: StatusCode, message: &str) -> Response {
    entry.status = status.as_u16();
    let kind = match status.as_u16() {
        529 => "overloaded_error",
        404 => "not_found_error",
        _ => "invalid_request_error",
    };
    let error = json!({"type": "error", "error": {"type": kind, "message": message}});
    (status, Json(error)).into_response()
}

/// Writes a file so that whoever waits for it never sees half of it.
fn publish(file: &Path, content: &str) -> Result<()> {
    let part = file.with_extension("part");
    std::fs::write(&part, content)
        .and_then(|()| std::fs::rename(&part, file))
        .with_context(|| format!("writing {}", file.display()))
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let (min, max) = text.split_once("..").ok_or("expected MIN..MAX")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let (min, max) = (number(min)?, number(max)?);
    if min > max {
        return Err(format!("{min} is more than {max}"));
    }
    Ok((min, max))
}
