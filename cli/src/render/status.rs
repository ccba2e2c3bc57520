//! What `enable`, `disable` and `status` print: first what users of `orchestrate trace` know, then
//! each process.

use tracer::config::{TracingExporter, percent};
use tracer::service::Report;
use tracer::service::report::{ExportReport, ServiceReport, TargetReport, TargetState};

use super::style::{Role, Style};
use super::text::{self, counted};

const RULE: &str = "============================================================";

fn block(title: &str, lines: &[(&str, String)]) -> String {
    let mut all = format!("{RULE}\n{title}\n{RULE}\n");
    for (label, value) in lines {
        all.push_str(&format!("{:<13} {}\n", format!("{label}:"), text::sanitise(value)));
    }
    if !lines.is_empty() {
        all.push_str(RULE);
        all.push('\n');
    }
    all
}

fn exporters(report: &Report) -> String {
    if report.exporters.is_empty() {
        return TracingExporter::None.to_string();
    }
    report.exporters.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(", ")
}

/// After `enable`.
pub fn enabled(report: &Report) -> String {
    let mut lines = vec![
        ("Exporter", exporters(report)),
        ("Service Name", report.service_name.clone()),
        ("Sample Rate", percent(report.sample_rate)),
    ];
    for exporter in &report.exporters {
        let (label, url, default) = match exporter {
            TracingExporter::Jaeger => {
                ("Jaeger", &report.jaeger_endpoint, report.jaeger_endpoint_is_default)
            }
            TracingExporter::Otlp => {
                ("OTLP", &report.otlp_endpoint, report.otlp_endpoint_is_default)
            }
            TracingExporter::None => continue,
        };
        lines.push((label, format!("{url}{}", if default { " (default)" } else { "" })));
    }
    block("Distributed Tracing Enabled", &lines)
}

/// After `disable`.
pub fn disabled() -> String {
    block("Distributed Tracing Disabled", &[])
}

/// `status`.
pub fn status(report: &Report, style: Style) -> String {
    let state = match (report.running, report.enabled) {
        (false, _) => "Disabled (service not running)",
        (true, true) => "Enabled",
        (true, false) => "Disabled",
    };
    let mut all = block(
        "Distributed Tracing Status",
        &[
            ("Status", state.to_owned()),
            ("Exporter", exporters(report)),
            ("Service Name", report.service_name.clone()),
            ("Sample Rate", percent(report.sample_rate)),
            ("Jaeger", report.jaeger_endpoint.clone()),
            ("OTLP", report.otlp_endpoint.clone()),
        ],
    );
    if let Some(service) = &report.service {
        all.push_str(&self::service(service));
    }
    for target in &report.targets {
        for line in self::target(target, style) {
            all.push_str(&line);
            all.push('\n');
        }
    }
    all
}

fn service(service: &ServiceReport) -> String {
    let ServiceReport { pid, version, uptime_s, rss_bytes, cpu_s, last_error, exporters, totals } =
        service;
    let uptime = std::time::Duration::from_secs(*uptime_s);
    let mut lines = format!(
        "service {version}, pid {pid}, up {uptime:?}, {} MiB, {cpu_s:.1} s of CPU; since then {}, {}\n",
        rss_bytes >> 20,
        counted(totals.attached, "process").replace("processs", "processes"),
        counted(totals.spans, "span"),
    );
    lines.push_str(&lost("  ", &totals.drops));
    for exporter in exporters {
        lines.extend(export(exporter).into_iter().map(|line| line + "\n"));
    }
    if let Some(error) = last_error {
        lines.push_str(&format!("  last error: {}\n", text::sanitise(error)));
    }
    lines
}

fn lost(indent: &str, drops: &std::collections::BTreeMap<String, u64>) -> String {
    if drops.is_empty() {
        return String::new();
    }
    let each: Vec<String> = drops.iter().map(|(name, count)| format!("{name} {count}")).collect();
    format!("{indent}lost: {}\n", each.join(", "))
}

fn export(exporter: &ExportReport) -> Vec<String> {
    let ExportReport { endpoint, protocol, exported, queued, spooled, drops, retries, last_error } =
        exporter;
    let mut waiting = format!("{queued} waiting");
    if *spooled > 0 {
        waiting.push_str(&format!(", {spooled} on disk"));
    }
    if *retries > 0 {
        waiting.push_str(&format!(", {}", counted(*retries, "retry").replace("retrys", "retries")));
    }
    let line = format!("  {endpoint} ({protocol}): {exported} sent, {waiting}");
    let mut lines = vec![text::sanitise(&line).into_owned()];
    lines.extend(lost("    ", drops).lines().map(str::to_owned));
    if let Some(error) = last_error {
        lines.push(format!("    last error: {}", text::sanitise(error)));
    }
    lines
}

fn target(target: &TargetReport, style: Style) -> Vec<String> {
    let role = match target.state {
        TargetState::Traced => Role::Good,
        TargetState::Refused => Role::Bad,
        TargetState::Attaching | TargetState::Detaching => Role::Dim,
    };
    let executable = target.executable.to_string_lossy();
    let mut lines = vec![format!(
        "\npid {}  {}  {}",
        target.pid,
        text::sanitise(&executable),
        style.paint(role, target.state.as_str())
    )];
    if let Some(reason) = &target.reason {
        lines.push(format!("  {}", text::sanitise(reason)));
    }
    if let Some(mechanism) = &target.mechanism {
        let id = target.build_id.as_deref().unwrap_or("none");
        lines.push(format!("  build-id {id}"));
        lines.push(format!(
            "  {} by {mechanism}: {} probed, {} inlined, {} missing",
            counted(target.probes, "probe"),
            counted(target.functions_probed, "function"),
            target.functions_inlined,
            target.missing.len(),
        ));
        lines.push(format!(
            "  {}, {}, {} under way",
            counted(target.hits, "hit"),
            counted(target.spans, "span"),
            target.open
        ));
    }
    for missing in &target.missing {
        let line = format!("  missing: {} ({}): {}", missing.span, missing.pattern, missing.reason);
        lines.push(text::sanitise(&line).into_owned());
    }
    lines.extend(lost("  ", &target.drops).lines().map(str::to_owned));
    if let Some(error) = &target.last_error {
        lines.push(format!("  last error: {}", text::sanitise(error)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer::config::TracingConfig;
    use tracer::service::{Choice, Config, Settings};

    fn report(enabled: bool, flags: TracingConfig) -> Report {
        let choice = Choice { flags, ..Choice::default() };
        let settings =
            Settings::resolve(enabled, &choice, &Default::default(), &Config::default()).unwrap();
        Report::of_settings(&settings)
    }

    #[test]
    fn enable_prints_what_users_know() {
        let jaeger = TracingConfig::new(TracingExporter::Jaeger);
        let expected = "\
============================================================
Distributed Tracing Enabled
============================================================
Exporter:     jaeger
Service Name: orchestrate
Sample Rate:  100%
Jaeger:       http://localhost:14268/api/traces (default)
============================================================
";
        assert_eq!(enabled(&report(true, jaeger)), expected);
        let otlp = TracingConfig::new(TracingExporter::Otlp)
            .with_otlp_endpoint("http://custom:4317")
            .with_sample_rate(0.5);
        let expected = "\
============================================================
Distributed Tracing Enabled
============================================================
Exporter:     otlp
Service Name: orchestrate
Sample Rate:  50%
OTLP:         http://custom:4317
============================================================
";
        assert_eq!(enabled(&report(true, otlp)), expected);
    }

    #[test]
    fn status_prints_what_users_know() {
        let expected = "\
============================================================
Distributed Tracing Status
============================================================
Status:       Disabled
Exporter:     none
Service Name: orchestrate
Sample Rate:  100%
Jaeger:       http://localhost:14268/api/traces
OTLP:         http://localhost:4317
============================================================
";
        let mut report = report(false, TracingConfig::default());
        report.running = true;
        assert_eq!(status(&report, Style::PLAIN), expected);
        report.enabled = true;
        assert!(status(&report, Style::PLAIN).contains("Status:       Enabled\n"));
        report.running = false;
        let text = status(&report, Style::PLAIN);
        assert!(text.contains("Status:       Disabled (service not running)\n"), "{text}");
    }

    #[test]
    fn processes_follow() {
        let mut report = report(true, TracingConfig::default());
        let mut refused = TargetReport::bare(7, "/opt/a\x1b[2Jb".into(), TargetState::Refused);
        refused.reason = Some("stripped".to_owned());
        let mut traced = TargetReport::bare(8, "/bin/x".into(), TargetState::Traced);
        traced.mechanism = Some("uprobe-multi".to_owned());
        traced.drops.insert("lost_span_start".to_owned(), 4);
        report.targets = vec![refused, traced];
        let text = status(&report, Style::PLAIN);
        assert!(text.contains("refused\n  stripped\n") && !text.contains('\x1b'), "{text}");
        assert!(text.contains("pid 8  /bin/x  traced\n"), "{text}");
        assert!(text.contains("lost: lost_span_start 4"), "{text}");
    }
}
