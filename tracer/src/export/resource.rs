//! Who the spans come from.

use opentelemetry::{KeyValue, Value as OtelValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};

use crate::plan::TargetMeta;
use crate::span::Value;

/// The service name when nobody says otherwise.
pub const DEFAULT_SERVICE_NAME: &str = "orchestrate";

/// What the resource of a target's spans is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceInfo {
    /// `service.name`, where it was asked for; else `OTEL_SERVICE_NAME`, the `service.name` of
    /// `OTEL_RESOURCE_ATTRIBUTES`, and at last [`DEFAULT_SERVICE_NAME`].
    pub service_name: Option<String>,
    /// The traced process.
    pub target: TargetMeta,
    /// `host.name`; `None` where it is not known.
    pub host_name: Option<String>,
}

impl ResourceInfo {
    /// The resource of a process on this host.
    pub fn local(service_name: Option<String>, target: TargetMeta) -> Self {
        let uname = rustix::system::uname();
        let host_name =
            uname.nodename().to_str().ok().filter(|name| !name.is_empty()).map(str::to_owned);
        Self { service_name, target, host_name }
    }

    /// The name that spans are exported under.
    pub fn effective_service_name(&self) -> String {
        let env = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        self.service_name
            .clone()
            .or_else(|| env("OTEL_SERVICE_NAME"))
            .or_else(|| {
                let key = opentelemetry::Key::from_static_str("service.name");
                from_environment().get(&key).map(|value| value.to_string())
            })
            .unwrap_or_else(|| DEFAULT_SERVICE_NAME.to_owned())
    }

    /// The resource's attributes, with what the environment adds to them.
    pub(super) fn attributes(&self) -> Vec<(String, Value)> {
        let found = self.to_resource();
        let mut attributes: Vec<(String, Value)> = found
            .iter()
            .map(|(key, value)| {
                let value = match value {
                    OtelValue::Bool(yes) => Value::Bool(*yes),
                    OtelValue::I64(number) => Value::Int(*number),
                    other => Value::Str(other.to_string()),
                };
                (key.to_string(), value)
            })
            .collect();
        attributes.sort_by(|a, b| a.0.cmp(&b.0));
        attributes
    }

    fn to_resource(&self) -> Resource {
        let Self { service_name: _, target, host_name } = self;
        let TargetMeta { pid, executable, build_id } = target;
        let mut attributes = vec![
            KeyValue::new("process.pid", i64::from(*pid)),
            KeyValue::new("process.executable.path", executable.to_string_lossy().into_owned()),
        ];
        if let Some(name) = executable.file_name() {
            let name = name.to_string_lossy().into_owned();
            attributes.push(KeyValue::new("process.executable.name", name));
        }
        if let Some(id) = build_id {
            attributes.push(KeyValue::new("process.executable.build_id.gnu", id.clone()));
        }
        if let Some(host) = host_name {
            attributes.push(KeyValue::new("host.name", host.clone()));
        }
        // Later ones win: what was found out, what the environment says, the service's name.
        Resource::builder_empty()
            .with_detector(Box::new(TelemetryResourceDetector))
            .with_attributes(attributes)
            .with_detector(Box::new(EnvResourceDetector::new()))
            .with_service_name(self.effective_service_name())
            .build()
    }
}

fn from_environment() -> Resource {
    Resource::builder_empty().with_detector(Box::new(EnvResourceDetector::new())).build()
}
