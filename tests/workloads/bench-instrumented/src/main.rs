//! The functions of `bench-target`, instrumented in process and exported in batches over OTLP:
//! what a user would have to build in to see the same.

use std::borrow::Cow;
use std::error::Error;
use std::pin::pin;
use std::sync::OnceLock;

use bench_target::bodies::{Yields, drive};
use bench_target::serve::{Abilities, serve};
use fastrace::future::FutureExt as _;
use fastrace::prelude::{Span, SpanContext};
use opentelemetry::InstrumentationScope;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use tracing_subscriber::layer::SubscriberExt as _;

/// The functions with `tracing`'s attribute.
mod traced {
    use super::*;

    #[inline(never)]
    #[tracing::instrument(skip_all)]
    fn plain(seed: u64) -> u64 {
        bench_target::dozen!(seed)
    }

    #[tracing::instrument(skip_all)]
    async fn step(seed: u64, polls: u64) -> u64 {
        let before = bench_target::dozen!(seed);
        Yields(polls as u32 - 1).await;
        before
    }

    pub fn plain_calls(n: u64) -> u64 {
        (0..n).fold(0, |sum, seed| sum ^ plain(seed))
    }

    #[inline(always)]
    fn steps(n: u64, polls: u64) -> u64 {
        (0..n).fold(0, |sum, seed| sum ^ drive(pin!(step(seed, polls))))
    }

    pub fn once(n: u64) -> u64 {
        steps(n, 1)
    }

    pub fn ten(n: u64) -> u64 {
        steps(n, 10)
    }

    pub fn hundred(n: u64) -> u64 {
        steps(n, 100)
    }
}

/// The functions with spans of `fastrace`, each the root of a trace, as with `tracing`.
mod fast {
    use super::*;

    #[inline(never)]
    fn plain(seed: u64) -> u64 {
        let _span = Span::root("plain", SpanContext::random());
        bench_target::dozen!(seed)
    }

    async fn step(seed: u64, polls: u64) -> u64 {
        let before = bench_target::dozen!(seed);
        Yields(polls as u32 - 1).await;
        before
    }

    pub fn plain_calls(n: u64) -> u64 {
        (0..n).fold(0, |sum, seed| sum ^ plain(seed))
    }

    #[inline(always)]
    fn steps(n: u64, polls: u64) -> u64 {
        (0..n).fold(0, |sum, seed| {
            let span = Span::root("step", SpanContext::random());
            sum ^ drive(pin!(step(seed, polls).in_span(span)))
        })
    }

    pub fn once(n: u64) -> u64 {
        steps(n, 1)
    }

    pub fn ten(n: u64) -> u64 {
        steps(n, 10)
    }

    pub fn hundred(n: u64) -> u64 {
        steps(n, 100)
    }
}

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Sends what is waiting, so that no queue overflows and every span is exported.
fn settle() {
    if let Some(provider) = PROVIDER.get()
        && let Err(error) = provider.force_flush()
    {
        eprintln!("flushing: {error}");
    }
    fastrace::flush();
}

/// `bench-instrumented tracing|fastrace ENDPOINT`.
fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [kind, endpoint] = &words[..] else { return Err("tracing|fastrace ENDPOINT".into()) };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .build()?;
    let resource = Resource::builder().with_service_name("bench").build();
    match kind.as_str() {
        "tracing" => {
            // A queue that holds a chunk: with the default one of 2,048 most spans are dropped,
            // which is cheap, and nothing to compare with.
            let config = BatchConfigBuilder::default().with_max_queue_size(1 << 16).build();
            let processor = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
            let provider = SdkTracerProvider::builder()
                .with_span_processor(processor)
                .with_resource(resource)
                .build();
            let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("bench"));
            tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))?;
            PROVIDER.set(provider).map_err(|_| "set twice")?;
        }
        "fastrace" => {
            let scope = InstrumentationScope::builder("bench").build();
            let reporter = fastrace_opentelemetry::OpenTelemetryReporter::new(
                exporter,
                Cow::Owned(resource),
                scope,
            );
            fastrace::set_reporter(reporter, fastrace::collector::Config::default());
        }
        _ => return Err("tracing or fastrace".into()),
    }
    let ops: &[(&str, bench_target::load::Op)] = if kind == "tracing" {
        &[
            ("plain", traced::plain_calls),
            ("once", traced::once),
            ("ten", traced::ten),
            ("hundred", traced::hundred),
        ]
    } else {
        &[
            ("plain", fast::plain_calls),
            ("once", fast::once),
            ("ten", fast::ten),
            ("hundred", fast::hundred),
        ]
    };
    // The table lives as long as the program.
    serve(&Abilities { ops, settle, begin: None })?;
    settle();
    Ok(())
}
