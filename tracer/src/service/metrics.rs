//! Our own health as Prometheus text (exposition format 0.0.4).

use std::fmt::Write as _;

use super::rates::{BUCKETS, OUTCOMES, Rates};
use super::report::{ExportReport, Report, ServiceReport, TargetState};

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP orchestrate_trace_{name} {help}");
        let _ = writeln!(self.0, "# TYPE orchestrate_trace_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let _ = write!(self.0, "orchestrate_trace_{name}");
        for (i, (label, text)) in labels.iter().enumerate() {
            let open = if i == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"{}\"", escaped(text));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

fn labels(exporter: &ExportReport) -> [(&str, &str); 2] {
    [("endpoint", &exporter.endpoint), ("protocol", &exporter.protocol)]
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Everything there is to say.
pub(super) fn render(report: &Report, rates: &Rates) -> String {
    let mut text = Text(String::with_capacity(8192));
    let ServiceReport {
        pid: _,
        version,
        uptime_s,
        rss_bytes,
        cpu_s,
        last_error: _,
        exporters,
        totals,
    } = report.service.clone().unwrap_or_default();
    text.family("info", "gauge", "Version of the service.");
    text.sample("info", &[("version", &version)], 1);
    text.single("enabled", "gauge", "Tracing is on.", u8::from(report.enabled));
    text.single("uptime_seconds", "gauge", "Since the service began.", uptime_s);
    text.single("resident_memory_bytes", "gauge", "Resident memory.", rss_bytes);
    text.single("cpu_seconds_total", "counter", "CPU time, user and system.", cpu_s);

    text.family("targets", "gauge", "Processes by what is done about them.");
    let states =
        [TargetState::Attaching, TargetState::Traced, TargetState::Detaching, TargetState::Refused];
    for state in states {
        let count = report.targets.iter().filter(|target| target.state == state).count();
        text.sample("targets", &[("state", state.as_str())], count);
    }
    text.single("attached_total", "counter", "Processes attached to.", totals.attached);
    text.single("refused_total", "counter", "Processes that cannot be traced.", totals.refused);
    text.single("probe_hits_total", "counter", "Probe hits in all processes.", totals.hits);
    text.single("spans_total", "counter", "Spans handed out.", totals.spans);
    text.single("exported_spans_total", "counter", "Spans an endpoint took.", totals.exported);
    text.family("dropped_total", "counter", "What was lost, by cause.");
    for (cause, count) in &totals.drops {
        text.sample("dropped_total", &[("cause", cause)], count);
    }
    text.family("export_queue_spans", "gauge", "Spans waiting in memory to be sent.");
    for exporter in &exporters {
        text.sample("export_queue_spans", &labels(exporter), exporter.queued);
    }
    text.family("export_spool_spans", "gauge", "Spans waiting on disk to be sent.");
    for exporter in &exporters {
        text.sample("export_spool_spans", &labels(exporter), exporter.spooled);
    }
    text.family("export_retries_total", "counter", "Tries beyond the first.");
    for exporter in &exporters {
        text.sample("export_retries_total", &labels(exporter), exporter.retries);
    }

    text.family("span_outcomes_total", "counter", "Spans by name and outcome, before sampling.");
    for (name, rate) in rates.iter() {
        for (outcome, count) in OUTCOMES.iter().zip(rate.outcomes).filter(|(_, n)| *n != 0) {
            let labels = [("span", name), ("outcome", outcome.as_str())];
            text.sample("span_outcomes_total", &labels, count);
        }
    }
    text.family("span_duration_seconds", "histogram", "Durations of ended spans, before sampling.");
    for (name, rate) in rates.iter() {
        let mut cumulative = 0;
        for (end, count) in BUCKETS.iter().zip(rate.buckets) {
            cumulative += count;
            let labels = [("span", name), ("le", &*end.to_string())];
            text.sample("span_duration_seconds_bucket", &labels, cumulative);
        }
        let count: u64 = rate.buckets.iter().sum();
        let labels = [("span", name), ("le", "+Inf")];
        text.sample("span_duration_seconds_bucket", &labels, count);
        text.sample("span_duration_seconds_sum", &labels[..1], rate.seconds);
        text.sample("span_duration_seconds_count", &labels[..1], count);
    }
    text.0
}

#[cfg(test)]
mod tests {
    use super::super::rates::tests::span;
    use super::super::settings::{Choice, Settings};
    use super::*;
    use crate::service::Config;
    use crate::span::Outcome;

    #[test]
    fn every_line_is_a_comment_or_a_sample() {
        let none = Default::default();
        let settings =
            Settings::resolve(true, &Choice::default(), &none, &Config::default()).unwrap();
        let mut report = Report::of_settings(&settings);
        let mut service = ServiceReport { version: "1".to_owned(), ..ServiceReport::default() };
        service.totals.lost([("lost_span_start", 3)]);
        report.service = Some(service);
        let mut rates = Rates::default();
        rates.count(&span("a\"b", Outcome::Returned, Some(2_000_000)));
        rates.count(&span("a\"b", Outcome::Panicked, Some(900_000_000_000)));
        let text = render(&report, &rates);
        for wanted in [
            "orchestrate_trace_enabled 1\n",
            "orchestrate_trace_targets{state=\"traced\"} 0\n",
            "orchestrate_trace_dropped_total{cause=\"lost_span_start\"} 3\n",
            "orchestrate_trace_span_outcomes_total{span=\"a\\\"b\",outcome=\"panicked\"} 1\n",
            "orchestrate_trace_span_duration_seconds_bucket{span=\"a\\\"b\",le=\"0.005\"} 1\n",
            "orchestrate_trace_span_duration_seconds_bucket{span=\"a\\\"b\",le=\"600\"} 1\n",
            "orchestrate_trace_span_duration_seconds_bucket{span=\"a\\\"b\",le=\"+Inf\"} 2\n",
            "orchestrate_trace_span_duration_seconds_count{span=\"a\\\"b\"} 2\n",
        ] {
            assert!(text.contains(wanted), "no {wanted:?} in:\n{text}");
        }
        for line in text.lines() {
            let value = line.rsplit(' ').next().unwrap();
            assert!(line.starts_with("# ") || value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
