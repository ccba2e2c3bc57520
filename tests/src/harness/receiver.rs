//! An OTLP endpoint over HTTP: keeps what it is sent.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

/// What a process's spans are called, each with how often it came; by process id, service name.
pub type Received = BTreeMap<(u32, String), BTreeMap<String, usize>>;

/// Receives for as long as the process lives.
#[derive(Debug)]
pub struct Receiver {
    url: String,
    received: Arc<Mutex<Received>>,
}

impl Receiver {
    /// Listens on a port of its own.
    ///
    /// # Errors
    /// There is none.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/v1/traces", listener.local_addr()?);
        let received = Arc::new(Mutex::new(Received::new()));
        let all = Arc::clone(&received);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let all = Arc::clone(&all);
                // A connection that breaks is its client's to try again.
                thread::spawn(move || converse(stream, &all));
            }
        });
        Ok(Self { url, received })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What came so far.
    pub fn received(&self) -> Received {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many spans of this name came from a process, under whatever service.
    pub fn count(&self, pid: u32, name: &str) -> usize {
        let all = self.received();
        let of = all.iter().filter(|((from, _), _)| *from == pid);
        of.map(|(_, names)| names.get(name).copied().unwrap_or(0)).sum()
    }

    /// The service names that a process's spans came under.
    pub fn services(&self, pid: u32) -> Vec<String> {
        let all = self.received();
        all.into_keys().filter(|(from, _)| *from == pid).map(|(_, name)| name).collect()
    }
}

fn converse(stream: TcpStream, all: &Mutex<Received>) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut length = 0;
        let mut first = true;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().context("content-length")?;
            }
            if line.is_empty() && !first {
                break;
            }
            first = false;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        keep(&ExportTraceServiceRequest::decode(body.as_slice())?, all);
        stream.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n",
        )?;
    }
}

fn keep(request: &ExportTraceServiceRequest, all: &Mutex<Received>) {
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    for group in &request.resource_spans {
        let Some(resource) = &group.resource else { continue };
        let pid = match find(resource, "process.pid") {
            Some(Value::IntValue(pid)) => u32::try_from(*pid).unwrap_or(0),
            _ => 0,
        };
        let service = match find(resource, "service.name") {
            Some(Value::StringValue(name)) => name.clone(),
            _ => String::new(),
        };
        let names = all.entry((pid, service)).or_default();
        for span in group.scope_spans.iter().flat_map(|scope| &scope.spans) {
            *names.entry(span.name.clone()).or_default() += 1;
        }
    }
}

fn find<'a>(resource: &'a Resource, key: &str) -> Option<&'a Value> {
    let is_it = |attribute: &&KeyValue| attribute.key == key;
    resource.attributes.iter().find(is_it)?.value.as_ref()?.value.as_ref()
}
