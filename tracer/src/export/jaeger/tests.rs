//! What is written, read back by the thrift crate's own reader.

use std::sync::Arc;

use proptest::prelude::*;
use thrift::protocol::{TBinaryInputProtocol, TInputProtocol, TType};

use super::model::{Batch, Log, Process, Span, Tag, TagValue};
use super::*;
use crate::export::batch::{self, Origin};
use crate::export::tests::span;
use crate::span::{ClockAnchor, MonoNs, Outcome, SpanEvent, SpanKind, Value};

type In<'a> = &'a mut dyn TInputProtocol;

/// Calls `read` for every field of a structure.
fn fields(input: In<'_>, mut read: impl FnMut(In<'_>, i16, TType)) {
    input.read_struct_begin().unwrap();
    loop {
        let field = input.read_field_begin().unwrap();
        if field.field_type == TType::Stop {
            break;
        }
        read(input, field.id.unwrap(), field.field_type);
        input.read_field_end().unwrap();
    }
    input.read_struct_end().unwrap();
}

fn list<T>(input: In<'_>, read: impl Fn(In<'_>) -> T) -> Vec<T> {
    let list = input.read_list_begin().unwrap();
    assert_eq!(list.element_type, TType::Struct);
    let items = (0..list.size).map(|_| read(input)).collect();
    input.read_list_end().unwrap();
    items
}

fn tag(input: In<'_>) -> Tag {
    let (mut key, mut kind, mut value) = (None, None, None);
    fields(input, |input, id, _| match id {
        1 => key = Some(input.read_string().unwrap()),
        2 => kind = Some(input.read_i32().unwrap()),
        3 => value = Some((0, TagValue::Str(input.read_string().unwrap()))),
        4 => value = Some((1, TagValue::Double(input.read_double().unwrap()))),
        5 => value = Some((2, TagValue::Bool(input.read_bool().unwrap()))),
        6 => value = Some((3, TagValue::Long(input.read_i64().unwrap()))),
        _ => panic!("field {id} of a tag"),
    });
    let (known, value) = value.unwrap();
    assert_eq!(kind, Some(known), "the kind of {value:?}");
    Tag { key: key.unwrap(), value }
}

fn log(input: In<'_>) -> Log {
    let mut log = Log { timestamp: 0, fields: vec![] };
    fields(input, |input, id, _| match id {
        1 => log.timestamp = input.read_i64().unwrap(),
        2 => log.fields = list(input, tag),
        _ => panic!("field {id} of a log"),
    });
    log
}

fn read_span(input: In<'_>) -> Span {
    let mut numbers = [0_i64; 12];
    let (mut operation_name, mut flags) = (String::new(), 0);
    let (mut tags, mut logs) = (vec![], vec![]);
    fields(input, |input, id, kind| match id {
        1 | 2 | 3 | 4 | 8 | 9 => {
            assert_eq!(kind, TType::I64);
            numbers[usize::try_from(id).unwrap()] = input.read_i64().unwrap();
        }
        5 => operation_name = input.read_string().unwrap(),
        7 => flags = input.read_i32().unwrap(),
        10 => tags = list(input, tag),
        11 => logs = list(input, log),
        _ => panic!("field {id} of a span"),
    });
    let [_, trace_id_low, trace_id_high, span_id, parent_span_id, .., start_time, duration, _, _] =
        numbers;
    Span {
        trace_id_low,
        trace_id_high,
        span_id,
        parent_span_id,
        operation_name,
        flags,
        start_time,
        duration,
        tags,
        logs,
    }
}

fn decode(bytes: &[u8]) -> Batch {
    let mut process = Process { service_name: String::new(), tags: vec![] };
    let mut spans = vec![];
    let mut left = bytes;
    fields(&mut TBinaryInputProtocol::new(&mut left, true), |input, id, _| match id {
        1 => fields(input, |input, id, _| match id {
            1 => process.service_name = input.read_string().unwrap(),
            2 => process.tags = list(input, tag),
            _ => panic!("field {id} of a process"),
        }),
        2 => spans = list(input, read_span),
        _ => panic!("field {id} of a batch"),
    });
    assert!(left.is_empty(), "{} bytes more", left.len());
    Batch { process, spans }
}

fn any_tag() -> impl Strategy<Value = Tag> {
    let value = prop_oneof![
        ".*".prop_map(TagValue::Str),
        (-1e300..1e300_f64).prop_map(TagValue::Double),
        any::<bool>().prop_map(TagValue::Bool),
        any::<i64>().prop_map(TagValue::Long),
    ];
    (".{0,20}", value).prop_map(|(key, value)| Tag { key, value })
}

fn any_span() -> impl Strategy<Value = Span> {
    let tags = || prop::collection::vec(any_tag(), 0..4);
    let log = (any::<i64>(), tags()).prop_map(|(timestamp, fields)| Log { timestamp, fields });
    let logs = prop::collection::vec(log, 0..3);
    (any::<[i64; 6]>(), ".*", any::<i32>(), tags(), logs).prop_map(
        |(numbers, operation_name, flags, tags, logs)| {
            let [trace_id_low, trace_id_high, span_id, parent_span_id, start_time, duration] =
                numbers;
            Span {
                trace_id_low,
                trace_id_high,
                span_id,
                parent_span_id,
                operation_name,
                flags,
                start_time,
                duration,
                tags,
                logs,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_is_what_is_read(
        service_name in ".*",
        tags in prop::collection::vec(any_tag(), 0..5),
        spans in prop::collection::vec(any_span(), 0..5),
    ) {
        let batch = Batch { process: Process { service_name, tags }, spans };
        prop_assert_eq!(decode(&encode(&batch).unwrap()), batch);
    }
}

#[test]
fn the_bytes_are_those_of_the_binary_protocol() {
    let batch =
        Batch { process: Process { service_name: "s".to_owned(), tags: vec![] }, spans: vec![] };
    let expected = [
        12, 0, 1, // field 1: struct
        11, 0, 1, 0, 0, 0, 1, b's', // field 1: string
        15, 0, 2, 12, 0, 0, 0, 0, // field 2: list of no structs
        0, // end of the process
        15, 0, 2, 12, 0, 0, 0, 0, // field 2: list of no structs
        0, // end of the batch
    ];
    assert_eq!(encode(&batch).unwrap(), expected);
}

#[test]
fn a_span_in_jaegers_words() {
    let anchor = ClockAnchor { offset_ns: 1_700_000_000_000_000_000 };
    let mut failed = span(u64::MAX, Some(2));
    failed.outcome = Outcome::Panicked;
    failed.kind = SpanKind::Client;
    let mut open = span(3, None);
    open.end = None;
    open.events = vec![SpanEvent {
        at: MonoNs(2_500),
        name: "agent.state".into(),
        attributes: vec![("to".to_owned(), Value::from("running"))],
    }];
    let attributes = vec![
        ("host.name".to_owned(), Value::from("h")),
        ("process.pid".to_owned(), Value::from(7)),
        ("service.name".to_owned(), Value::from("svc")),
    ];
    let batch = batch::Batch {
        origin: Arc::new(Origin { attributes, anchor }),
        spans: vec![(failed, MonoNs(0)), (open, MonoNs(9_001_003))],
        source: None,
    };
    let Batch { process, spans } = convert::batch(&batch);
    let str_tag =
        |key: &str, text: &str| Tag { key: key.to_owned(), value: TagValue::Str(text.to_owned()) };
    assert_eq!(process.service_name, "svc");
    let pid = Tag { key: "process.pid".to_owned(), value: TagValue::Long(7) };
    assert_eq!(process.tags, [str_tag("host.name", "h"), pid]);
    let [failed, open] = &spans[..] else { panic!("{} spans", spans.len()) };
    assert_eq!(failed.trace_id_high.cast_unsigned(), 0x0af7_6519_16cd_43dd);
    assert_eq!(failed.trace_id_low.cast_unsigned(), 0x8448_eb21_1c80_319c);
    assert_eq!((failed.span_id, failed.parent_span_id), (-1, 2));
    assert_eq!(failed.flags, 1);
    let tags = &failed.tags;
    let error = Tag { key: "error".to_owned(), value: TagValue::Bool(true) };
    for tag in [
        str_tag("span.kind", "client"),
        str_tag("otel.status_code", "ERROR"),
        str_tag("otel.status_description", "panicked"),
        str_tag("otel.scope.name", "orchestrate-trace"),
        str_tag("tool_name", "Bash"),
        error,
    ] {
        assert!(tags.contains(&tag), "{tag:?} in {tags:?}");
    }
    assert_eq!(open.parent_span_id, 0);
    assert_eq!((open.start_time, open.duration), (1_700_000_000_000_001, 9_000));
    let fields = vec![str_tag("event", "agent.state"), str_tag("to", "running")];
    assert_eq!(open.logs, [Log { timestamp: 1_700_000_000_000_002, fields }]);
    assert!(!open.tags.iter().any(|tag| tag.key == "error" || tag.key == "span.kind"));
}
