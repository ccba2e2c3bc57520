//! What the database of an orchestrate says about its agents, and the log of the API they used.
//!
//! The database keeps messages (with the tools that were asked for), sessions (one for each run)
//! and the tokens of each answer; the log says when each request was served. A request belongs to
//! the agent whose n-th answer has its numbers of tokens and whose run it falls into.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rusqlite::{Connection, OpenFlags};
use serde::Deserialize;

use crate::agents::{Agent, Interval, SLACK_NS};

/// States in which an agent has something to do, or is about to.
const ACTIVE: &str = "('created', 'initializing', 'running')";

/// One request, as the endpoint saw it.
#[derive(Clone, Debug, Deserialize)]
struct Request {
    start: f64,
    end: f64,
    #[serde(default)]
    input_tokens: i64,
    #[serde(default)]
    output_tokens: i64,
}

impl Request {
    fn interval(&self) -> Interval {
        let ns = |seconds: f64| (seconds * 1e9) as u64;
        (ns(self.start), ns(self.end))
    }
}

/// One run of an agent, as the database has it.
#[derive(Debug)]
struct Session {
    id: String,
    agent: String,
    kind: String,
    state: String,
    ran: (u64, Option<u64>),
}

/// Nanoseconds since the Unix epoch.
pub fn now_unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// How many agents have something to do.
///
/// # Errors
/// `db` is not the database of an orchestrate.
pub fn active_agents(db: &Path) -> Result<u64> {
    let query = format!("SELECT count(*) FROM agents WHERE state IN {ACTIVE}");
    open(db)?
        .query_row(&query, [], |row| row.get(0))
        .with_context(|| format!("{}: not the database of an orchestrate", db.display()))
}

/// Every run of an agent that touches `window`: what is known of those that lie in it, and that
/// the others were there.
///
/// # Errors
/// `db` is not the database of an orchestrate, or `log` not such a log.
pub fn agents(db: &Path, log: &str, window: Interval) -> Result<Vec<Agent>> {
    let db = open(db)?;
    let mut requests: Vec<Option<Request>> = vec![];
    for line in log.lines() {
        let request: Request = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let (start, end) = request.interval();
        if start >= window.0 && end <= window.1.saturating_add(SLACK_NS) {
            requests.push(Some(request));
        }
    }
    requests.sort_by_key(|request| request.as_ref().map(Request::interval));
    let mut agents = vec![];
    let mut failed = vec![];
    for session in sessions(&db)? {
        let (start, end) = session.ran;
        if start > window.1 || end.is_some_and(|end| end < window.0) {
            continue;
        }
        // The run begins a few statements before its session does.
        let began = first_message(&db, &session)?.unwrap_or(start).min(start);
        let whole = began >= window.0.saturating_add(SLACK_NS);
        let Some(end) = end.filter(|&end| whole && end <= window.1) else {
            agents.push(partial(session, window));
            continue;
        };
        let tools = tools(&db, &session, (began, end))?;
        let answers = answers(&db, &session)?;
        let own = attribute(&answers, (began, end), &mut requests);
        if session.state == "failed" {
            failed.push(agents.len());
        }
        let turns_with_tools = tools.iter().collect::<std::collections::BTreeSet<_>>().len();
        let statements = (session.state == "completed" && no_instructions(&db))
            .then(|| [(None, 10 + 3 * answers.len() as u64 + turns_with_tools as u64)].into());
        agents.push(Agent {
            id: session.agent,
            kind: session.kind,
            ran: (began, end),
            // A failed agent's loop still returns, a paused one's is dropped.
            outcome: Some(if session.state == "paused" { "cancelled" } else { "returned" }.into()),
            tools,
            statements,
            requests: own,
            partial: false,
        });
    }
    // A request that failed has no row in the database: if only one failed agent was there, it
    // was that one's.
    for request in requests.into_iter().flatten().filter(|request| request.output_tokens == 0) {
        let at = request.interval();
        let there = |&&i: &&usize| {
            let (from, to) = agents[i].ran;
            from <= at.0 + SLACK_NS && at.1 <= to + SLACK_NS
        };
        let mut candidates = failed.iter().filter(there);
        if let (Some(&only), None) = (candidates.next(), candidates.next()) {
            agents[only].requests.push(at);
            agents[only].requests.sort_unstable();
        }
    }
    Ok(agents)
}

fn partial(session: Session, window: Interval) -> Agent {
    let Session { agent, kind, ran: (start, end), .. } = session;
    Agent {
        id: agent,
        kind,
        ran: (start.max(window.0), end.unwrap_or(window.1).min(window.1)),
        outcome: None,
        tools: vec![],
        statements: None,
        requests: vec![],
        partial: true,
    }
}

/// Takes the requests out of `requests` that gave these `answers`, in order.
fn attribute(
    answers: &[(i64, i64)],
    ran: Interval,
    requests: &mut [Option<Request>],
) -> Vec<Interval> {
    let mut own: Vec<Interval> = vec![];
    let mut after = ran.0.saturating_sub(SLACK_NS);
    for &tokens in answers {
        let found = requests.iter_mut().find(|request| {
            request.as_ref().is_some_and(|request| {
                let (start, end) = request.interval();
                (request.input_tokens, request.output_tokens) == tokens
                    && start >= after
                    && end <= ran.1.saturating_add(SLACK_NS)
            })
        });
        if let Some(request) = found.and_then(Option::take) {
            let interval = request.interval();
            after = interval.1;
            own.push(interval);
        }
    }
    own
}

fn open(db: &Path) -> Result<Connection> {
    Connection::open_with_flags(db, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| db.display().to_string())
}

fn sessions(db: &Connection) -> Result<Vec<Session>> {
    let mut query = db.prepare(
        "SELECT s.id, s.agent_id, a.agent_type, a.state, s.created_at, s.closed_at
         FROM sessions s JOIN agents a ON a.id = s.agent_id ORDER BY s.created_at",
    )?;
    let rows = query.query_map([], |row| {
        let closed: Option<String> = row.get(5)?;
        Ok(Session {
            id: row.get(0)?,
            agent: row.get(1)?,
            kind: row.get(2)?,
            state: row.get(3)?,
            ran: (
                unix_ns(&row.get::<_, String>(4)?).unwrap_or(0),
                closed.as_deref().and_then(unix_ns),
            ),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// When the run's first message was written. An agent that runs again has older ones, too.
fn first_message(db: &Connection, session: &Session) -> Result<Option<u64>> {
    let mut query =
        db.prepare("SELECT created_at FROM agent_messages WHERE agent_id = ? ORDER BY id")?;
    let times = query.query_map([&session.agent], |row| row.get::<_, String>(0))?;
    let mut before = None;
    for time in times {
        let time = unix_ns(&time?).unwrap_or(0);
        // Seconds lie between two runs, milliseconds between this message and the session.
        if time <= session.ran.0 && session.ran.0 - time < 1_000_000_000 {
            before = before.or(Some(time));
        }
    }
    Ok(before)
}

/// The calls of tools within `ran`, in order, each with the times of the messages around it.
fn tools(db: &Connection, session: &Session, ran: Interval) -> Result<Vec<Interval>> {
    let mut query = db.prepare(
        "SELECT created_at, coalesce(json_array_length(tool_calls), 0)
         FROM agent_messages WHERE agent_id = ? ORDER BY id",
    )?;
    let rows = query.query_map([&session.agent], |row| {
        Ok((unix_ns(&row.get::<_, String>(0)?).unwrap_or(0), row.get::<_, u32>(1)?))
    })?;
    let rows: Vec<(u64, u32)> = rows.collect::<rusqlite::Result<_>>()?;
    let mut calls = vec![];
    for (at, &(asked, n)) in rows.iter().enumerate() {
        if asked >= ran.0 && asked <= ran.1 {
            let done = rows.get(at + 1).map_or(ran.1, |&(next, _)| next);
            calls.extend((0..n).map(|_| (asked, done)));
        }
    }
    Ok(calls)
}

/// Tokens (in, out) of the run's answers, in order.
fn answers(db: &Connection, session: &Session) -> Result<Vec<(i64, i64)>> {
    let mut query = db.prepare(
        "SELECT input_tokens, output_tokens FROM session_token_stats
         WHERE session_id = ? ORDER BY turn_number",
    )?;
    let rows = query.query_map([&session.id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Instructions of the user's own cost statements that are not counted here.
fn no_instructions(db: &Connection) -> bool {
    let count = "SELECT count(*) FROM custom_instructions";
    db.query_row(count, [], |row| row.get::<_, u64>(0)).is_ok_and(|n| n == 0)
}

/// `2026-11-22T23:33:23.779627925+00:00`, or the same with a blank and without a zone: UTC.
fn unix_ns(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    // Days since the epoch; the year begins in March, so that a leap day is its last.
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year.rem_euclid(400) * 365 + year.rem_euclid(400) / 4
        - year.rem_euclid(400) / 100
        + day_of_year;
    let days = year.div_euclid(400) * 146_097 + day_of_era - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    let rest = &text[19..];
    let digits = rest.strip_prefix('.').map_or("", |rest| {
        rest.split_once(|c: char| !c.is_ascii_digit()).map_or(rest, |(digits, _)| digits)
    });
    let nanos: u64 = format!("{digits:0<9}").get(..9)?.parse().ok()?;
    let zone = rest.get(if digits.is_empty() { 0 } else { 1 + digits.len() }..)?;
    if !matches!(zone, "" | "Z" | "+00:00") {
        return None;
    }
    Some(u64::try_from(seconds).ok()? * 1_000_000_000 + nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        let ns = unix_ns("2026-11-22T23:33:23.779627925+00:00");
        assert_eq!(ns, Some(1_795_390_403_779_627_925));
        assert_eq!(unix_ns("1970-01-01 00:00:01"), Some(1_000_000_000));
        assert_eq!(unix_ns("2024-02-29T00:00:00Z"), Some(1_709_164_800_000_000_000));
        assert_eq!(unix_ns("2024-03-01T00:00:00.5Z"), Some(1_709_251_200_500_000_000));
        assert_eq!(unix_ns("2024-03-01T00:00:00+02:00"), None);
        assert_eq!(unix_ns("soon"), None);
    }

    #[test]
    fn requests_belong_to_who_got_the_answer() {
        let request = |start: f64, tokens: (i64, i64)| {
            let (input_tokens, output_tokens) = tokens;
            Some(Request { start, end: start + 0.5, input_tokens, output_tokens })
        };
        let mut requests = vec![
            request(1.0, (1, 2)),
            request(1.1, (3, 4)),
            request(2.0, (5, 6)),
            request(3.0, (1, 2)),
        ];
        let first = attribute(&[(1, 2), (5, 6)], (900_000_000, 2_600_000_000), &mut requests);
        assert_eq!(first, [(1_000_000_000, 1_500_000_000), (2_000_000_000, 2_500_000_000)]);
        let second = attribute(&[(3, 4), (1, 2)], (900_000_000, 4_000_000_000), &mut requests);
        assert_eq!(second[1].0, 3_000_000_000);
        assert!(requests.iter().all(Option::is_none));
    }
}
