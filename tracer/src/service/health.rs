//! `/metrics` and `/healthz` on one loopback port: one connection after the other, one request
//! each, bounded in length and time.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;

use super::main_loop::Message;

/// Bytes of a request's head.
const MAX_HEAD: usize = 8192;
/// How long one connection may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Serves in a thread of its own; gives the address, whose port may have been left to us.
///
/// # Errors
/// The address cannot be had, or no thread.
pub(super) fn serve(address: SocketAddr, service: mpsc::Sender<Message>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let bound = listener.local_addr()?;
    thread::Builder::new().name("health".to_owned()).spawn(move || {
        loop {
            match listener.accept() {
                // Whatever goes wrong is the client's business.
                Ok((stream, _)) => drop(converse(stream, &service)),
                Err(error) => {
                    warn!(%error, "accepting a connection for metrics");
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    })?;
    Ok(bound)
}

fn converse(mut stream: TcpStream, service: &mpsc::Sender<Message>) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    let (status, kind, body) = match head(&mut stream, until)? {
        None => ("400 Bad Request", PLAIN, "not an HTTP request\n".to_owned()),
        Some((method, _)) if method != "GET" && method != "HEAD" => {
            ("405 Method Not Allowed", PLAIN, "GET only\n".to_owned())
        }
        Some((_, path)) => match path.as_str() {
            "/metrics" => match metrics(service) {
                Some(text) => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", text),
                None => unwell(),
            },
            // The main loop answers: that is what being well means.
            "/healthz" => match metrics(service) {
                Some(_) => ("200 OK", PLAIN, "ok\n".to_owned()),
                None => unwell(),
            },
            _ => ("404 Not Found", PLAIN, "/metrics or /healthz\n".to_owned()),
        },
    };
    let length = body.len();
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

const PLAIN: &str = "text/plain; charset=utf-8";

fn unwell() -> (&'static str, &'static str, String) {
    ("503 Service Unavailable", PLAIN, "the main loop does not answer\n".to_owned())
}

fn metrics(service: &mpsc::Sender<Message>) -> Option<String> {
    let (reply, text) = mpsc::channel();
    service.send(Message::Metrics { reply }).ok()?;
    text.recv_timeout(PATIENCE).ok()
}

/// Method and path of a request; `None`: it is none.
fn head(stream: &mut TcpStream, until: Instant) -> io::Result<Option<(String, String)>> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&bytes) {
            Ok(httparse::Status::Complete(_)) => {
                let path = request.path.unwrap_or_default();
                let path = path.split_once('?').map_or(path, |(path, _)| path);
                let method = request.method.unwrap_or_default().to_owned();
                return Ok(Some((method, path.to_owned())));
            }
            Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => {}
            Ok(httparse::Status::Partial) | Err(_) => return Ok(None),
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk)? {
            0 => return Ok(None),
            n => bytes.extend_from_slice(&chunk[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    }

    #[test]
    fn two_paths_and_nothing_else() {
        let (service, messages) = mpsc::channel();
        let address = serve("127.0.0.1:0".parse().unwrap(), service).unwrap();
        thread::spawn(move || {
            for message in messages {
                if let Message::Metrics { reply } = message {
                    let _ = reply.send("x 1\n".to_owned());
                }
            }
        });
        let get = |path: &str| ask(address, format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes());
        assert!(get("/metrics").ends_with("\r\n\r\nx 1\n"));
        assert!(get("/metrics?a=b").starts_with("HTTP/1.1 200"));
        assert!(get("/healthz").ends_with("\r\n\r\nok\n"));
        assert!(get("/other").starts_with("HTTP/1.1 404"));
        assert!(ask(address, b"POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
        assert!(ask(address, b"nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
        let long = [b"GET /".as_slice(), &[b'x'; 2 * MAX_HEAD]].concat();
        // It may be cut off while we still write.
        let answer = ask(address, &long);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(get("/healthz").starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn a_main_loop_that_does_not_answer_is_unwell() {
        let (service, messages) = mpsc::channel();
        drop(messages);
        let address = serve("127.0.0.1:0".parse().unwrap(), service).unwrap();
        assert!(ask(address, b"GET /healthz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 503"));
    }
}
