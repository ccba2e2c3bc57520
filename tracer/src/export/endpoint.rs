//! Where spans go and how: OTLP by gRPC or HTTP, or Jaeger's Thrift.

use std::time::Duration;

use url::Url;

use super::config::{self, ConfigError, DEFAULT_TIMEOUT, OtlpConfig, Protocol};

/// Where Jaeger's collector takes Thrift over HTTP when nobody says otherwise.
pub const DEFAULT_JAEGER_ENDPOINT: &str = "http://localhost:14268/api/traces";
const THRIFT_PATH: &str = "/api/traces";

/// Everything needed to reach a Jaeger collector by its own protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JaegerConfig {
    /// The URL that requests go to, path included.
    pub endpoint: Url,
    /// How long one request may take.
    pub timeout: Duration,
}

/// An endpoint, and how to speak to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// OTLP, by gRPC or HTTP.
    Otlp(OtlpConfig),
    /// Jaeger's Thrift over HTTP.
    Jaeger(JaegerConfig),
}

impl Endpoint {
    /// An OTLP endpoint: see [`OtlpConfig::resolve`].
    ///
    /// # Errors
    /// A value that cannot be used, with the flag or variable that holds it.
    pub fn otlp(
        endpoint_flag: Option<&str>,
        protocol_flag: Option<Protocol>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        OtlpConfig::resolve(endpoint_flag, protocol_flag, env).map(Self::Otlp)
    }

    /// A Jaeger endpoint: `flag` > `OTEL_EXPORTER_JAEGER_ENDPOINT` > default, with
    /// `OTEL_EXPORTER_JAEGER_TIMEOUT`. Port 4318 or the path `/v1/traces` mean its OTLP receiver;
    /// everything else is Thrift, to `/api/traces` where the URL has no path.
    ///
    /// # Errors
    /// A value that cannot be used, with the flag or variable that holds it.
    pub fn jaeger(
        flag: Option<&str>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let env_value = |name: &str| env(name).filter(|value| !value.trim().is_empty());
        let given = flag
            .filter(|flag| !flag.trim().is_empty())
            .map(|flag| ("--jaeger-endpoint", flag.to_owned()))
            .or_else(|| {
                let name = "OTEL_EXPORTER_JAEGER_ENDPOINT";
                env_value(name).map(|value| (name, value))
            });
        let (source, text) = given.unwrap_or(("default", DEFAULT_JAEGER_ENDPOINT.to_owned()));
        let mut endpoint = config::parse_url(source, text.trim(), false, DEFAULT_JAEGER_ENDPOINT)?;
        if config::signs(&endpoint) == Protocol::HttpProtobuf {
            let mut otlp = OtlpConfig::resolve(None, Some(Protocol::HttpProtobuf), |name| {
                // An endpoint that is named wins over the ones for OTLP in the environment.
                env(name).filter(|_| !name.ends_with("_ENDPOINT"))
            })?;
            config::complete_path(&mut endpoint);
            otlp.endpoint = endpoint;
            return Ok(Self::Otlp(otlp));
        }
        if matches!(endpoint.path(), "" | "/") {
            endpoint.set_path(THRIFT_PATH);
        }
        let name = "OTEL_EXPORTER_JAEGER_TIMEOUT";
        let timeout = match env_value(name) {
            None => DEFAULT_TIMEOUT,
            Some(value) => config::milliseconds(name, &value)?,
        };
        Ok(Self::Jaeger(JaegerConfig { endpoint, timeout }))
    }

    /// The URL that requests go to.
    pub const fn url(&self) -> &Url {
        match self {
            Self::Otlp(config) => &config.endpoint,
            Self::Jaeger(config) => &config.endpoint,
        }
    }

    /// How long one request may take.
    pub const fn timeout(&self) -> Duration {
        match self {
            Self::Otlp(config) => config.timeout,
            Self::Jaeger(config) => config.timeout,
        }
    }

    /// The URL for people's eyes: without credentials.
    pub fn display(&self) -> String {
        config::redacted(self.url())
    }

    /// `grpc`, `http/protobuf` or `thrift/http`.
    pub const fn protocol(&self) -> &'static str {
        match self {
            Self::Otlp(config) => config.protocol.as_str(),
            Self::Jaeger(_) => "thrift/http",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jaeger(flag: Option<&str>, env: &[(&str, &str)]) -> Result<(String, String), String> {
        Endpoint::jaeger(flag, |name| {
            env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
        })
        .map(|endpoint| (endpoint.display(), endpoint.protocol().to_owned()))
        .map_err(|error| error.to_string())
    }

    #[test]
    fn jaegers_url_says_which_protocol() {
        let ok = |flag, env: &[(&str, &str)], url: &str, protocol: &str| {
            assert_eq!(jaeger(flag, env), Ok((url.to_owned(), protocol.to_owned())), "{flag:?}");
        };
        ok(None, &[], DEFAULT_JAEGER_ENDPOINT, "thrift/http");
        ok(Some("http://j:14268"), &[], "http://j:14268/api/traces", "thrift/http");
        ok(Some("http://j:14268/"), &[], "http://j:14268/api/traces", "thrift/http");
        ok(Some("https://j/base/api/traces"), &[], "https://j/base/api/traces", "thrift/http");
        ok(Some("http://u:secret@j:4317"), &[], "http://j:4317/api/traces", "thrift/http");
        ok(Some("http://j:4318"), &[], "http://j:4318/v1/traces", "http/protobuf");
        ok(Some("https://j/v1/traces"), &[], "https://j/v1/traces", "http/protobuf");
        let env = [("OTEL_EXPORTER_JAEGER_ENDPOINT", "http://env:14268/api/traces")];
        ok(None, &env, "http://env:14268/api/traces", "thrift/http");
        ok(Some("http://j:14268"), &env, "http://j:14268/api/traces", "thrift/http");
        // What is said of OTLP does not move Jaeger.
        let env = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otlp:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ];
        ok(Some("http://j:4318"), &env, "http://j:4318/v1/traces", "http/protobuf");
    }

    #[test]
    fn unusable_values_are_named() {
        let text = jaeger(Some("localhost:14268"), &[]).unwrap_err();
        assert!(text.contains("--jaeger-endpoint") && text.contains(DEFAULT_JAEGER_ENDPOINT));
        let text = jaeger(None, &[("OTEL_EXPORTER_JAEGER_TIMEOUT", "1s")]).unwrap_err();
        assert!(text.contains("OTEL_EXPORTER_JAEGER_TIMEOUT") && text.contains("milliseconds"));
    }
}
