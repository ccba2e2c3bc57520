//! Jaeger's data model, as its Thrift definition (`jaeger.thrift`) has it, over the `thrift`
//! crate's protocols. `ClientStats` and `seqNo` of a batch, which only agents used, are left out.

use thrift::protocol::{
    TFieldIdentifier, TListIdentifier, TOutputProtocol, TStructIdentifier, TType,
};

/// A tag's value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TagValue {
    /// `STRING`
    Str(String),
    /// `DOUBLE`
    #[cfg_attr(not(test), expect(dead_code, reason = "no attribute of ours is a fraction yet"))]
    Double(f64),
    /// `BOOL`
    Bool(bool),
    /// `LONG`
    Long(i64),
}

/// `Tag`: one attribute.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tag {
    pub key: String,
    pub value: TagValue,
}

/// `Log`: one event of a span.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Log {
    /// Microseconds since the Unix epoch.
    pub timestamp: i64,
    pub fields: Vec<Tag>,
}

/// `Span`. References are left out: a parent is said by its id.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Span {
    pub trace_id_low: i64,
    pub trace_id_high: i64,
    pub span_id: i64,
    /// 0 for a root.
    pub parent_span_id: i64,
    pub operation_name: String,
    /// 1: sampled.
    pub flags: i32,
    /// Microseconds since the Unix epoch.
    pub start_time: i64,
    /// Microseconds.
    pub duration: i64,
    pub tags: Vec<Tag>,
    pub logs: Vec<Log>,
}

/// `Process`: who the spans come from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Process {
    pub service_name: String,
    pub tags: Vec<Tag>,
}

/// `Batch`: the body of one request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Batch {
    pub process: Process,
    pub spans: Vec<Span>,
}

type Out<'a> = &'a mut dyn TOutputProtocol;

/// The binary protocol writes no name of a field, so none is given.
fn field(out: Out<'_>, id: i16, kind: TType) -> thrift::Result<()> {
    out.write_field_begin(&TFieldIdentifier { name: None, field_type: kind, id: Some(id) })
}

fn begin(out: Out<'_>, name: &'static str) -> thrift::Result<()> {
    out.write_struct_begin(&TStructIdentifier { name: name.to_owned() })
}

fn end(out: Out<'_>) -> thrift::Result<()> {
    out.write_field_stop()?;
    out.write_struct_end()
}

fn i64_field(out: Out<'_>, id: i16, value: i64) -> thrift::Result<()> {
    field(out, id, TType::I64)?;
    out.write_i64(value)?;
    out.write_field_end()
}

fn string_field(out: Out<'_>, id: i16, value: &str) -> thrift::Result<()> {
    field(out, id, TType::String)?;
    out.write_string(value)?;
    out.write_field_end()
}

fn list_field<T>(
    out: Out<'_>,
    id: i16,
    items: &[T],
    write: impl Fn(&T, Out<'_>) -> thrift::Result<()>,
) -> thrift::Result<()> {
    let size = i32::try_from(items.len()).map_err(|_| {
        let message = format!("a list of {} is too long for Thrift", items.len());
        thrift::ProtocolError::new(thrift::ProtocolErrorKind::SizeLimit, message)
    })?;
    field(out, id, TType::List)?;
    out.write_list_begin(&TListIdentifier::new(TType::Struct, size))?;
    for item in items {
        write(item, out)?;
    }
    out.write_list_end()?;
    out.write_field_end()
}

impl Tag {
    fn write(&self, out: Out<'_>) -> thrift::Result<()> {
        let Self { key, value } = self;
        begin(out, "Tag")?;
        string_field(out, 1, key)?;
        let kind = match value {
            TagValue::Str(_) => 0,
            TagValue::Double(_) => 1,
            TagValue::Bool(_) => 2,
            TagValue::Long(_) => 3,
        };
        field(out, 2, TType::I32)?;
        out.write_i32(kind)?;
        out.write_field_end()?;
        match value {
            TagValue::Str(text) => string_field(out, 3, text)?,
            TagValue::Double(number) => {
                field(out, 4, TType::Double)?;
                out.write_double(*number)?;
                out.write_field_end()?;
            }
            TagValue::Bool(yes) => {
                field(out, 5, TType::Bool)?;
                out.write_bool(*yes)?;
                out.write_field_end()?;
            }
            TagValue::Long(number) => i64_field(out, 6, *number)?,
        }
        end(out)
    }
}

impl Log {
    fn write(&self, out: Out<'_>) -> thrift::Result<()> {
        let Self { timestamp, fields } = self;
        begin(out, "Log")?;
        i64_field(out, 1, *timestamp)?;
        list_field(out, 2, fields, Tag::write)?;
        end(out)
    }
}

impl Span {
    fn write(&self, out: Out<'_>) -> thrift::Result<()> {
        let Self {
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
        } = self;
        begin(out, "Span")?;
        i64_field(out, 1, *trace_id_low)?;
        i64_field(out, 2, *trace_id_high)?;
        i64_field(out, 3, *span_id)?;
        i64_field(out, 4, *parent_span_id)?;
        string_field(out, 5, operation_name)?;
        field(out, 7, TType::I32)?;
        out.write_i32(*flags)?;
        out.write_field_end()?;
        i64_field(out, 8, *start_time)?;
        i64_field(out, 9, *duration)?;
        list_field(out, 10, tags, Tag::write)?;
        if !logs.is_empty() {
            list_field(out, 11, logs, Log::write)?;
        }
        end(out)
    }
}

impl Process {
    fn write(&self, out: Out<'_>) -> thrift::Result<()> {
        let Self { service_name, tags } = self;
        begin(out, "Process")?;
        string_field(out, 1, service_name)?;
        list_field(out, 2, tags, Tag::write)?;
        end(out)
    }
}

impl Batch {
    /// Writes the structure, without a message around it: that is what the collector's HTTP
    /// endpoint reads.
    ///
    /// # Errors
    /// More items than a Thrift list can hold.
    pub(super) fn write(&self, out: Out<'_>) -> thrift::Result<()> {
        let Self { process, spans } = self;
        begin(out, "Batch")?;
        field(out, 1, TType::Struct)?;
        process.write(out)?;
        out.write_field_end()?;
        list_field(out, 2, spans, Span::write)?;
        end(out)
    }
}
