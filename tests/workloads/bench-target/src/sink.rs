//! An OTLP endpoint that counts spans and forgets them: HTTP/1.1, protobuf. It looks at no more
//! than it needs to count, so that it takes as little as possible of the machine that is measured.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

static SPANS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static REQUESTS: AtomicU64 = AtomicU64::new(0);

/// Prints its port, then answers each line of standard input with what came in so far.
pub fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut out = io::stdout().lock();
    writeln!(out, r#"{{"port":{}}}"#, listener.local_addr()?.port())?;
    out.flush()?;
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // A client that goes away in the middle is no matter of ours.
            std::thread::spawn(move || drop(receive(&connection)));
        }
    });
    for line in io::stdin().lock().lines() {
        line?;
        writeln!(
            out,
            r#"{{"spans":{},"bytes":{},"requests":{}}}"#,
            SPANS.load(Ordering::Relaxed),
            BYTES.load(Ordering::Relaxed),
            REQUESTS.load(Ordering::Relaxed)
        )?;
        out.flush()?;
    }
    Ok(())
}

fn receive(connection: &TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(1 << 16, connection);
    let mut to = connection;
    let mut body = vec![];
    loop {
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        // ExportTraceServiceRequest.resource_spans = 1, ResourceSpans.scope_spans = 2,
        // ScopeSpans.spans = 2.
        let spans: u64 = fields(&body, 1)
            .flat_map(|resource| fields(resource, 2))
            .map(|scope| fields(scope, 2).count() as u64)
            .sum();
        SPANS.fetch_add(spans, Ordering::Relaxed);
        BYTES.fetch_add(length as u64, Ordering::Relaxed);
        REQUESTS.fetch_add(1, Ordering::Relaxed);
        to.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n",
        )?;
    }
}

/// The length-delimited fields of a protobuf message that have this number.
fn fields(message: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    let mut rest = message;
    std::iter::from_fn(move || {
        loop {
            let key = varint(&mut rest)?;
            let length = match key & 7 {
                0 => {
                    varint(&mut rest)?;
                    0
                }
                1 => 8,
                2 => varint(&mut rest)? as usize,
                5 => 4,
                _ => return None,
            };
            let (field, after) = rest.split_at_checked(length)?;
            rest = after;
            if key == number << 3 | 2 {
                return Some(field);
            }
        }
    })
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
