//! What is said on the control socket: one JSON object a line, a request and an answer in turn.
//!
//! ```text
//! → {"v":1,"request":"status"}
//! ← {"v":1,"report":{…}}
//! → {"v":1,"request":"enable","choice":{"flags":{"exporters":["otlp"]},"environment":{}}}
//! ← {"v":1,"report":{…}}
//! → {"v":1,"request":"disable"}
//! ← {"v":1,"report":{…}}
//! ← {"v":1,"error":{"kind":"not_permitted","message":"…"}}
//! ```
//!
//! A request is at most [`MAX_REQUEST`] bytes, an answer at most [`MAX_ANSWER`]. A request of
//! another version, with unknown fields, or that is no JSON is refused, and the connection closed.

use std::io::{self, Read};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::report::Report;
use super::settings::Choice;

/// Version of the protocol.
pub const VERSION: u8 = 1;
/// Bytes of a request, its line's end included.
pub const MAX_REQUEST: usize = 64 << 10;
/// Bytes of an answer, its line's end included.
pub const MAX_ANSWER: usize = 16 << 20;

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How things are.
    Status {
        /// [`VERSION`].
        v: u8,
    },
    /// Turn tracing on.
    Enable {
        /// [`VERSION`].
        v: u8,
        /// What was asked for; it replaces what was asked for before.
        choice: Choice,
    },
    /// Turn tracing off; answered when nothing is attached any more.
    Disable {
        /// [`VERSION`].
        v: u8,
    },
}

/// Why a request was not fulfilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The peer may not ask for anything.
    NotPermitted,
    /// It is not a request.
    Malformed,
    /// It is a request of another version.
    Version,
    /// A setting that cannot be used; nothing has changed.
    Usage,
    /// Too much is going on; ask again.
    Busy,
    /// Something went wrong.
    Failed,
}

/// A refusal and what to tell the user: the thing, the reason, the next step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Which kind.
    pub kind: Refusal,
    /// For the user.
    pub message: String,
}

impl Refused {
    /// A refusal.
    pub fn new(kind: Refusal, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`].
    pub v: u8,
    /// How things are now.
    #[serde(flatten)]
    pub result: AnswerResult,
}

/// One of the two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerResult {
    /// It was done; this is how things are now.
    Report(Box<Report>),
    /// It was not done.
    Error(Refused),
}

impl From<Result<Report, Refused>> for Answer {
    fn from(result: Result<Report, Refused>) -> Self {
        let result = match result {
            Ok(report) => AnswerResult::Report(Box::new(report)),
            Err(refused) => AnswerResult::Error(refused),
        };
        Self { v: VERSION, result }
    }
}

/// Reads a request out of a line.
///
/// # Errors
/// It is none, and what to say about that.
pub fn parse(line: &[u8]) -> Result<Request, Refused> {
    #[derive(Deserialize)]
    struct Head {
        v: Option<u64>,
    }
    let malformed = |reason: &dyn std::fmt::Display| {
        Refused::new(
            Refusal::Malformed,
            format!("not a request of protocol version {VERSION}: {reason}"),
        )
    };
    let head: Head = serde_json::from_slice(line).map_err(|error| malformed(&error))?;
    match head.v {
        Some(v) if v == u64::from(VERSION) => {}
        Some(v) => {
            return Err(Refused::new(
                Refusal::Version,
                format!(
                    "the service speaks protocol version {VERSION}, the request is of version {v}: \
                     use the orchestrate-trace that belongs to the service, or restart the service"
                ),
            ));
        }
        None => return Err(malformed(&"it has no \"v\"")),
    }
    serde_json::from_slice(line).map_err(|error| malformed(&error))
}

/// Why there is no line.
#[derive(Debug)]
pub enum NoLine {
    /// The peer has closed in order, having said all it wanted.
    Closed,
    /// It has closed in the middle of a line.
    Cut,
    /// The line is longer than allowed.
    TooLong,
    /// Time is over.
    Late,
    /// The connection broke.
    Broken(io::Error),
}

/// Reads one line of at most `limit` bytes, by `deadline` in all; gives it without its end.
/// `wait` prepares the stream to give up by then. What follows the line stays in `buffer`.
///
/// # Errors
/// There is none.
pub fn read_line<S: Read>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
    limit: usize,
    deadline: Instant,
    wait: impl Fn(&S, std::time::Duration) -> io::Result<()>,
) -> Result<Vec<u8>, NoLine> {
    let mut chunk = [0; 4096];
    let mut searched = 0;
    loop {
        if let Some(end) = buffer[searched..].iter().position(|byte| *byte == b'\n') {
            let end = searched + end;
            if end >= limit {
                return Err(NoLine::TooLong);
            }
            let mut line: Vec<u8> = buffer.drain(..=end).collect();
            line.pop();
            return Ok(line);
        }
        searched = buffer.len();
        if searched >= limit {
            return Err(NoLine::TooLong);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(NoLine::Late);
        }
        wait(stream, left).map_err(NoLine::Broken)?;
        match stream.read(&mut chunk) {
            Ok(0) if buffer.is_empty() => return Err(NoLine::Closed),
            Ok(0) => return Err(NoLine::Cut),
            Ok(n) => buffer.extend_from_slice(&chunk[..n]),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Err(NoLine::Late),
                _ => return Err(NoLine::Broken(error)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn requests() {
        assert_eq!(parse(br#"{"v":1,"request":"status"}"#), Ok(Request::Status { v: 1 }));
        let enable = Request::Enable { v: 1, choice: Choice::default() };
        let line = serde_json::to_vec(&enable).unwrap();
        assert_eq!(parse(&line), Ok(enable));
        for (text, kind) in [
            ("", Refusal::Malformed),
            ("null", Refusal::Malformed),
            ("[1]", Refusal::Malformed),
            (r#"{"request":"status"}"#, Refusal::Malformed),
            (r#"{"v":2,"request":"anything","new":1}"#, Refusal::Version),
            (r#"{"v":1,"request":"shutdown"}"#, Refusal::Malformed),
            (r#"{"v":1,"request":"disable","force":true}"#, Refusal::Malformed),
            (r#"{"v":1,"request":"enable","choice":{"flags":{"nonsense":1}}}"#, Refusal::Malformed),
            ("\u{0}\u{1}", Refusal::Malformed),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err().kind, kind, "{text}");
        }
        // Depth is bounded, too.
        let deep = [b"{\"v\":".as_slice(), &[b'['; 60_000]].concat();
        assert_eq!(parse(&deep).unwrap_err().kind, Refusal::Malformed);
    }

    fn read(mut data: &[u8], buffer: &mut Vec<u8>, limit: usize) -> Result<Vec<u8>, NoLine> {
        let deadline = Instant::now() + Duration::from_secs(60);
        read_line(&mut data, buffer, limit, deadline, |_, _| Ok(()))
    }

    #[test]
    fn lines_are_bounded() {
        let mut buffer = vec![];
        assert_eq!(read(b"one\ntwo\n", &mut buffer, 8).unwrap(), b"one");
        assert_eq!(read(b"", &mut buffer, 8).unwrap(), b"two");
        assert!(matches!(read(b"", &mut buffer, 8), Err(NoLine::Closed)));
        assert!(matches!(read(b"half", &mut buffer, 8), Err(NoLine::Cut)));
        assert!(matches!(read(&[b'x'; 9000], &mut vec![], 8), Err(NoLine::TooLong)));
        assert!(matches!(read(b"12345678\n", &mut vec![], 8), Err(NoLine::TooLong)));
        assert_eq!(read(b"1234567\n", &mut vec![], 8).unwrap(), b"1234567");
        let past = Instant::now();
        let late = read_line(&mut b"x\n".as_slice(), &mut vec![], 8, past, |_, _| Ok(()));
        assert!(matches!(late, Err(NoLine::Late)));
    }
}
