//! What Jaeger has, held against what `--json` printed: ids, parents, names, times, attributes.

use std::collections::HashMap;

use anyhow::{Context, Result};
use e2e::trace::{Span, Trace};
use serde_json::Value;

use super::backends::spans_of;

/// Differences, in words; none when all is well.
///
/// # Errors
/// Jaeger's answer is not what its API promises.
pub fn compare(service: &str, printed: &Trace, stored: &[Value]) -> Result<Vec<String>> {
    let mut found: HashMap<(String, String), (&Value, &Value)> = HashMap::new();
    let mut wrong = vec![];
    for trace in stored {
        let processes = trace.get("processes").context("no processes")?;
        for span in spans_of(trace) {
            let id = (key(text(span, "traceID")?), text(span, "spanID")?.to_owned());
            let process = processes.get(text(span, "processID")?).context("no process")?;
            if found.insert(id.clone(), (span, process)).is_some() {
                wrong.push(format!("span {} is stored twice", id.1));
            }
        }
    }
    for span in &printed.spans {
        let id = (key(&span.trace_id), span.span_id.clone());
        match found.remove(&id) {
            None => wrong.push(format!("span {} ({}) is not stored", span.span_id, span.name)),
            Some((stored, process)) => {
                let differences = one(service, span, stored, process)?;
                let name = format!("span {} ({})", span.span_id, span.name);
                wrong.extend(differences.into_iter().map(|what| format!("{name}: {what}")));
            }
        }
    }
    wrong.extend(found.into_keys().map(|(_, id)| format!("span {id} is stored, not printed")));
    Ok(wrong)
}

/// Jaeger may leave out zeros in front.
fn key(trace_id: &str) -> String {
    trace_id.trim_start_matches('0').to_owned()
}

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str> {
    value.get(name).and_then(Value::as_str).with_context(|| format!("no {name} in {value}"))
}

fn one(service: &str, printed: &Span, stored: &Value, process: &Value) -> Result<Vec<String>> {
    let mut wrong = vec![];
    let mut check = |what: &str, expected: Value, found: Value| {
        if expected != found {
            wrong.push(format!("{what} is {found}, not {expected}"));
        }
    };
    check("the name", printed.name.clone().into(), text(stored, "operationName")?.into());
    let references = stored.get("references").and_then(Value::as_array);
    let parents: Vec<&str> = references
        .into_iter()
        .flatten()
        .filter(|reference| reference.get("refType").is_some_and(|kind| kind == "CHILD_OF"))
        .map(|reference| text(reference, "spanID"))
        .collect::<Result<_>>()?;
    check("the parent", printed.parent_id.iter().cloned().collect(), parents.into());

    let start = stored.get("startTime").and_then(Value::as_u64).context("no startTime")?;
    check("the start (µs)", (printed.start_unix_ns / 1_000).into(), start.into());
    if let Some(end) = printed.end_unix_ns {
        let duration = stored.get("duration").and_then(Value::as_u64).context("no duration")?;
        let expected = end / 1_000 - printed.start_unix_ns / 1_000;
        // Microseconds of a difference, and the difference of microseconds.
        if duration.abs_diff(expected) > 1 {
            check("the duration (µs)", expected.into(), duration.into());
        }
    }

    let tags = tags(stored)?;
    for (name, value) in &printed.attributes {
        let found = tags.get(name.as_str()).copied().cloned().unwrap_or(Value::Null);
        // Jaeger's tags have no lists: it shows what is one as JSON.
        let expected = if value.is_array() { value.to_string().into() } else { value.clone() };
        check(name, expected, found);
    }
    for (name, value) in &tags {
        let ours = printed.attributes.contains_key(*name);
        let mapped = ["otel.", "span.kind", "error", "internal."];
        if !ours && !mapped.iter().any(|prefix| name.starts_with(prefix)) {
            check(name, Value::Null, (*value).clone());
        }
    }
    let failed = matches!(printed.outcome.as_str(), "error" | "panicked");
    let error = tags.get("error").is_some_and(|error| **error == Value::Bool(true));
    check("the error flag", failed.into(), error.into());

    check("the service", service.into(), text(process, "serviceName")?.into());
    let of_process = self::tags(process)?;
    for name in ["process.pid", "process.executable.path", "telemetry.sdk.name"] {
        check(&format!("whether it has {name}"), true.into(), of_process.contains_key(name).into());
    }
    Ok(wrong)
}

fn tags(value: &Value) -> Result<HashMap<&str, &Value>> {
    let tags = value.get("tags").and_then(Value::as_array).into_iter().flatten();
    tags.map(|tag| Ok((text(tag, "key")?, tag.get("value").context("a tag without value")?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> Trace {
        let line = r#"{"v":1,"type":"span","trace_id":"00ab","span_id":"02","parent_id":"01","name":"n","kind":"internal","start_unix_ns":5999,"end_unix_ns":9000,"start_mono_ns":3,"end_mono_ns":null,"outcome":"panicked","address":64,"pid":1,"attributes":{"a":"x","n":4}}"#;
        Trace::read(format!("{line}\n").as_bytes()).unwrap()
    }

    fn stored() -> Value {
        serde_json::json!({
            "spans": [{
                "traceID": "ab", "spanID": "02", "operationName": "n", "processID": "p1",
                "references": [{"refType": "CHILD_OF", "traceID": "ab", "spanID": "01"}],
                "startTime": 5, "duration": 3,
                "tags": [
                    {"key": "a", "type": "string", "value": "x"},
                    {"key": "n", "type": "int64", "value": 4},
                    {"key": "error", "type": "bool", "value": true},
                    {"key": "otel.scope.name", "type": "string", "value": "orchestrate-trace"},
                ],
            }],
            "processes": {"p1": {"serviceName": "s", "tags": [
                {"key": "process.pid", "type": "int64", "value": 1},
                {"key": "process.executable.path", "type": "string", "value": "/x"},
                {"key": "telemetry.sdk.name", "type": "string", "value": "opentelemetry"},
            ]}},
        })
    }

    #[test]
    fn every_difference_is_found() {
        assert_eq!(compare("s", &trace(), &[stored()]).unwrap(), Vec::<String>::new());
        let changes: [(&str, &str, Value); 9] = [
            ("/spans/0/operationName", "the name", "m".into()),
            ("/spans/0/references/0/spanID", "the parent", "03".into()),
            ("/spans/0/startTime", "the start", 6.into()),
            ("/spans/0/duration", "the duration", 7.into()),
            ("/spans/0/tags/0/value", "a is \"y\"", "y".into()),
            ("/spans/0/tags/1/value", "n is \"4\"", "4".into()),
            ("/spans/0/tags/3/key", "made up", "made up".into()),
            ("/spans/0/tags/2/value", "the error flag", false.into()),
            ("/processes/p1/serviceName", "the service", "t".into()),
        ];
        for (path, word, value) in changes {
            let mut stored = stored();
            *stored.pointer_mut(path).unwrap() = value;
            let wrong = compare("s", &trace(), &[stored]).unwrap();
            assert!(wrong.iter().any(|what| what.contains(word)), "{path}: {wrong:?}");
        }
        assert!(compare("s", &trace(), &[]).unwrap()[0].contains("is not stored"));
        let wrong = compare("s", &trace(), &[stored(), stored()]).unwrap();
        assert!(wrong.iter().any(|what| what.contains("twice")), "{wrong:?}");
        let wrong = compare("s", &Trace::default(), &[stored()]).unwrap();
        assert!(wrong[0].contains("not printed"), "{wrong:?}");
    }
}
