//! Certificates for `https` endpoints. The transports read none of these variables themselves.

use std::fs;
use std::path::PathBuf;

use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use reqwest::ClientBuilder;

/// Which certificates, as PEM files. Without any, the system's authorities are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authorities to believe instead of the system's (`OTEL_EXPORTER_OTLP_CERTIFICATE`).
    pub certificate: Option<PathBuf>,
    /// Our own certificate (`OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`).
    pub client_certificate: Option<PathBuf>,
    /// Its key (`OTEL_EXPORTER_OTLP_CLIENT_KEY`).
    pub client_key: Option<PathBuf>,
}

/// The contents of the files.
struct Pem {
    authorities: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tls {
    /// From the environment: the variables for traces win over the general ones.
    pub(super) fn resolve(first: impl Fn([&'static str; 2]) -> Option<String>) -> Self {
        let path = |names| first(names).map(PathBuf::from);
        Self {
            certificate: path([
                "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
                "OTEL_EXPORTER_OTLP_CERTIFICATE",
            ]),
            client_certificate: path([
                "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
            ]),
            client_key: path([
                "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
                "OTEL_EXPORTER_OTLP_CLIENT_KEY",
            ]),
        }
    }

    fn read(&self) -> Result<Pem, String> {
        let Self { certificate, client_certificate, client_key } = self;
        let read = |what: &str, path: &PathBuf| {
            fs::read(path).map_err(|error| format!("{what} {}: {error}", path.display()))
        };
        let authorities = certificate.as_ref().map(|path| read("certificate", path)).transpose()?;
        let identity = match (client_certificate, client_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                Some((read("client certificate", certificate)?, read("client key", key)?))
            }
            (Some(path), None) => {
                return Err(format!(
                    "client certificate {}: its key is missing; set OTEL_EXPORTER_OTLP_CLIENT_KEY",
                    path.display()
                ));
            }
            (None, Some(path)) => {
                return Err(format!(
                    "client key {}: its certificate is missing; set \
                     OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
                    path.display()
                ));
            }
        };
        Ok(Pem { authorities, identity })
    }

    pub(super) fn grpc(&self) -> Result<ClientTlsConfig, String> {
        let Pem { authorities, identity } = self.read()?;
        let mut config = ClientTlsConfig::new();
        config = match authorities {
            Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
            None => config.with_native_roots(),
        };
        if let Some((certificate, key)) = identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        Ok(config)
    }

    pub(super) fn http(&self, mut builder: ClientBuilder) -> Result<ClientBuilder, String> {
        let Pem { authorities, identity } = self.read()?;
        if let Some(pem) = authorities {
            let name = || self.certificate.as_deref().unwrap_or_else(|| "".as_ref()).display();
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| format!("certificate {}: {error}", name()))?;
            if certificates.is_empty() {
                return Err(format!("certificate {}: no PEM certificate in it", name()));
            }
            builder = builder.tls_certs_only(certificates);
        }
        if let Some((mut certificate, key)) = identity {
            certificate.push(b'\n');
            certificate.extend(key);
            let identity = reqwest::Identity::from_pem(&certificate)
                .map_err(|error| format!("client certificate or key: {error}"))?;
            builder = builder.identity(identity);
        }
        Ok(builder)
    }
}
