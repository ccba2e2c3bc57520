//! TLS with an authority of our own, and clients that must show a certificate.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::receivers::{Grpc, unused_address};
use super::*;

/// An authority, a server's certificate, a client's: PEM.
struct Issued {
    authority: String,
    server: (String, String),
    client: (String, String),
}

fn issue() -> Issued {
    let mut authority = CertificateParams::new(vec![]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let authority_key = KeyPair::generate().unwrap();
    let authority = authority.self_signed(&authority_key).unwrap();
    let sign = |usage| {
        let mut one = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        one.extended_key_usages = vec![usage];
        one.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let signed = one.signed_by(&key, &authority, &authority_key).unwrap();
        (signed.pem(), key.serialize_pem())
    };
    Issued {
        authority: authority.pem(),
        server: sign(ExtendedKeyUsagePurpose::ServerAuth),
        client: sign(ExtendedKeyUsagePurpose::ClientAuth),
    }
}

/// A gRPC receiver that wants a client's certificate.
fn grpc(issued: &Issued) -> (u16, mpsc::Receiver<()>) {
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::TraceServiceServer;
    let address = unused_address();
    let (send, spans) = mpsc::channel();
    let (told, received) = mpsc::channel();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&issued.server.0, &issued.server.1))
        .client_ca_root(Certificate::from_pem(&issued.authority));
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let service = TraceServiceServer::new(Grpc(send, None));
        let server = Server::builder().tls_config(tls).unwrap().add_service(service);
        runtime.block_on(server.serve(address)).unwrap();
    });
    thread::spawn(move || {
        while spans.recv().is_ok() {
            let _ = told.send(());
        }
    });
    (address.port(), received)
}

/// An HTTPS receiver that wants a client's certificate.
fn https(issued: &Issued) -> (u16, mpsc::Receiver<()>) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(issued.authority.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(issued.server.0.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(issued.server.1.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (told, received) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut data = vec![];
                let mut chunk = [0; 4096];
                while !data.windows(9).any(|bytes| bytes == b"tool_call") {
                    match stream.read(&mut chunk).await {
                        Ok(n @ 1..) => data.extend_from_slice(&chunk[..n]),
                        _ => break,
                    }
                }
                let _ = told.send(());
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            }
        });
    });
    (port, received)
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn authorities_and_client_certificates_from_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let issued = issue();
    let authority = write(dir.path(), "ca.pem", &issued.authority);
    let certificate = write(dir.path(), "client.pem", &issued.client.0);
    let key = write(dir.path(), "client.key", &issued.client.1);
    let all = [
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &authority),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &certificate),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &key),
    ];
    let (grpc, grpc_received) = grpc(&issued);
    let (https, https_received) = https(&issued);
    let urls = [
        (format!("https://localhost:{grpc}"), grpc_received),
        (format!("https://localhost:{https}/v1/traces"), https_received),
    ];
    for (url, received) in &urls {
        let with = |files: &[(&str, &PathBuf)]| {
            let endpoint = Endpoint::otlp(Some(url), None, |name| {
                let file = files.iter().find(|(n, _)| *n == name);
                file.map(|(_, path)| path.to_string_lossy().into_owned())
            });
            One::start(endpoint.unwrap(), impatient())
        };
        let exporter = with(&all);
        exporter.send(&span(1, None));
        received.recv_timeout(PATIENCE).unwrap();
        let stats = exporter.shutdown(PATIENCE);
        assert_eq!((stats.exported, stats.lost()), (1, 0), "{url}: {stats:?}");
        // Without our certificate, and without believing theirs.
        for files in [&all[..1], &[]] {
            let exporter = with(files);
            exporter.send(&span(1, None));
            wait_until("a failure", || exporter.stats().retries > 1);
            let stats = exporter.shutdown(Duration::ZERO);
            assert_eq!((stats.exported, stats.lost()), (0, 1), "{url}: {stats:?}");
        }
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let issued = issue();
    let nonsense = write(dir.path(), "nonsense.pem", "nothing");
    let certificate = write(dir.path(), "client.pem", &issued.client.0);
    let missing = dir.path().join("missing.pem");
    for (name, path, words) in [
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &missing, "missing.pem: No such file"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &nonsense, "nonsense.pem: no PEM certificate"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &certificate, "OTEL_EXPORTER_OTLP_CLIENT_KEY"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &certificate, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"),
    ] {
        let endpoint = Endpoint::otlp(Some("https://localhost:1/v1/traces"), None, |asked| {
            (asked == name).then(|| path.to_string_lossy().into_owned())
        });
        let error = Exporter::start(endpoint.unwrap(), ExportOptions::default()).err();
        let error = error.map(|error| error.to_string()).unwrap();
        assert!(error.contains(words), "{error}");
    }
}
