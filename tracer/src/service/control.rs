//! The service's end of the control socket. Whoever is not permitted is told so and disconnected
//! before a byte of theirs is read; the others are bounded in number, length and time.

use std::fs;
use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::auth::Peer;
use super::main_loop::Message;
use super::protocol::{
    self, Answer, MAX_ANSWER, MAX_REQUEST, NoLine, Refusal, Refused, Request, VERSION,
};
use super::report::Report;

/// Connections at once; more are told to come back.
const MAX_CONNECTIONS: usize = 16;
/// How long a connection may take over one request, and how long over taking the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the service may take over its answer: detaching from many processes takes a while.
const ANSWER: Duration = Duration::from_secs(60);

/// Nobody but root.
const NO_GROUP: u32 = u32::MAX;

/// Which group may steer; the file may change it while the service runs.
#[derive(Debug)]
pub(super) struct Admission(AtomicU32);

impl Admission {
    pub(super) fn new(group: Option<u32>) -> Self {
        Self(AtomicU32::new(group.unwrap_or(NO_GROUP)))
    }

    pub(super) fn set(&self, group: Option<u32>) {
        self.0.store(group.unwrap_or(NO_GROUP), Relaxed);
    }

    fn check(&self, stream: &UnixStream) -> Result<(), Refused> {
        let peer = Peer::of(stream).map_err(|error| {
            Refused::new(Refusal::NotPermitted, format!("who is asking cannot be told: {error}"))
        })?;
        let group = Some(self.0.load(Relaxed)).filter(|group| *group != NO_GROUP);
        if peer.may_steer(group) {
            return Ok(());
        }
        warn!(uid = peer.uid, pid = peer.pid, "a request was refused: not permitted");
        let message = format!(
            "user {} may not steer the service: use sudo, or become a member of its group \
             (`usermod -aG orchestrate-trace USER`, then log in again)",
            peer.uid
        );
        Err(Refused::new(Refusal::NotPermitted, message))
    }
}

/// Makes the socket: for root and `group`. A leftover of an earlier daemon is replaced; the
/// caller holds the lock that says there is none.
///
/// # Errors
/// It cannot be made.
pub(super) fn bind(path: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Nobody may connect before the mode is what it is to be.
    let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(old);
    let listener = listener?;
    if let Some(group) = group
        && let Err(error) = std::os::unix::fs::chown(path, None, Some(group))
    {
        warn!(%error, group, "the control socket cannot be given to its group: root only");
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves the socket in a thread of its own, for as long as the process lives.
///
/// # Errors
/// No thread can be had.
pub(super) fn serve(
    listener: UnixListener,
    admission: Arc<Admission>,
    service: mpsc::Sender<Message>,
) -> io::Result<()> {
    let accept = move || {
        let connections = Arc::new(AtomicUsize::new(0));
        loop {
            match listener.accept() {
                Ok((stream, _)) => admit(stream, &connections, &admission, &service),
                Err(error) => {
                    // Out of descriptors, for example: others must get a chance to close theirs.
                    warn!(%error, "accepting a connection");
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    };
    thread::Builder::new().name("control".to_owned()).spawn(accept)?;
    Ok(())
}

/// Counts a connection for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn admit(
    mut stream: UnixStream,
    connections: &Arc<AtomicUsize>,
    admission: &Arc<Admission>,
    service: &mpsc::Sender<Message>,
) {
    // A reader who does not read must not hold up the others: what is written here fits the
    // socket's buffer.
    let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
    if let Err(refused) = admission.check(&stream) {
        refuse(&mut stream, refused);
        return;
    }
    let counted = Counted(Arc::clone(connections));
    if connections.fetch_add(1, Relaxed) >= MAX_CONNECTIONS {
        let message = format!("{MAX_CONNECTIONS} requests are under way already: try again");
        refuse(&mut stream, Refused::new(Refusal::Busy, message));
        return;
    }
    let (admission, service) = (Arc::clone(admission), service.clone());
    let work = move || {
        let _counted = counted;
        converse(stream, &admission, &service);
    };
    if let Err(error) = thread::Builder::new().name("control-peer".to_owned()).spawn(work) {
        warn!(%error, "no thread for a request");
    }
}

fn refuse(stream: &mut UnixStream, refused: Refused) {
    let _ = answer(stream, Err(refused));
    let _ = stream.shutdown(Shutdown::Both);
}

/// Requests and answers in turn, until the peer has enough or does something wrong.
fn converse(mut stream: UnixStream, admission: &Admission, service: &mpsc::Sender<Message>) {
    let mut buffer = Vec::new();
    let wait = |stream: &UnixStream, left| stream.set_read_timeout(Some(left));
    let _ = stream.set_write_timeout(Some(PATIENCE));
    loop {
        let deadline = Instant::now() + PATIENCE;
        let line = match protocol::read_line(&mut stream, &mut buffer, MAX_REQUEST, deadline, wait)
        {
            Ok(line) => line,
            Err(NoLine::Closed) => return,
            Err(NoLine::Broken(error)) => {
                debug!(%error, "a control connection broke");
                return;
            }
            Err(why) => {
                let message = match why {
                    NoLine::TooLong => format!("a request has at most {MAX_REQUEST} bytes"),
                    NoLine::Late => format!("no request within {} s", PATIENCE.as_secs()),
                    _ => "the request ends before its line does".to_owned(),
                };
                return refuse(&mut stream, Refused::new(Refusal::Malformed, message));
            }
        };
        // Asked again for every request: the group may have changed since.
        let request = admission.check(&stream).and_then(|()| protocol::parse(&line));
        match request {
            Ok(request) => {
                if answer(&mut stream, ask(request, service)).is_err() {
                    return;
                }
            }
            Err(refused) => return refuse(&mut stream, refused),
        }
    }
}

/// Passes a request to the main loop and waits for its answer.
fn ask(request: Request, service: &mpsc::Sender<Message>) -> Result<Report, Refused> {
    let stopped = || Refused::new(Refusal::Failed, "the service is stopping");
    let (reply, answered) = mpsc::channel();
    let warnings = match &request {
        Request::Enable { choice, .. } => {
            choice.check().map_err(|why| Refused::new(Refusal::Usage, why))?;
            true
        }
        Request::Status { .. } | Request::Disable { .. } => false,
    };
    service.send(Message::Request { request, reply }).map_err(|_| stopped())?;
    match answered.recv_timeout(ANSWER) {
        Ok(Ok((mut report, endpoints))) => {
            if warnings {
                report.warnings.extend(super::reach::unreachable(&endpoints));
            }
            Ok(report)
        }
        Ok(Err(refused)) => Err(refused),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            let message = format!(
                "the service has not answered for {} s; `journalctl -u orchestrate-trace` may say why",
                ANSWER.as_secs()
            );
            Err(Refused::new(Refusal::Failed, message))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(stopped()),
    }
}

fn answer(stream: &mut UnixStream, result: Result<Report, Refused>) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Answer::from(result)).map_err(io::Error::other)?;
    if line.len() >= MAX_ANSWER {
        let message = "the answer is too long; `/metrics` has the figures";
        let refused = Refused::new(Refusal::Failed, message);
        line = serde_json::to_vec(&Answer {
            v: VERSION,
            result: protocol::AnswerResult::Error(refused),
        })
        .map_err(io::Error::other)?;
    }
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::client::{self, ClientError};
    use crate::service::{Choice, Config, Settings};
    use std::io::Read;

    fn report() -> Report {
        let none = Default::default();
        let settings =
            Settings::resolve(true, &Choice::default(), &none, &Config::default()).unwrap();
        Report::of_settings(&settings)
    }

    /// A service that answers everything.
    fn serving(dir: &Path) -> (std::path::PathBuf, Arc<Admission>) {
        let path = dir.join("sock");
        let admission = Arc::new(Admission::new(None));
        // Whoever runs the tests is to be admitted as a member of a group of theirs.
        admission.set(Some(rustix::process::getegid().as_raw()));
        let (service, requests) = mpsc::channel();
        serve(bind(&path, None).unwrap(), Arc::clone(&admission), service).unwrap();
        thread::spawn(move || {
            for message in requests {
                if let Message::Request { reply, .. } = message {
                    let _ = reply.send(Ok((report(), vec![])));
                }
            }
        });
        (path, admission)
    }

    fn raw(path: &Path, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // It may have answered and gone before it has everything.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut text = vec![];
        let _ = stream.read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn requests_are_answered_and_nonsense_harms_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _) = serving(dir.path());
        let status = Request::Status { v: VERSION };
        assert_eq!(client::ask(&path, &status).unwrap(), report());
        let two =
            raw(&path, b"{\"v\":1,\"request\":\"status\"}\n{\"v\":1,\"request\":\"status\"}\n");
        assert_eq!(two.matches("\"report\"").count(), 2, "{two}");
        for (bytes, word) in [
            (b"nonsense\n".as_slice(), "malformed"),
            (b"{\"v\":9,\"request\":\"status\"}\n", "version 9"),
            (b"{\"v\":1,\"request\":\"status\"}", "ends before its line"),
            (&[b'x'; MAX_REQUEST + 1], "at most"),
            (&[0xff; 100], "ends before"),
        ] {
            let text = raw(&path, bytes);
            assert!(text.contains("\"error\"") && text.contains(word), "{word}: {text}");
        }
        // One who connects and leaves, and one who asks and does not wait for the answer.
        drop(UnixStream::connect(&path).unwrap());
        let mut rude = UnixStream::connect(&path).unwrap();
        rude.write_all(b"{\"v\":1,\"request\":\"status\"}\n").unwrap();
        drop(rude);
        assert_eq!(client::ask(&path, &status).unwrap(), report());
    }

    #[test]
    fn silent_peers_take_places_only_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _) = serving(dir.path());
        let silent: Vec<UnixStream> =
            (0..MAX_CONNECTIONS).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let status = Request::Status { v: VERSION };
        let mut busy = false;
        let began = Instant::now();
        loop {
            match client::ask(&path, &status) {
                Ok(_) if busy => break,
                Ok(_) => {}
                Err(ClientError::Refused(refused)) => {
                    assert_eq!(refused.kind, Refusal::Busy);
                    busy = true;
                }
                Err(error) => panic!("{error}"),
            }
            assert!(began.elapsed() < PATIENCE * 10, "busy: {busy}");
            thread::yield_now();
        }
        drop(silent);
    }

    #[test]
    fn the_group_is_looked_at_for_every_request() {
        let admission = Admission::new(None);
        let (stream, _peer) = UnixStream::pair().unwrap();
        if rustix::process::geteuid().is_root() {
            // Root may always; the end-to-end tests ask as somebody else.
            assert!(admission.check(&stream).is_ok());
            return;
        }
        assert_eq!(admission.check(&stream).unwrap_err().kind, Refusal::NotPermitted);
        admission.set(Some(rustix::process::getegid().as_raw()));
        assert!(admission.check(&stream).is_ok());
    }
}
