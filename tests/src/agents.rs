//! Holds the trees of agents against what is known of each agent: its tools, statements and
//! requests. Where that knowledge comes from is the caller's business.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use crate::trace::{Span, Summary, Trace};

/// Names of spans.
const AGENT: &str = "agent_execution";
const TOOL: &str = "tool_call";
const QUERY: &str = "database_query";
const REQUEST: &str = "api_call";

/// From, to: nanoseconds since the Unix epoch.
pub type Interval = (u64, u64);

/// Two clocks are compared: ours is converted from the monotonic one, and may be a little off.
pub const SLACK_NS: u64 = 20_000_000;

/// What is known of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its id.
    pub id: String,
    /// What it is.
    pub kind: String,
    /// When it ran, at least.
    pub ran: Interval,
    /// How it ended, in the words of a trace, where that is known.
    pub outcome: Option<String>,
    /// Its tools' calls in order; each lies within the interval, or around it.
    pub tools: Vec<Interval>,
    /// How many statements it executed: below each of its tools by position, and (`None`)
    /// below its own loop. `None` where that is not known.
    pub statements: Option<BTreeMap<Option<usize>, u64>>,
    /// Its requests in order, as its endpoint saw them.
    pub requests: Vec<Interval>,
    /// It ran before or after the trace, too: what it did is not compared.
    pub partial: bool,
}

/// What became of one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its id.
    pub agent: String,
    /// What it is.
    pub agent_type: String,
    /// Trees that are its own: one.
    pub trees: u64,
    /// It ran before or after the trace, too: not compared.
    pub partial: bool,
    /// Its trace.
    pub trace_id: Option<String>,
    /// Calls of tools: known, found in its tree.
    pub tools: (u64, u64),
    /// Statements: known, found in its tree. Known is what was found where nothing is known.
    pub statements: (u64, u64),
    /// Requests: known, found in its tree.
    pub requests: (u64, u64),
    /// What is wrong, for a person.
    pub wrong: Vec<String>,
}

/// What became of all of them. The same numbers as for the truth workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Agents, calls, statements and requests that are known.
    pub spans: u64,
    /// Traced in the right place of the right agent's tree.
    pub right: u64,
    /// Not in that tree, but the trace has as many without a parent.
    pub orphaned: u64,
    /// In another place, or too many there.
    pub wrong_parent: u64,
    /// Not traced.
    pub missing: u64,
    /// Bodies without a probed function: none is expected.
    pub inlined_unprobed: u64,
    /// Missing, but explained by what the tracer counted as lost.
    pub lost: u64,
    /// Agents that ended otherwise.
    pub outcome_wrong: u64,
    /// Polls are not known here.
    pub polls_wrong: u64,
    /// Polls are not known here.
    pub polls_unknown: u64,
    /// Records that came through the ring buffer.
    pub records: u64,
    /// Probe hits.
    pub hits: u64,
    /// What the tracer counted as lost, by name, zeros left out.
    pub drops: BTreeMap<String, u64>,
    /// Agents' trees that belong to no agent that is known.
    pub strange_trees: u64,
    /// Spans outside of every agent's tree, by name: the daemon's own.
    pub outside: BTreeMap<String, u64>,
    /// Agent by agent.
    pub agents: Vec<Row>,
}

impl Report {
    /// Each agent is one tree with everything that is its own, probes were hit, nothing was lost.
    pub fn is_right(&self) -> bool {
        self.right == self.spans
            && self.spans > 0
            && self.wrong_parent == 0
            && self.outcome_wrong == 0
            && self.strange_trees == 0
            && self.hits > 0
            && self.drops.is_empty()
            && self.agents.iter().all(|row| row.trees == 1 || row.partial)
    }
}

/// One agent's tree in the trace, by position.
#[derive(Clone, Debug)]
struct Tree {
    root: usize,
    /// In order of their start.
    tools: Vec<usize>,
    /// With the tool above, by position in `tools`.
    statements: Vec<Option<usize>>,
    /// In order of their start, with the tool above.
    requests: Vec<(usize, Option<usize>)>,
}

fn interval(span: &Span) -> Interval {
    (span.start_unix_ns, span.end_unix_ns.unwrap_or(u64::MAX))
}

fn overlap(a: Interval, b: Interval) -> bool {
    a.0 <= b.1.saturating_add(SLACK_NS) && b.0 <= a.1.saturating_add(SLACK_NS)
}

/// Agents' trees, and by name what is in none.
fn trees(trace: &Trace) -> (Vec<Tree>, BTreeMap<String, u64>) {
    let (roots, below) = trace.children();
    let (mut trees, mut outside) = (vec![], BTreeMap::new());
    // The tree and the tool that a span is in.
    let mut waiting: Vec<(usize, Option<usize>, Option<usize>)> =
        roots.into_iter().map(|at| (at, None, None)).collect();
    while let Some((at, mut tree, mut tool)) = waiting.pop() {
        let span = &trace.spans[at];
        match (span.name.as_str(), tree) {
            (AGENT, _) => {
                tree = Some(trees.len());
                tool = None;
                trees.push(Tree { root: at, tools: vec![], statements: vec![], requests: vec![] });
            }
            (TOOL, Some(tree)) => {
                trees[tree].tools.push(at);
                tool = Some(at);
            }
            (QUERY, Some(tree)) => trees[tree].statements.push(tool),
            (REQUEST, Some(tree)) => trees[tree].requests.push((at, tool)),
            (_, Some(_)) => {}
            (name, None) => *outside.entry(name.to_owned()).or_default() += 1,
        }
        waiting.extend(below[at].iter().map(|&child| (child, tree, tool)));
    }
    let start = |at: usize| trace.spans[at].start_unix_ns;
    for Tree { tools, statements, requests, .. } in &mut trees {
        tools.sort_by_key(|&at| start(at));
        requests.sort_by_key(|&(at, _)| start(at));
        let position = |tool: usize| tools.iter().position(|&at| at == tool);
        for statement in statements {
            *statement = statement.and_then(position);
        }
    }
    trees.sort_by_key(|tree| start(tree.root));
    (trees, outside)
}

/// Compares.
///
/// # Errors
/// The trace has no summary.
pub fn compare(agents: &[Agent], trace: &Trace) -> Result<Report> {
    let summary @ Summary { records, hits, .. } = trace.summary()?;
    let (trees, outside) = trees(trace);
    let own = assign(agents, &trees, trace);
    let mut report = Report {
        records: *records,
        hits: *hits,
        drops: summary.lost(),
        strange_trees: (trees.len() - own.iter().flatten().count()) as u64,
        ..Report::default()
    };
    let mut count = Count::default();
    for (agent, tree) in agents.iter().zip(own) {
        let row = row(agent, tree.map(|at| &trees[at]), trace, &mut count);
        report.outcome_wrong += u64::from(row.wrong.iter().any(|why| why.starts_with("outcome")));
        report.agents.push(row);
    }
    let Count { known, right, wrong, missing } = count;
    report.spans = known;
    report.right = right;
    report.wrong_parent = wrong.values().sum();
    for (name, mut missing) in missing {
        // What lies about without a parent may be what is missing in a tree, never more.
        let orphaned = missing.min(outside.get(name).copied().unwrap_or(0));
        report.orphaned += orphaned;
        missing -= orphaned;
        report.missing += missing;
    }
    report.lost = report.missing.min(report.drops.values().sum());
    report.missing -= report.lost;
    report.outside = outside;
    Ok(report)
}

/// The tree of each agent: one that was there while the agent ran, and of these the one whose
/// tools fit best. Each tree belongs to one agent.
fn assign(agents: &[Agent], trees: &[Tree], trace: &Trace) -> Vec<Option<usize>> {
    let mut offers = vec![];
    for (a, agent) in agents.iter().enumerate() {
        for (t, tree) in trees.iter().enumerate() {
            let root = interval(&trace.spans[tree.root]);
            if !overlap(root, agent.ran) {
                continue;
            }
            let calls = agent.tools.iter().zip(&tree.tools);
            let fit = calls.filter(|&(&c, &at)| overlap(c, interval(&trace.spans[at]))).count();
            let unfit = agent.tools.len().max(tree.tools.len()) - fit;
            offers.push((unfit, root.0.abs_diff(agent.ran.0), a, t));
        }
    }
    offers.sort_unstable();
    let (mut own, mut taken) = (vec![None; agents.len()], vec![false; trees.len()]);
    for (.., a, t) in offers {
        if own[a].is_none() && !taken[t] {
            own[a] = Some(t);
            taken[t] = true;
        }
    }
    own
}

#[derive(Default)]
struct Count {
    known: u64,
    right: u64,
    wrong: BTreeMap<&'static str, u64>,
    missing: BTreeMap<&'static str, u64>,
}

impl Count {
    /// `known` things of this name, of which `right` were found, and `more` that should not be.
    fn add(&mut self, name: &'static str, known: u64, right: u64, more: u64) {
        self.known += known;
        self.right += right;
        *self.missing.entry(name).or_default() += known - right;
        *self.wrong.entry(name).or_default() += more;
    }
}

fn row(agent: &Agent, tree: Option<&Tree>, trace: &Trace, count: &mut Count) -> Row {
    let Agent { id, kind, ran: _, outcome, tools, statements, requests, partial } = agent;
    let mut row = Row {
        agent: id.clone(),
        agent_type: kind.clone(),
        partial: *partial,
        trees: u64::from(tree.is_some()),
        ..Row::default()
    };
    if *partial {
        return row;
    }
    let known = statements.as_ref().map_or(0, |by| by.values().sum());
    row.tools.0 = tools.len() as u64;
    row.statements.0 = known;
    row.requests.0 = requests.len() as u64;
    let Some(tree) = tree else {
        row.wrong.push("no tree".to_owned());
        count.add(AGENT, 1, 0, 0);
        count.add(TOOL, row.tools.0, 0, 0);
        count.add(QUERY, known, 0, 0);
        count.add(REQUEST, row.requests.0, 0, 0);
        return row;
    };
    let root = &trace.spans[tree.root];
    row.trace_id = Some(root.trace_id.clone());
    count.add(AGENT, 1, 1, 0);
    if root.parent_id.is_some() {
        row.wrong.push("not a trace of its own".to_owned());
        *count.wrong.entry(AGENT).or_default() += 1;
    }
    if let Some(outcome) = outcome.as_ref().filter(|outcome| **outcome != root.outcome) {
        row.wrong.push(format!("outcome {} instead of {outcome}", root.outcome));
    }

    // In order, as both are: the n-th call is the n-th span, and at the same time.
    let in_order = |known: &[Interval], found: &[usize]| -> u64 {
        let both = known.iter().zip(found);
        both.filter(|&(&k, &at)| overlap(k, interval(&trace.spans[at]))).count() as u64
    };
    let mut series = |what: &str, name, known: &[Interval], found: &[usize]| -> (u64, u64) {
        let right = in_order(known, found);
        let (n, found) = (known.len() as u64, found.len() as u64);
        count.add(name, n, right, found - right);
        if right != n || found != n {
            row.wrong.push(format!("{what}: {n} known, {found} traced, {right} at their time"));
        }
        (n, found)
    };
    row.tools = series("tools", TOOL, tools, &tree.tools);
    // A tool that asks the API would be a request of that tool; agents ask in their own loop.
    let own: Vec<usize> =
        tree.requests.iter().filter(|(_, tool)| tool.is_none()).map(|&(at, _)| at).collect();
    row.requests = series("requests", REQUEST, requests, &own);
    let under_tools = (tree.requests.len() - own.len()) as u64;
    *count.wrong.entry(REQUEST).or_default() += under_tools;

    row.statements.1 = tree.statements.len() as u64;
    let Some(statements) = statements else {
        row.statements.0 = row.statements.1;
        return row;
    };
    let mut found: BTreeMap<Option<usize>, u64> = BTreeMap::new();
    for &tool in &tree.statements {
        *found.entry(tool).or_default() += 1;
    }
    let right = statements.iter().map(|(at, &n)| n.min(*found.get(at).unwrap_or(&0))).sum();
    count.add(QUERY, known, right, row.statements.1 - right);
    if statements.iter().filter(|&(_, &n)| n > 0).ne(found.iter()) {
        row.wrong.push(format!("statements: {statements:?} known, {found:?} traced"));
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;

    const S: u64 = 1_000_000_000;

    fn span(id: u64, parent: u64, name: &str, from: u64, to: u64) -> Span {
        Span {
            trace_id: format!("t{}", id / 100),
            span_id: id.to_string(),
            parent_id: (parent != 0).then(|| parent.to_string()),
            name: name.into(),
            kind: "internal".into(),
            start_mono_ns: from * S,
            end_mono_ns: Some(to * S),
            start_unix_ns: from * S,
            end_unix_ns: Some(to * S),
            outcome: "returned".into(),
            address: 0,
            attributes: Map::new(),
        }
    }

    /// Two agents at once: a request, a tool with a statement, a statement of their own.
    fn scene() -> (Vec<Agent>, Trace) {
        let (mut agents, mut spans) = (vec![], vec![span(1, 0, QUERY, 1, 2)]);
        for (n, id) in [100, 200].into_iter().enumerate() {
            let at = 10 + n as u64;
            agents.push(Agent {
                id: id.to_string(),
                kind: "k".into(),
                ran: (at * S, (at + 20) * S),
                outcome: Some("returned".into()),
                tools: vec![((at + 4) * S, (at + 5) * S)],
                statements: Some(BTreeMap::from([(None, 1), (Some(0), 1)])),
                requests: vec![((at + 2) * S, (at + 3) * S)],
                partial: false,
            });
            spans.extend([
                span(id, 0, AGENT, at, at + 20),
                span(id + 1, id, REQUEST, at + 2, at + 3),
                span(id + 2, id, TOOL, at + 4, at + 5),
                span(id + 3, id + 2, QUERY, at + 4, at + 5),
                span(id + 4, id, QUERY, at + 6, at + 7),
            ]);
        }
        let summary = Some(Summary { hits: 9, ..Summary::default() });
        (agents, Trace { spans, events: vec![], summary })
    }

    fn traced(trace: &mut Trace, id: u64) -> &mut Span {
        trace.spans.iter_mut().find(|span| span.span_id == id.to_string()).unwrap()
    }

    #[test]
    fn each_agent_has_its_own() {
        let (agents, trace) = scene();
        let report = compare(&agents, &trace).unwrap();
        assert!(report.is_right(), "{report:#?}");
        assert_eq!((report.spans, report.right), (10, 10));
        assert_eq!(report.outside, BTreeMap::from([(QUERY.to_owned(), 1)]));
        assert_eq!(report.agents[1].trace_id.as_deref(), Some("t2"));
    }

    #[test]
    fn what_is_another_s_is_a_wrong_parent() {
        let (agents, mut trace) = scene();
        traced(&mut trace, 104).parent_id = Some("200".into());
        let report = compare(&agents, &trace).unwrap();
        assert_eq!((report.wrong_parent, report.right), (1, 9), "{report:#?}");
        assert!(!report.is_right());
    }

    #[test]
    fn the_right_agent_is_not_enough() {
        let (agents, mut trace) = scene();
        traced(&mut trace, 103).parent_id = Some("100".into());
        let report = compare(&agents, &trace).unwrap();
        assert_eq!((report.wrong_parent, report.right), (1, 9), "{report:#?}");
    }

    #[test]
    fn what_has_no_parent_is_orphaned_and_what_is_not_there_missing() {
        let (agents, mut trace) = scene();
        traced(&mut trace, 101).parent_id = None;
        trace.spans.retain(|span| span.span_id != "202" && span.span_id != "203");
        let report = compare(&agents, &trace).unwrap();
        // The statement that lies about may be the one that is not in the tree.
        assert_eq!((report.orphaned, report.missing), (2, 1), "{report:#?}");
        assert_eq!(report.wrong_parent, 0);
    }

    #[test]
    fn two_trees_for_one_agent_are_not_right() {
        let (agents, mut trace) = scene();
        trace.spans.push(span(300, 0, AGENT, 12, 13));
        let report = compare(&agents, &trace).unwrap();
        assert_eq!(report.strange_trees, 1);
        assert!(!report.is_right());
    }
}
