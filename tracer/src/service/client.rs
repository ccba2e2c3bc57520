//! The other end of the control socket.

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::protocol::{
    self, Answer, AnswerResult, MAX_ANSWER, MAX_REQUEST, NoLine, Refused, Request,
};
use super::report::Report;

/// More than the service takes for anything.
const PATIENCE: Duration = Duration::from_secs(75);

/// Why there is no report.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "the service is not running (nobody listens on {}); start it with `systemctl start \
         orchestrate-trace`, or `orchestrate-trace daemon` in the foreground", path.display()
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is not for us.
    #[error(
        "{}: permission denied; use sudo, or become a member of the group orchestrate-trace \
         (`usermod -aG orchestrate-trace USER`, then log in again)", path.display()
    )]
    NotPermitted {
        /// The socket.
        path: PathBuf,
    },
    /// The service says no.
    #[error("{}", .0.message)]
    Refused(Refused),
    /// The request is longer than the service takes.
    #[error(
        "the request has more than {MAX_REQUEST} bytes; unset OTEL_ variables it need not know"
    )]
    TooLong,
    /// The conversation failed.
    #[error("{}: {reason}", path.display())]
    Failed {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Asks the service.
///
/// # Errors
/// It does not run, says no, or does not answer.
pub fn ask(path: &Path, request: &Request) -> Result<Report, ClientError> {
    let failed = |reason: String| ClientError::Failed { path: path.to_owned(), reason };
    let mut stream = UnixStream::connect(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning { path: path.to_owned() }
        }
        io::ErrorKind::PermissionDenied => ClientError::NotPermitted { path: path.to_owned() },
        _ => failed(error.to_string()),
    })?;
    let mut line = serde_json::to_vec(request).map_err(|error| failed(error.to_string()))?;
    line.push(b'\n');
    if line.len() > MAX_REQUEST {
        return Err(ClientError::TooLong);
    }
    let _ = stream.set_write_timeout(Some(PATIENCE));
    // Who is refused is told so before the request is read: what matters is the answer.
    let written = stream.write_all(&line);
    let deadline = Instant::now() + PATIENCE;
    let wait = |stream: &UnixStream, left| stream.set_read_timeout(Some(left));
    let answer = protocol::read_line(&mut stream, &mut Vec::new(), MAX_ANSWER, deadline, wait);
    let answer = answer.map_err(|why| {
        failed(match (why, written) {
            (_, Err(error)) | (NoLine::Broken(error), Ok(())) => error.to_string(),
            (NoLine::Late, _) => format!("no answer within {} s", PATIENCE.as_secs()),
            (NoLine::TooLong, _) => format!("an answer of more than {MAX_ANSWER} bytes"),
            (NoLine::Closed | NoLine::Cut, _) => "the service closed the connection".to_owned(),
        })
    })?;
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|error| failed(format!("not an answer of the service: {error}")))?;
    match answer.result {
        AnswerResult::Report(report) => Ok(*report),
        AnswerResult::Error(refused) => Err(ClientError::Refused(refused)),
    }
}
