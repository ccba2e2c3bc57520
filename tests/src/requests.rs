//! Holds the requests of a trace against what both ends wrote down: the stand-in for the Messages
//! API and the miniature orchestrate.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::trace::{Span, Trace};

/// What differs: what is traced and was not, and what was and is not traced, as often.
pub type Difference = BTreeMap<String, i64>;

fn differ<T: Debug>(known: impl Iterator<Item = T>, traced: impl Iterator<Item = T>) -> Difference {
    let mut all = Difference::new();
    for (what, by) in known.map(|k| (k, -1)).chain(traced.map(|t| (t, 1))) {
        *all.entry(format!("{what:?}")).or_default() += by;
    }
    all.retain(|_, by| *by != 0);
    all
}

fn lines<T: for<'a> Deserialize<'a>>(text: &str) -> Result<Vec<T>> {
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// A line of the stand-in's log.
#[derive(Deserialize)]
struct Served {
    path: String,
    model: String,
    input_tokens: i64,
    output_tokens: i64,
    cache_creation_input_tokens: i64,
    cache_read_input_tokens: i64,
    status: i64,
    id: Option<String>,
    stop_reason: Option<String>,
}

fn number(span: &Span, key: &str) -> Option<i64> {
    span.attributes.get(key).and_then(Value::as_i64)
}

fn text(span: &Span, key: &str) -> Option<String> {
    span.attributes.get(key).and_then(Value::as_str).map(str::to_owned)
}

/// Compares every attribute of every `api_call` with the stand-in's log. Nothing is missing and
/// nothing is wrong where this is empty. (Requests whose client went away before the answer are
/// left out.)
///
/// # Errors
/// `log` is no such log.
pub fn model_calls(log: &str, trace: &Trace) -> Result<Difference> {
    let served: Vec<Served> = lines(log)?;
    let known = served.into_iter().filter(|served| served.status != 0).map(|served| {
        let Served { path, model, status, id, stop_reason, .. } = served;
        let answered = |tokens: i64| (status == 200).then_some(tokens);
        let input = answered(served.input_tokens);
        let output = answered(served.output_tokens);
        let (creation, read) = (
            answered(served.cache_creation_input_tokens),
            answered(served.cache_read_input_tokens),
        );
        let total = input.map(|n| n + creation.unwrap_or(0) + read.unwrap_or(0));
        let seed = (Some(model.clone()), input, output);
        let answer = (id.as_ref().map(|_| model.clone()), id, stop_reason);
        let usage = (total, output, creation, read);
        (seed, Some(model), answer, usage, Some(path), Some(status), Some("POST".to_owned()))
    });
    let calls = trace.spans.iter().filter(|span| span.name == "api_call");
    let calls = calls.filter(|span| number(span, "http.response.status_code").is_some());
    let traced = calls.map(|span| {
        let seed =
            (text(span, "model"), number(span, "input_tokens"), number(span, "output_tokens"));
        let reasons = span.attributes.get("gen_ai.response.finish_reasons");
        let reason = reasons.and_then(|all| all.get(0)).and_then(Value::as_str).map(str::to_owned);
        let answer =
            (text(span, "gen_ai.response.model"), text(span, "gen_ai.response.id"), reason);
        let usage = (
            number(span, "gen_ai.usage.input_tokens"),
            number(span, "gen_ai.usage.output_tokens"),
            number(span, "gen_ai.usage.cache_creation.input_tokens"),
            number(span, "gen_ai.usage.cache_read.input_tokens"),
        );
        let status = number(span, "http.response.status_code");
        let method = text(span, "http.request.method");
        let asked = text(span, "gen_ai.request.model");
        (seed, asked, answer, usage, text(span, "url.path"), status, method)
    });
    Ok(differ(known, traced))
}

/// A line of the miniature's record.
#[derive(Deserialize)]
struct Line {
    kind: String,
    #[serde(default)]
    seq: u64,
    method: Option<String>,
    path: Option<String>,
    status: Option<i64>,
    outcome: Option<String>,
    request: Option<u64>,
}

type Request = (Option<String>, Option<String>, Option<i64>);

fn request(span: &Span) -> Request {
    (text(span, "method"), text(span, "path"), number(span, "status"))
}

/// Compares the requests that were served, each with the number of statements that were executed
/// for it, and those that tools made. What the miniature's own middleware did not see (paths
/// without a route) is left out.
///
/// # Errors
/// `record` is no record.
pub fn http(record: &str, trace: &Trace) -> Result<Difference> {
    let lines: Vec<Line> = lines(record)?;
    let mut statements: HashMap<u64, usize> = HashMap::new();
    for line in lines.iter().filter(|line| line.kind == "statement") {
        if let Some(request) = line.request {
            *statements.entry(request).or_default() += 1;
        }
    }
    let known = lines.iter().filter_map(|line| {
        let path = line.path.as_ref()?.split('?').next().map(str::to_owned);
        let request: Request = (line.method.clone(), path, line.status);
        let below = statements.get(&line.seq).copied().unwrap_or(0);
        let ended = line.outcome.as_deref() != Some("cancelled");
        match line.kind.as_str() {
            "http_server" if ended => Some(("server", request, below)),
            "http_client" if ended => Some(("client", request, 0)),
            _ => None,
        }
    });
    let (_, children) = trace.children();
    let below = |at: usize| {
        let mut waiting = children[at].clone();
        let mut found = 0;
        while let Some(at) = waiting.pop() {
            found += usize::from(trace.spans[at].name == "database_query");
            waiting.extend(&children[at]);
        }
        found
    };
    let unrouted: HashSet<&str> = HashSet::from(["/nothing"]);
    let traced = trace.spans.iter().enumerate().filter(|(_, span)| span.name == "http_request");
    let traced = traced.filter_map(|(at, span)| {
        let request = request(span);
        if request.1.as_deref().is_some_and(|path| unrouted.contains(path)) {
            return None;
        }
        let kind = if span.kind == "server" { "server" } else { "client" };
        request.2.map(|_| (kind, request.clone(), below(at)))
    });
    Ok(differ(known, traced))
}
