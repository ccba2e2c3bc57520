//! Receivers that do what a test wants.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub(super) struct Grpc(
    pub(super) mpsc::Sender<ExportTraceServiceRequest>,
    pub(super) Option<tonic::Code>,
);

#[tonic::async_trait]
impl TraceService for Grpc {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if let Some(code) = self.1 {
            return Err(Status::new(code, "not today"));
        }
        let _ = self.0.send(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Serves until the end of the test process.
pub(super) fn grpc(
    address: SocketAddr,
    refuse_with: Option<tonic::Code>,
) -> mpsc::Receiver<ExportTraceServiceRequest> {
    let (send, received) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let service = TraceServiceServer::new(Grpc(send, refuse_with))
            .accept_compressed(tonic::codec::CompressionEncoding::Gzip);
        let server = tonic::transport::Server::builder().add_service(service).serve(address);
        runtime.block_on(server).unwrap();
    });
    received
}

pub(super) fn unused_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A request whose body is OTLP.
pub(super) struct HttpRequest {
    pub(super) head: String,
    pub(super) body: ExportTraceServiceRequest,
}

/// Answers every OTLP request with `status`, until the end of the test process.
pub(super) fn http(status: &'static str) -> (SocketAddr, mpsc::Receiver<HttpRequest>) {
    let receiver = Receiver::start(None, Reply::Status(status, String::new()));
    let address = receiver.address;
    let (send, received) = mpsc::channel();
    thread::spawn(move || {
        while let Ok(Raw { head, body }) = receiver.requests.recv() {
            let body = ExportTraceServiceRequest::decode(&*body).unwrap();
            let _ = send.send(HttpRequest { head, body });
        }
    });
    (address, received)
}

/// What a receiver does with a request.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// Answers with a status line and more lines of the head.
    Status(&'static str, String),
    /// Answers 200 with a body.
    Body(Vec<u8>),
    /// Writes this instead of an answer.
    Garbage(&'static [u8]),
    /// Never answers.
    Hang,
}

/// A request as it came.
pub(super) struct Raw {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

/// An HTTP server that can be told what to do, and killed.
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    pub(super) requests: mpsc::Receiver<Raw>,
    reply: Arc<Mutex<Reply>>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Receiver {
    pub(super) fn start(address: Option<SocketAddr>, reply: Reply) -> Self {
        let address = address.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (send, requests) = mpsc::channel();
        let reply = Arc::new(Mutex::new(reply));
        let connections: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (reply, connections, stop) =
                (Arc::clone(&reply), Arc::clone(&connections), Arc::clone(&stop));
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if stop.load(Relaxed) {
                        return;
                    }
                    let stream = stream.unwrap();
                    connections.lock().unwrap().push(stream.try_clone().unwrap());
                    let (reply, send) = (Arc::clone(&reply), send.clone());
                    thread::spawn(move || serve(stream, &reply, &send));
                }
            })
        };
        Self { address, requests, reply, connections, stop, thread: Some(thread) }
    }

    pub(super) fn reply(&self, reply: Reply) {
        *self.reply.lock().unwrap() = reply;
    }

    /// Nobody listens there any more when this returns.
    pub(super) fn kill(mut self) -> SocketAddr {
        self.stop.store(true, Relaxed);
        let _ = TcpStream::connect(self.address);
        self.thread.take().unwrap().join().unwrap();
        for connection in self.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        self.address
    }
}

fn serve(mut stream: TcpStream, reply: &Mutex<Reply>, send: &mpsc::Sender<Raw>) {
    let mut data = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut chunk) {
        data.extend_from_slice(&chunk[..n]);
        let Some(end) = data.windows(4).position(|w| w == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&data[..end]).into_owned();
        let length = head
            .lines()
            .find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let Some(length): Option<usize> = length else {
            let _ = stream.write_all(b"what?\r\n");
            let _ = stream.shutdown(Shutdown::Both);
            return;
        };
        if data.len() < end + 4 + length {
            continue;
        }
        let body: Vec<u8> = data.drain(..end + 4 + length).skip(end + 4).collect();
        let reply = reply.lock().unwrap().clone();
        let _ = send.send(Raw { head, body });
        let answer = match reply {
            Reply::Status(status, more) => {
                format!("HTTP/1.1 {status}\r\n{more}content-length: 0\r\n\r\n").into_bytes()
            }
            Reply::Body(body) => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                [head.into_bytes(), body].concat()
            }
            Reply::Garbage(bytes) => bytes.to_vec(),
            Reply::Hang => continue,
        };
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}
