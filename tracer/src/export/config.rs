//! Which endpoint, by which protocol: flags, `OTEL_*` variables and the signs in the URL.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::Url;

use super::tls::Tls;

/// Where OTLP goes when nobody says otherwise.
pub const DEFAULT_ENDPOINT: &str = "http://localhost:4317";
const DEFAULT_HTTP_ENDPOINT: &str = "http://localhost:4318";
const HTTP_PORT: u16 = 4318;
const TRACES_PATH: &str = "/v1/traces";
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// How OTLP is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// gRPC.
    #[serde(rename = "grpc")]
    Grpc,
    /// Protobuf in HTTP requests.
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}

impl Protocol {
    /// Its name, as `OTEL_EXPORTER_OTLP_PROTOCOL` spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.trim().to_ascii_lowercase().as_str() {
            "grpc" => Ok(Self::Grpc),
            "http/protobuf" => Ok(Self::HttpProtobuf),
            "http/json" => Err("http/json is not supported; use grpc or http/protobuf".to_owned()),
            _ => Err("expected grpc or http/protobuf".to_owned()),
        }
    }
}

/// A setting that cannot be used. `source` is the flag or variable it came from.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The endpoint is not a URL.
    #[error("{source_name}: '{endpoint}' is not a URL ({reason}); write it as {example}")]
    NotAUrl {
        /// Flag or variable.
        source_name: String,
        /// What it holds, without credentials.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
        /// One that could be used.
        example: &'static str,
    },
    /// The endpoint's scheme is neither http nor https.
    #[error(
        "{source_name}: '{endpoint}' has no http:// or https:// in front; write it as {example}"
    )]
    Scheme {
        /// Flag or variable.
        source_name: String,
        /// What it holds, without credentials.
        endpoint: String,
        /// One that could be used.
        example: &'static str,
    },
    /// gRPC calls have a path of their own.
    #[error(
        "{source_name}: '{endpoint}' has a path, which gRPC does not; leave it out, or choose \
         --otlp-protocol http/protobuf"
    )]
    PathWithGrpc {
        /// Flag or variable.
        source_name: String,
        /// What it holds, without credentials.
        endpoint: String,
    },
    /// Not a protocol.
    #[error("{source_name}: '{value}': {reason}")]
    Protocol {
        /// Flag or variable.
        source_name: String,
        /// What it holds.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a time.
    #[error("{source_name}: '{value}' is not a number of milliseconds")]
    Timeout {
        /// Variable.
        source_name: String,
        /// What it holds.
        value: String,
    },
}

/// Everything needed to reach an OTLP endpoint. Headers (`OTEL_EXPORTER_OTLP_HEADERS`), which may
/// be credentials, and compression (`OTEL_EXPORTER_OTLP_COMPRESSION`) are read by the transport
/// itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpConfig {
    /// The URL that requests go to: with HTTP the complete one, path included.
    pub endpoint: Url,
    /// How it is carried.
    pub protocol: Protocol,
    /// How long one request may take.
    pub timeout: Duration,
    /// Certificates, for `https`.
    pub tls: Tls,
}

impl OtlpConfig {
    /// Resolves flags and environment: `flag` > `OTEL_EXPORTER_OTLP_TRACES_*` >
    /// `OTEL_EXPORTER_OTLP_*` > default. Without an explicit protocol, port 4318 or the path
    /// `/v1/traces` mean HTTP/protobuf, everything else gRPC.
    ///
    /// `env` looks a variable up; empty values count as unset, as the specification wants.
    ///
    /// # Errors
    /// A value that cannot be used, with the flag or variable that holds it.
    pub fn resolve(
        endpoint_flag: Option<&str>,
        protocol_flag: Option<Protocol>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let env = |name: &str| env(name).filter(|value| !value.trim().is_empty());
        let first = |names: [&'static str; 2]| {
            names.into_iter().find_map(|name| env(name).map(|value| (name, value)))
        };

        let given = endpoint_flag
            .filter(|flag| !flag.trim().is_empty())
            .map(|flag| ("--otlp-endpoint", flag.to_owned()))
            .or_else(|| {
                first(["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])
            });
        let named = match protocol_flag {
            Some(protocol) => Some(protocol),
            None => first(["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"])
                .map(|(name, value)| {
                    value.parse().map_err(|reason| ConfigError::Protocol {
                        source_name: name.to_owned(),
                        value: value.clone(),
                        reason,
                    })
                })
                .transpose()?,
        };
        let insecure = first(["OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"])
            .is_some_and(|(_, value)| value.trim().eq_ignore_ascii_case("true"));
        let timeout =
            match first(["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"]) {
                None => DEFAULT_TIMEOUT,
                Some((name, value)) => milliseconds(name, &value)?,
            };
        let tls = Tls::resolve(|names| first(names).map(|(_, value)| value));

        let (source, text) = given.unwrap_or_else(|| {
            let default = match named {
                Some(Protocol::HttpProtobuf) => DEFAULT_HTTP_ENDPOINT,
                Some(Protocol::Grpc) | None => DEFAULT_ENDPOINT,
            };
            ("default", default.to_owned())
        });
        let mut endpoint = parse_url(source, text.trim(), insecure, DEFAULT_ENDPOINT)?;
        let protocol = named.unwrap_or_else(|| signs(&endpoint));
        match protocol {
            Protocol::Grpc => {
                if endpoint.path() != "/" {
                    return Err(ConfigError::PathWithGrpc {
                        source_name: source.to_owned(),
                        endpoint: redacted(&endpoint),
                    });
                }
            }
            // The signal's own variable is taken as it is; everything else is a base URL.
            Protocol::HttpProtobuf => {
                let path = endpoint.path().trim_end_matches('/');
                if source != "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" || path.is_empty() {
                    complete_path(&mut endpoint);
                }
            }
        }
        Ok(Self { endpoint, protocol, timeout, tls })
    }
}

/// Appends the path of the traces, unless it is there.
pub(super) fn complete_path(url: &mut Url) {
    let path = url.path().trim_end_matches('/');
    if !path.ends_with(TRACES_PATH) {
        url.set_path(&format!("{path}{TRACES_PATH}"));
    }
}

/// A timeout as the specification writes it. 0 means the default, not "never".
pub(super) fn milliseconds(name: &str, value: &str) -> Result<Duration, ConfigError> {
    match value.trim().parse::<u64>() {
        Ok(0) => Ok(DEFAULT_TIMEOUT),
        Ok(ms) => Ok(Duration::from_millis(ms)),
        Err(_) => {
            Err(ConfigError::Timeout { source_name: name.to_owned(), value: value.to_owned() })
        }
    }
}

/// By port 4318 or the path `/v1/traces` a URL says that it is one of OTLP over HTTP.
pub(super) fn signs(url: &Url) -> Protocol {
    let http = url.port() == Some(HTTP_PORT) || url.path().trim_end_matches('/') == TRACES_PATH;
    if http { Protocol::HttpProtobuf } else { Protocol::Grpc }
}

pub(super) fn parse_url(
    source: &str,
    text: &str,
    insecure: bool,
    example: &'static str,
) -> Result<Url, ConfigError> {
    // The specification lets gRPC endpoints go without a scheme where INSECURE says which.
    let text =
        if insecure && !text.contains("://") { format!("http://{text}") } else { text.to_owned() };
    let shown = without_userinfo(&text);
    if !text.contains("://") {
        return Err(ConfigError::Scheme {
            source_name: source.to_owned(),
            endpoint: shown,
            example,
        });
    }
    let url = Url::parse(&text).map_err(|error| ConfigError::NotAUrl {
        source_name: source.to_owned(),
        endpoint: shown.clone(),
        reason: error.to_string(),
        example,
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(ConfigError::Scheme {
            source_name: source.to_owned(),
            endpoint: shown,
            example,
        });
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(ConfigError::NotAUrl {
            source_name: source.to_owned(),
            endpoint: shown,
            reason: "no host".to_owned(),
            example,
        });
    }
    Ok(url)
}

/// Credentials and query strings are not for logs.
pub(super) fn redacted(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    let text = url.to_string();
    if url.path() == "/" { text.trim_end_matches('/').to_owned() } else { text }
}

fn without_userinfo(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}{}", &text[..scheme + 3], &text[at + 1..])
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(
        endpoint: Option<&str>,
        protocol: Option<Protocol>,
        env: &[(&str, &str)],
    ) -> Result<(String, Protocol), String> {
        OtlpConfig::resolve(endpoint, protocol, |name| {
            env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
        })
        .map(|config| (config.endpoint.to_string(), config.protocol))
        .map_err(|error| error.to_string())
    }

    const HTTP: Protocol = Protocol::HttpProtobuf;
    const GRPC: Protocol = Protocol::Grpc;

    #[test]
    fn protocol_by_flag_environment_and_signs() {
        let ok = |endpoint, protocol, env: &[(&str, &str)], url: &str, expected| {
            assert_eq!(resolve(endpoint, protocol, env), Ok((url.to_owned(), expected)));
        };
        ok(None, None, &[], "http://localhost:4317/", GRPC);
        ok(None, Some(HTTP), &[], "http://localhost:4318/v1/traces", HTTP);
        ok(Some("http://c:4318"), None, &[], "http://c:4318/v1/traces", HTTP);
        ok(Some("http://c:4318/"), None, &[], "http://c:4318/v1/traces", HTTP);
        ok(Some("https://c/v1/traces"), None, &[], "https://c/v1/traces", HTTP);
        ok(Some("https://c:9000"), None, &[], "https://c:9000/", GRPC);
        ok(Some("http://c:4318"), Some(GRPC), &[], "http://c:4318/", GRPC);
        ok(Some("http://c:1/base"), Some(HTTP), &[], "http://c:1/base/v1/traces", HTTP);
        let env = [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")];
        ok(Some("http://c:4317"), None, &env, "http://c:4317/v1/traces", HTTP);
        ok(Some("http://c:4317"), Some(GRPC), &env, "http://c:4317/", GRPC);
        ok(None, None, &env, "http://localhost:4318/v1/traces", HTTP);
        let both = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
        ];
        ok(None, None, &both, "http://localhost:4317/", GRPC);
    }

    #[test]
    fn endpoint_by_flag_and_environment() {
        let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://general:4318");
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://own:4318/custom");
        let url = |endpoint, env: &[(&str, &str)]| resolve(endpoint, None, env).unwrap().0;
        assert_eq!(url(Some("http://flag:1"), &[general, traces]), "http://flag:1/");
        assert_eq!(url(None, &[general, traces]), "http://own:4318/custom");
        assert_eq!(url(None, &[general]), "http://general:4318/v1/traces");
        assert_eq!(url(None, &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), "http://localhost:4317/");
        let insecure = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
            ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
        ];
        assert_eq!(url(None, &insecure), "http://collector:4317/");
    }

    #[test]
    fn unusable_values_are_named() {
        let err = |endpoint, protocol, env: &[(&str, &str)]| {
            resolve(endpoint, protocol, env).unwrap_err()
        };
        let text = err(Some("localhost:4317"), None, &[]);
        assert!(text.contains("--otlp-endpoint") && text.contains("http://localhost:4317"));
        assert!(err(Some("ftp://u:secret@h"), None, &[]).contains("'ftp://h'"));
        assert!(err(Some("http://u:secret@h:99999"), None, &[]).contains("'http://h:99999'"));
        assert!(err(Some("http://"), None, &[]).contains("is not a URL"));
        assert!(err(Some("http://h/v1/traces"), Some(GRPC), &[]).contains("http/protobuf"));
        assert!(err(Some("http://h:1/x"), None, &[]).contains("has a path"));
        let text = err(None, None, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]);
        assert!(text.contains("OTEL_EXPORTER_OTLP_PROTOCOL") && text.contains("not supported"));
        let text = err(None, None, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "10s")]);
        assert!(text.contains("OTEL_EXPORTER_OTLP_TIMEOUT") && text.contains("milliseconds"));
    }

    #[test]
    fn credentials_are_not_shown() {
        let config =
            OtlpConfig::resolve(Some("https://u:secret@h:4318/?token=x"), None, |_| None).unwrap();
        assert_eq!(redacted(&config.endpoint), "https://h:4318/v1/traces");
        assert!(config.endpoint.as_str().contains("secret"));
    }
}
