//! What `enable` asked for, and what follows from it, the environment, the configuration file and
//! the defaults, in this order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use url::Url;

use super::config::Config;
use crate::config::{
    DEFAULT_JAEGER_ENDPOINT, DEFAULT_OTLP_ENDPOINT, TracingConfig, TracingExporter,
};
use crate::export::{ConfigError, DEFAULT_SERVICE_NAME, Endpoint, Protocol};
use crate::sampling::{Policy, Ratio};

/// What `enable` sends: its flags, and the `OTEL_*` variables of whoever called it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Choice {
    /// The flags.
    pub flags: TracingConfig,
    /// `OTEL_*` variables.
    pub environment: BTreeMap<String, String>,
}

/// The variable for Jaeger's endpoint.
const JAEGER_ENDPOINT: &str = "OTEL_EXPORTER_JAEGER_ENDPOINT";
/// More variables than this are a mistake.
const MAX_VARIABLES: usize = 128;
/// A text longer than this is a mistake.
const MAX_TEXT: usize = 8192;

impl Choice {
    /// Whether it is within bounds and makes sense by itself.
    ///
    /// # Errors
    /// Which part is wrong, and how.
    pub fn check(&self) -> Result<(), String> {
        let Self { flags, environment } = self;
        let texts = [&flags.service_name, &flags.jaeger_endpoint, &flags.otlp_endpoint];
        if texts.into_iter().flatten().any(|text| text.len() > MAX_TEXT) {
            return Err(format!("a value of more than {MAX_TEXT} bytes"));
        }
        if flags.service_name.as_deref().is_some_and(|name| name.trim().is_empty()) {
            return Err("--service-name: an empty name; leave it out for 'orchestrate'".to_owned());
        }
        if let Some(name) = &flags.service_name
            && name.chars().any(char::is_control)
        {
            return Err("--service-name: control characters are not allowed".to_owned());
        }
        if environment.len() > MAX_VARIABLES {
            return Err(format!("more than {MAX_VARIABLES} OTEL_ variables"));
        }
        for (name, value) in environment {
            if !name.starts_with("OTEL_") || name.len() > 128 || value.len() > MAX_TEXT {
                return Err(format!("environment variable '{}'", name.escape_debug()));
            }
        }
        Ok(())
    }
}

/// `OTEL_*` variables in layers: the first layer that knows a setting decides it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Environment {
    layers: Vec<BTreeMap<String, String>>,
}

impl Environment {
    /// From the highest layer to the lowest.
    pub fn new(layers: Vec<BTreeMap<String, String>>) -> Self {
        Self { layers }
    }

    /// The variables of this process whose name begins with `OTEL_`.
    pub fn own() -> BTreeMap<String, String> {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("OTEL_"))
            .collect()
    }

    /// A variable. `OTEL_EXPORTER_OTLP_X` of a higher layer hides `OTEL_EXPORTER_OTLP_TRACES_X`
    /// of a lower one: they are one setting. Empty values count as unset.
    pub fn get(&self, name: &str) -> Option<String> {
        let one_setting = family(name);
        let value = |layer: &BTreeMap<String, String>, name: &str| {
            layer.get(name).filter(|value| !value.trim().is_empty()).cloned()
        };
        self.layers
            .iter()
            .find(|layer| one_setting.iter().any(|name| value(layer, name).is_some()))
            .and_then(|layer| value(layer, name))
    }

    /// The endpoint that a lookup of both names gives.
    fn otlp(&self, what: &str) -> Option<String> {
        self.get(&format!("OTEL_EXPORTER_OTLP_TRACES_{what}"))
            .or_else(|| self.get(&format!("OTEL_EXPORTER_OTLP_{what}")))
    }
}

fn family(name: &str) -> Vec<String> {
    const GENERAL: &str = "OTEL_EXPORTER_OTLP_";
    const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_";
    if let Some(rest) = name.strip_prefix(TRACES) {
        vec![name.to_owned(), format!("{GENERAL}{rest}")]
    } else if let Some(rest) = name.strip_prefix(GENERAL) {
        vec![name.to_owned(), format!("{TRACES}{rest}")]
    } else {
        vec![name.to_owned()]
    }
}

/// What is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Tracing is on.
    pub enabled: bool,
    /// Where spans go; [`TracingExporter::None`] does not occur, nothing is an empty list.
    pub exporters: Vec<TracingExporter>,
    /// `service.name` of the spans.
    pub service_name: String,
    /// Which traces are exported.
    pub policy: Policy,
    /// What was not taken as it was said.
    pub warnings: Vec<String>,
    /// Endpoint by flag; the environment is asked where it is `None`.
    pub otlp_endpoint: Option<String>,
    /// Likewise.
    pub otlp_protocol: Option<Protocol>,
    /// Likewise.
    pub jaeger_endpoint: Option<String>,
    /// The variables in force, the file's settings in the lowest layer.
    pub environment: Environment,
}

/// Why settings do not make sense together.
pub type Unusable = String;

impl Settings {
    /// Puts the layers together: `choice` (its flags, then its variables), the service's own
    /// variables, the file, the defaults.
    ///
    /// # Errors
    /// A variable that cannot be used, and why.
    pub fn resolve(
        enabled: bool,
        choice: &Choice,
        own: &BTreeMap<String, String>,
        config: &Config,
    ) -> Result<Self, Unusable> {
        let file = as_variables(&config.export);
        let environment = Environment::new(vec![choice.environment.clone(), own.clone(), file]);
        let flags = &choice.flags;
        let (ratio, warning) = ratio(flags, &environment, &config.export)?;
        let keep = if flags.keep.is_empty() { &config.export.keep } else { &flags.keep };
        let policy = Policy {
            ratio,
            traces_per_second: flags.max_traces_per_second.or(config.export.max_traces_per_second),
            keep: keep.clone(),
            ..Policy::default()
        };
        Ok(Self {
            enabled,
            exporters: exporters(flags, &environment, &config.export)?,
            service_name: service_name(flags, choice, own, config),
            policy,
            warnings: warning.into_iter().collect(),
            otlp_endpoint: flags.otlp_endpoint.clone(),
            otlp_protocol: flags.otlp_protocol,
            jaeger_endpoint: flags.jaeger_endpoint.clone(),
            environment,
        })
    }

    /// The endpoints, each once.
    ///
    /// # Errors
    /// A value that cannot be used, with the flag or variable that holds it.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>, ConfigError> {
        let env = |name: &str| self.environment.get(name);
        let mut endpoints = vec![];
        for exporter in &self.exporters {
            let endpoint = match exporter {
                TracingExporter::None => continue,
                TracingExporter::Otlp => {
                    Endpoint::otlp(self.otlp_endpoint.as_deref(), self.otlp_protocol, env)?
                }
                TracingExporter::Jaeger => Endpoint::jaeger(self.jaeger_endpoint.as_deref(), env)?,
            };
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        Ok(endpoints)
    }

    /// The OTLP endpoint for people's eyes.
    pub fn shown_otlp_endpoint(&self) -> String {
        let given = self.otlp_endpoint.clone().or_else(|| self.environment.otlp("ENDPOINT"));
        given.map_or_else(|| DEFAULT_OTLP_ENDPOINT.to_owned(), |url| without_credentials(&url))
    }

    /// Jaeger's endpoint for people's eyes.
    pub fn shown_jaeger_endpoint(&self) -> String {
        let given = self.jaeger_endpoint.clone().or_else(|| self.environment.get(JAEGER_ENDPOINT));
        given.map_or_else(|| DEFAULT_JAEGER_ENDPOINT.to_owned(), |url| without_credentials(&url))
    }

    /// Whether nobody named the endpoint of this exporter.
    pub fn is_default_endpoint(&self, exporter: TracingExporter) -> bool {
        match exporter {
            TracingExporter::Jaeger => {
                self.jaeger_endpoint.is_none() && self.environment.get(JAEGER_ENDPOINT).is_none()
            }
            TracingExporter::Otlp => {
                self.otlp_endpoint.is_none() && self.environment.otlp("ENDPOINT").is_none()
            }
            TracingExporter::None => true,
        }
    }
}

/// Some of the file's settings are what a variable would say.
fn as_variables(file: &TracingConfig) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    if let Some(url) = &file.otlp_endpoint {
        variables.insert("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), url.clone());
    }
    if let Some(url) = &file.jaeger_endpoint {
        variables.insert(JAEGER_ENDPOINT.to_owned(), url.clone());
    }
    if let Some(protocol) = file.otlp_protocol {
        variables.insert("OTEL_EXPORTER_OTLP_PROTOCOL".to_owned(), protocol.to_string());
    }
    variables
}

fn exporters(
    flags: &TracingConfig,
    environment: &Environment,
    file: &TracingConfig,
) -> Result<Vec<TracingExporter>, Unusable> {
    let mut wanted = flags.exporters.clone();
    if wanted.is_empty() {
        // Who names an endpoint wants it used.
        wanted.extend(flags.otlp_endpoint.as_ref().map(|_| TracingExporter::Otlp));
        wanted.extend(flags.jaeger_endpoint.as_ref().map(|_| TracingExporter::Jaeger));
    }
    if wanted.is_empty()
        && let Some(names) = environment.get("OTEL_TRACES_EXPORTER")
    {
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let exporter = name.parse().map_err(|why| format!("OTEL_TRACES_EXPORTER: {why}"))?;
            wanted.push(exporter);
        }
    }
    if wanted.is_empty() {
        wanted.clone_from(&file.exporters);
    }
    let mut distinct: Vec<TracingExporter> = vec![];
    for exporter in wanted {
        if exporter != TracingExporter::None && !distinct.contains(&exporter) {
            distinct.push(exporter);
        }
    }
    Ok(distinct)
}

fn service_name(
    flags: &TracingConfig,
    choice: &Choice,
    own: &BTreeMap<String, String>,
    config: &Config,
) -> String {
    let variable = |layer: &BTreeMap<String, String>| {
        let set = |value: &&String| !value.trim().is_empty();
        let resource = || {
            let pairs = layer.get("OTEL_RESOURCE_ATTRIBUTES")?.split(',');
            pairs.filter_map(|pair| pair.split_once('=')).find_map(|(key, value)| {
                (key.trim() == "service.name" && !value.trim().is_empty())
                    .then(|| value.trim().to_owned())
            })
        };
        layer.get("OTEL_SERVICE_NAME").filter(set).cloned().or_else(resource)
    };
    flags
        .service_name
        .clone()
        .or_else(|| variable(&choice.environment))
        .or_else(|| variable(own))
        .or_else(|| config.export.service_name.clone())
        .unwrap_or_else(|| DEFAULT_SERVICE_NAME.to_owned())
}

/// The share of traces, and a warning where it had to be clamped.
fn ratio(
    flags: &TracingConfig,
    environment: &Environment,
    file: &TracingConfig,
) -> Result<(Ratio, Option<String>), Unusable> {
    let clamp = |source: &str, rate: f64| {
        let (ratio, clamped) = Ratio::clamped(rate);
        let warning = || format!("{source} {rate} is not between 0 and 1; using {}", ratio.get());
        Ok((ratio, clamped.then(warning)))
    };
    if let Some(rate) = flags.sample_rate {
        return clamp("--sample-rate", rate);
    }
    let Some(sampler) = environment.get("OTEL_TRACES_SAMPLER") else {
        return file.sample_rate.map_or(Ok((Ratio::ALL, None)), |rate| clamp("sample_rate", rate));
    };
    let sampler = sampler.trim();
    match sampler.strip_prefix("parentbased_").unwrap_or(sampler) {
        "always_on" => Ok((Ratio::ALL, None)),
        "always_off" => Ok((Ratio::NONE, None)),
        "traceidratio" => match environment.get("OTEL_TRACES_SAMPLER_ARG") {
            None => Ok((Ratio::ALL, None)),
            Some(text) => match text.trim().parse() {
                Ok(rate) => clamp("OTEL_TRACES_SAMPLER_ARG", rate),
                Err(_) => {
                    Err(format!("OTEL_TRACES_SAMPLER_ARG: '{text}' is not a number from 0 to 1"))
                }
            },
        },
        other => Err(format!(
            "OTEL_TRACES_SAMPLER: '{other}' is not supported; use traceidratio, always_on or \
             always_off, with parentbased_ in front or without"
        )),
    }
}

/// Credentials and query strings are not for people's eyes.
fn without_credentials(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else { return text.to_owned() };
    if url.username().is_empty() && url.password().is_none() && url.query().is_none() {
        // As it was given, with or without a slash.
        return text.to_owned();
    }
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn resolve(
        flags: TracingConfig,
        caller: &[(&str, &str)],
        own: &[(&str, &str)],
        file: TracingConfig,
    ) -> Settings {
        let choice = Choice { flags, environment: map(caller) };
        let config = Config { export: file, ..Config::default() };
        Settings::resolve(true, &choice, &map(own), &config).unwrap()
    }

    #[test]
    fn each_layer_gives_way_to_the_one_above() {
        use TracingExporter::{Jaeger, Otlp};
        let flags = TracingConfig::new(Jaeger)
            .with_service_name("flag")
            .with_sample_rate(0.1)
            .with_otlp_endpoint("http://flag:4317");
        let caller = [
            ("OTEL_TRACES_EXPORTER", "otlp,none"),
            ("OTEL_SERVICE_NAME", "caller"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.2"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://caller:4317"),
        ];
        let own = [
            ("OTEL_TRACES_EXPORTER", "jaeger"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b,service.name=own"),
            ("OTEL_TRACES_SAMPLER", "always_off"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://own:4317"),
        ];
        let file = TracingConfig::new(Otlp)
            .with_service_name("file")
            .with_sample_rate(0.3)
            .with_otlp_endpoint("http://file:4317");
        let none = TracingConfig::default;
        let seen = |settings: Settings| {
            let endpoint = settings.shown_otlp_endpoint();
            (settings.exporters, settings.service_name, settings.policy.ratio.get(), endpoint)
        };
        let expect = |exporters: &[TracingExporter], name: &str, rate, url: &str| {
            (exporters.to_vec(), name.to_owned(), rate, url.to_owned())
        };
        assert_eq!(
            seen(resolve(flags, &caller, &own, file.clone())),
            expect(&[Jaeger], "flag", 0.1, "http://flag:4317")
        );
        assert_eq!(
            seen(resolve(none(), &caller, &own, file.clone())),
            expect(&[Otlp], "caller", 0.2, "http://caller:4317")
        );
        assert_eq!(
            seen(resolve(none(), &[], &own, file.clone())),
            expect(&[Jaeger], "own", 0.0, "http://own:4317")
        );
        assert_eq!(
            seen(resolve(none(), &[], &[], file)),
            expect(&[Otlp], "file", 0.3, "http://file:4317")
        );
        assert_eq!(
            seen(resolve(none(), &[], &[], none())),
            expect(&[], "orchestrate", 1.0, "http://localhost:4317")
        );
    }

    #[test]
    fn a_general_variable_hides_a_special_one_below() {
        let settings = resolve(
            TracingConfig::default(),
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://caller:1")],
            &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://own:1"), ("OTEL_X", "y")],
            TracingConfig::default(),
        );
        let get = |name| settings.environment.get(name);
        assert_eq!(get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), None);
        assert_eq!(get("OTEL_EXPORTER_OTLP_ENDPOINT").as_deref(), Some("http://caller:1"));
        assert_eq!(get("OTEL_X").as_deref(), Some("y"));
    }

    #[test]
    fn an_endpoint_means_its_exporter() {
        let flags = TracingConfig::default().with_jaeger_endpoint("http://j:14268");
        let settings = resolve(flags, &[], &[], TracingConfig::default());
        assert_eq!(settings.exporters, [TracingExporter::Jaeger]);
        assert!(!settings.is_default_endpoint(TracingExporter::Jaeger));
        assert!(settings.is_default_endpoint(TracingExporter::Otlp));
        let none = TracingConfig::new(TracingExporter::None);
        let settings = resolve(none, &[("OTEL_TRACES_EXPORTER", "otlp")], &[], Default::default());
        assert!(settings.exporters.is_empty());
    }

    #[test]
    fn unusable_variables_are_named() {
        for (name, value) in
            [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_TRACES_SAMPLER", "jaeger_remote")]
        {
            let choice = Choice { environment: map(&[(name, value)]), ..Choice::default() };
            let config = Config::default();
            let error = Settings::resolve(true, &choice, &map(&[]), &config).unwrap_err();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn what_is_shown_holds_no_credentials() {
        assert_eq!(without_credentials("http://u:secret@h:1/x?token=y"), "http://h:1/x");
        assert_eq!(without_credentials("http://h:1"), "http://h:1");
    }

    #[test]
    fn choices_are_bounded() {
        let mut choice = Choice::default();
        assert_eq!(choice.check(), Ok(()));
        choice.environment.insert("PATH".to_owned(), "/bin".to_owned());
        assert!(choice.check().unwrap_err().contains("PATH"));
        choice.environment.clear();
        choice.flags.service_name = Some("x".repeat(9000));
        assert!(choice.check().is_err());
        choice.flags.service_name = Some("  ".to_owned());
        assert!(choice.check().unwrap_err().contains("empty"));
    }
}
