//! The account at the end.

use serde::Serialize;
use tracer::export::ExportStats;
use tracer::sampling::SamplingStats;

use super::json::VERSION;
use super::style::{Role, Style};
use super::text;
use crate::engine::Summary;

/// What became of the spans of one process at one endpoint.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Where to, without credentials.
    pub endpoint: String,
    /// By which protocol.
    pub protocol: &'static str,
    /// How many.
    pub stats: ExportStats,
}

/// One process's account.
#[derive(Clone, Debug)]
pub struct Account {
    /// The process.
    pub pid: u32,
    /// Its program.
    pub executable: String,
    /// The session's own.
    pub summary: Summary,
    /// What was not to be exported.
    pub sampling: SamplingStats,
    /// The exporters'.
    pub exported: Vec<Exported>,
}

impl Account {
    fn lost(&self) -> impl Iterator<Item = (&str, u64)> {
        let session = self.summary.drops.iter().map(|(name, count)| (name.as_str(), *count));
        let exports = self.exported.iter().flat_map(|export| export.stats.dropped);
        session.chain(exports).filter(|(_, count)| *count > 0)
    }
}

/// The account for people.
pub fn lines(account: &Account, style: Style) -> Vec<String> {
    let Account { pid, executable, summary, sampling, exported } = account;
    let heading = |text: &str| style.paint(Role::Dim, &format!("{text:<9}"));
    let listed = |items: &[(String, u64)]| {
        let some = items.iter().filter(|(_, count)| *count > 0);
        some.map(|(name, count)| format!("{} {name}", text::count(*count))).collect::<Vec<_>>()
    };
    let total = |total: String, parts: Vec<String>| {
        if parts.is_empty() { total } else { format!("{total}: {}", parts.join(", ")) }
    };
    let mut out = vec![
        format!(
            "{} pid {pid} {} for {}",
            heading("traced"),
            text::sanitise(executable),
            text::duration(summary.duration_ns)
        ),
        format!(
            "{} {}",
            heading("spans"),
            total(
                style.paint(Role::Strong, &text::count(summary.spans)),
                listed(&summary.outcomes)
            )
        ),
    ];
    let orphans: u64 = summary.orphans.iter().map(|(_, count)| count).sum();
    if orphans > 0 {
        let orphans = total(text::count(orphans), listed(&summary.orphans));
        out.push(format!("{} {orphans}", heading("orphans")));
    }
    if !summary.mechanism.is_empty() {
        out.push(format!(
            "{} {} placed by {}, {} inlined, {} missing",
            heading("probes"),
            text::count(summary.placed),
            summary.mechanism,
            text::count(summary.inlined),
            text::count(summary.missing)
        ));
    }
    out.push(format!("{} {}", heading("hits"), {
        let hits = text::counted(summary.hits, "hit");
        format!("{hits}, {}", text::counted(summary.records, "record"))
    }));
    let unsampled: Vec<(String, u64)> =
        sampling.unsampled.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    if sampling.unsampled() > 0 {
        let unsampled = total(text::count(sampling.unsampled()), listed(&unsampled));
        out.push(format!("{} {unsampled}", heading("unsampled")));
    }
    for export in exported {
        let stats = &export.stats;
        let mut text = format!(
            "{} to {} ({})",
            text::counted(stats.exported, "span"),
            export.endpoint,
            export.protocol
        );
        if let Some(error) = stats.last_error.as_deref().filter(|_| stats.lost() > 0) {
            text.push_str(&format!("; last error: {}", text::sanitise(error)));
        }
        if stats.spooled > 0 {
            text.push_str(&format!("; {} in the spool", text::count(stats.spooled)));
        }
        out.push(format!("{} {text}", heading("exported")));
    }
    let lost: Vec<String> =
        account.lost().map(|(name, count)| format!("{} {name}", text::count(count))).collect();
    let lost = if lost.is_empty() {
        style.paint(Role::Good, "nothing")
    } else {
        style.paint(Role::Bad, &lost.join(", "))
    };
    out.push(format!("{} {lost}", heading("lost")));
    out
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    v: u8,
    r#type: &'static str,
    pid: u32,
    executable: &'a str,
    duration_ns: u64,
    spans: u64,
    outcomes: serde_json::Map<String, serde_json::Value>,
    orphans: serde_json::Map<String, serde_json::Value>,
    hits: u64,
    records: u64,
    drops: serde_json::Map<String, serde_json::Value>,
    unread: serde_json::Map<String, serde_json::Value>,
    mechanism: &'a str,
    probes: Probes,
    sampling: Sampling,
    exports: Vec<ExportLine<'a>>,
}

#[derive(Serialize)]
struct Probes {
    placed: u64,
    inlined: u64,
    missing: u64,
}

#[derive(Serialize)]
struct Sampling {
    offered: u64,
    passed: u64,
    unsampled: serde_json::Map<String, serde_json::Value>,
    kept_by_rule: u64,
    decided_early_full: u64,
    decided_early_late: u64,
}

#[derive(Serialize)]
struct ExportLine<'a> {
    endpoint: &'a str,
    protocol: &'a str,
    accepted: u64,
    exported: u64,
    spooled: u64,
    drops: serde_json::Map<String, serde_json::Value>,
    retries: u64,
    last_error: Option<&'a str>,
}

/// The account for scripts.
pub fn json(account: &Account) -> impl Serialize {
    fn map<'n>(
        items: impl Iterator<Item = (&'n str, u64)>,
    ) -> serde_json::Map<String, serde_json::Value> {
        items.map(|(name, count)| (name.to_owned(), count.into())).collect()
    }
    let named = |items: &[(String, u64)]| map(items.iter().map(|(name, n)| (name.as_str(), *n)));
    let Account { pid, executable, summary, sampling, exported } = account;
    let exports = exported.iter().map(|export| ExportLine {
        endpoint: &export.endpoint,
        protocol: export.protocol,
        accepted: export.stats.accepted,
        exported: export.stats.exported,
        spooled: export.stats.spooled,
        drops: map(export.stats.dropped.into_iter()),
        retries: export.stats.retries,
        last_error: export.stats.last_error.as_deref(),
    });
    SummaryLine {
        v: VERSION,
        r#type: "summary",
        pid: *pid,
        executable,
        duration_ns: summary.duration_ns,
        spans: summary.spans,
        outcomes: named(&summary.outcomes),
        orphans: named(&summary.orphans),
        hits: summary.hits,
        records: summary.records,
        drops: named(&summary.drops),
        unread: named(&summary.unread),
        mechanism: &summary.mechanism,
        probes: Probes {
            placed: summary.placed,
            inlined: summary.inlined,
            missing: summary.missing,
        },
        sampling: Sampling {
            offered: sampling.offered,
            passed: sampling.passed,
            unsampled: map(sampling.unsampled.into_iter()),
            kept_by_rule: sampling.kept_by_rule,
            decided_early_full: sampling.decided_early_full,
            decided_early_late: sampling.decided_early_late,
        },
        exports: exports.collect(),
    }
}

#[cfg(test)]
mod tests {
    use tracer::export::DropCause;

    use super::*;

    fn account() -> Account {
        let named = |items: &[(&str, u64)]| {
            items.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect::<Vec<_>>()
        };
        Account {
            pid: 4242,
            executable: "/usr/bin/orchestrate".to_owned(),
            summary: Summary {
                spans: 1234,
                outcomes: named(&[("returned", 1200), ("error", 0), ("panicked", 34)]),
                orphans: named(&[("late_attach", 12)]),
                hits: 5678,
                records: 2500,
                drops: named(&[("lost_span_start", 0), ("futures_full", 0)]),
                unread: Vec::new(),
                mechanism: "uprobe_multi".to_owned(),
                placed: 41,
                inlined: 2,
                missing: 1,
                duration_ns: 12_300_000_000,
            },
            sampling: SamplingStats::default(),
            exported: vec![],
        }
    }

    #[test]
    fn nothing_lost() {
        assert_eq!(
            lines(&account(), Style::PLAIN).join("\n"),
            "traced    pid 4242 /usr/bin/orchestrate for 12.3 s\n\
             spans     1,234: 1,200 returned, 34 panicked\n\
             orphans   12: 12 late_attach\n\
             probes    41 placed by uprobe_multi, 2 inlined, 1 missing\n\
             hits      5,678 hits, 2,500 records\n\
             lost      nothing"
        );
    }

    #[test]
    fn every_loss_is_named() {
        let mut account = account();
        account.summary.drops[1].1 = 7;
        account.exported.push(Exported {
            endpoint: "http://localhost:4317".to_owned(),
            protocol: "grpc",
            stats: ExportStats {
                accepted: 1234,
                exported: 1000,
                spooled: 0,
                dropped: DropCause::ALL
                    .map(|cause| (cause.name(), u64::from(cause == DropCause::Unreachable) * 234)),
                retries: 9,
                last_error: Some("connection refused".to_owned()),
            },
        });
        let text = lines(&account, Style::PLAIN).join("\n");
        assert!(text.contains("lost      7 futures_full, 234 export_unreachable"), "{text}");
        assert!(
            text.contains("1,000 spans to http://localhost:4317 (grpc); last error: connection")
        );
        let json = serde_json::to_value(json(&account)).unwrap();
        assert_eq!(json["drops"]["futures_full"], 7);
        assert_eq!(json["drops"]["lost_span_start"], 0);
        assert_eq!(json["exports"][0]["drops"]["export_unreachable"], 234);
        assert_eq!(json["probes"]["placed"], 41);
        assert_eq!(json["type"], "summary");
    }
}
