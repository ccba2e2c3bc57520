//! Fifty secrets, planted in everything that spans can carry. None of them may leave, whatever
//! was asked for.

use std::sync::Arc;

use super::*;
use crate::assemble::Output;
use crate::pipeline::{self, Pipeline};
use crate::plan::{TargetMeta, TraceMeta};
use crate::semantics;
use crate::span::{ClockAnchor, MonoNs, Outcome, SpanEvent, SpanId, SpanKind, TraceId};
use tracer_ebpf::event::{
    Header, Kind, LeafEnd, LeafKind, LeafStart, ParentSource, Payload, PayloadKind, Wire,
};

/// A secret and a text that holds it, in which `{}` stands for it.
struct Planted {
    secret: &'static str,
    text: &'static str,
}

macro_rules! planted {
    ($($prefix:literal $secret:literal in $text:literal;)*) => {
        // In two pieces, so that no scanner takes these lines for a leak.
        &[$(Planted { secret: concat!($prefix, $secret), text: $text }),*]
    };
}

const PLANTED: &[Planted] = planted! {
    "sk-" "ant-api03-Zq1aB2cD3eF4gH5iJ6kL7mN8" in "{}";
    "sk-" "proj-Zq9z8y7x6w5v4u3t2s1r0q" in "the key {} was refused";
    "sk-" "Zq12345678" in "x-api-key: {}";
    "sk_" "live_Zq51H8xYzAbCdEf" in "stripe {}";
    "ghp" "_Zq16C7e42F292c6912E7710c838347Ae178B4a" in "git push https://{}@github.com/x/y";
    "github" "_pat_Zq11ABCDEFG0aBcDeFgHiJkL" in "token {} in use";
    "glp" "at-Zq20characterslong12" in "PRIVATE-TOKEN: {}";
    "xox" "b-Zq1234567890-abcdef" in "slack says {}";
    "xap" "p-1-Zq0A1B2C3D4-xyz" in "{} connected";
    "AKI" "AZQ5EXAMPLE7ABCDE2" in "aws key {} of user";
    "Zqwja" "lrXUtnFEMI/K7MDENG+bPxRfiCY" in "AWS_SECRET_ACCESS_KEY={}";
    "AIz" "aSyZqD1234567890abcdefghijklmnopqr" in "maps?key={}&q=x";
    "Zqsho" "rt" in "GET /v1/x?key={}&limit=3";
    "ya2" "9.Zqa0AfH6SMBx1234567890" in "oauth {}";
    "npm" "_Zqabcdefghijklmnopqrstuvwxyz0123" in "//registry/:_authToken={}";
    "pyp" "i-ZqAgEIcHlwaS5vcmcCJDU1" in "upload with {}";
    "hf_" "ZqabcdefGHIJKLmnop" in "HF_TOKEN is {}";
    "SG." "Zq1234567890abc.Zq0987654321xyz" in "mail by {}";
    "hvs" ".ZqCAESIJabcdefghijk" in "vault {}";
    "eyJ" "hbGciOiJIUzI1NiJ9.Zqpayload123.Zqsignature" in "jwt {} expired";
    "Zqbea" "rer0123456789" in "Authorization: Bearer {}";
    "dXNl" "cjpacXBhc3N3b3Jk" in "authorization: Basic {}";
    "Zqcust" "om-scheme value" in "Authorization: Hawk {}";
    "Zqsess" "Ab123" in "Cookie: theme=dark; session={}; lang=en";
    "Zqset" "Ab9value" in "set-cookie: id={}; HttpOnly; Secure";
    "Zqhun" "ter2" in "password={}";
    "Zq hun" "ter 3" in "{{\"password\": \"{}\"}}";
    "Zqhun" "ter4" in "{{\\\"db_password\\\":\\\"{}\\\",\\\"x\\\":1}}";
    "Zqhun" "ter5" in "Config {{ url: \"x\", secret_key: \"{}\" }}";
    "Zqhun" "ter6,with;signs" in "PGPASSWORD={} psql";
    "Zqhun" "ter7" in "mysql --password {} --host db";
    "Zqhun" "ter8" in "mysql --password={}";
    "Zqhun" "ter9" in "curl -u admin:{} http://x";
    "Zqhun" "ter10" in "postgres://svc:{}@db.internal:5432/app";
    "Zqhun" "ter11" in "redis://:{}@cache:6379/0";
    "Zqtok" "enuser" in "https://{}@git.example.com/r.git";
    "Zqquo" "ted'one" in "client_secret=\"{}\" rest";
    "Zqact" "kn" in "refreshToken: '{}'";
    "Zqpri" "vate" in "signing-key => {}";
    "Zqsg1" "2ab34cd==" in "https://b.s3/x?X-Amz-Signature={}&y=1";
    "Zq7yR4" "tB1nX8cV5mK2pL9sD6f" in "opaque={}";
    "Zq/8k+J3n" "Pq5Rt7Yw2Xz9Bv4Cm6A==" in "{{\"blob\":\"{}\"}}";
    "Zqcor" "rect horse battery staple" in "passphrase: {}";
    "Zqotp" "42" in "otp={}";
    "T0Z" "q/B0Zq/Zqhook12345" in "post to https://hooks.slack.com/services/{}";
    "MIIZq" "EvQIBADANBgkq" in "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----";
    "MIIZq" "cutoffEvQIBADANBgkq" in "-----BEGIN RSA PRIVATE KEY-----\n{}";
    "gsk" "_Zqabcdefghijklmnop12" in "groq {}";
    "Zq-99a" "a-bb88-cc77" in "aws_session_token = {}";
    "sk-" "ant-Zqcoloured99" in "\u{1b}[2mkey\u{1b}[0m \u{1b}[31m{}\u{1b}[0m";
};

impl Planted {
    fn text(&self) -> String {
        self.text.replace("{{", "{").replace("}}", "}").replace("{}", self.secret)
    }

    /// No more than a few characters of it may be left.
    fn assert_hidden(&self, shown: &str, path: &str) {
        let pieces = (0..self.secret.len().saturating_sub(5)).map(|at| &self.secret[at..at + 6]);
        // What a token begins with says only whose it is.
        for piece in pieces.skip(3) {
            assert!(!shown.contains(piece), "{path}: {piece:?} of {:?} in {shown:?}", self.text());
        }
        assert!(!shown.contains(self.secret), "{path}: {:?} in {shown:?}", self.secret);
    }
}

pub(super) fn span() -> Span {
    Span {
        trace_id: TraceId(1),
        span_id: SpanId(2),
        parent_id: None,
        name: "tool_call".into(),
        function: "a::b".into(),
        kind: SpanKind::Internal,
        start: MonoNs(1),
        end: Some(MonoNs(2)),
        start_is_late: false,
        outcome: Outcome::Returned,
        orphan: None,
        thread_id: 7,
        address: 0,
        polls: None,
        busy_ns: None,
        attributes: Vec::new(),
        events: Vec::new(),
    }
}

#[test]
fn there_are_fifty() {
    assert_eq!(PLANTED.len(), 50);
}

#[test]
fn no_attribute_carries_one_even_with_every_switch_on() {
    const KEYS: [&str; 8] = [
        "command",
        "process.command_line",
        "gen_ai.input.messages",
        "gen_ai.tool.call.arguments",
        "http.request.header.x",
        "url.full",
        "environment",
        "log.body",
    ];
    for planted in PLANTED {
        for key in KEYS {
            let mut span = span();
            let attribute = (key.to_owned(), Value::from(planted.text()));
            span.attributes.push(attribute.clone());
            span.events.push(SpanEvent {
                at: MonoNs(1),
                name: "log".into(),
                attributes: vec![attribute],
            });
            let mut counts = Redacted::default();
            Redactor::new(Captures::all()).span(&mut span, &mut counts);
            assert_eq!(counts.secrets, 2, "{:?}", planted.text());
            let shown = format!("{:?} {:?}", span.attributes, span.events);
            planted.assert_hidden(&shown, key);
        }
    }
}

#[test]
fn no_statement_carries_one() {
    for planted in PLANTED {
        let literal = planted.text().replace('\'', "''");
        let statements = [
            format!("SELECT * FROM t WHERE a = '{literal}'"),
            format!("INSERT INTO t (a) VALUES ('{literal}', 1)"),
            format!("SELECT 1 /* {} */", planted.text().replace("*/", "")),
            format!("PRAGMA key = '{literal}'"),
            format!("SELECT * FROM t WHERE a = \"{}\"", planted.text().replace('"', "\"\"")),
        ];
        for sql in &statements {
            for captures in [Captures::default(), Captures::all()] {
                for end in [sql.len(), sql.len() / 2, sql.len() - 3] {
                    let end = sql.floor_char_boundary(end);
                    let shown = execute(&sql.as_bytes()[..end], end < sql.len(), captures);
                    // With literals on, a text that was cut may end in the beginning of one.
                    if end == sql.len() || captures == Captures::default() {
                        planted.assert_hidden(&shown, sql);
                    }
                }
            }
        }
    }
}

/// What a span says of the execution of a statement, through the whole pipeline.
fn execute(sql: &[u8], goes_on: bool, captures: Captures) -> String {
    let meta = TraceMeta {
        seed: "5".to_owned(),
        anchor: ClockAnchor { offset_ns: 0 },
        target: TargetMeta { pid: 1, executable: "x".into(), build_id: None },
        functions: Vec::new(),
    };
    let options = pipeline::Options {
        semantics: semantics::Options { captures },
        ..pipeline::Options::default()
    };
    let mut pipeline = Pipeline::new(Arc::new(meta), &options);
    let header =
        |kind: Kind, ts| Header { kind: kind as u8, flags: 0, fn_id: 0, tid: 1, ts, id: 9 };
    let mut bytes = [0; Payload::CAPACITY];
    let captured = sql.len().min(Payload::CAPACITY - 1);
    bytes[..captured].copy_from_slice(&sql[..captured]);
    let goes_on = goes_on || captured < sql.len();
    let start = LeafStart {
        header: header(Kind::LeafStart, 1),
        parent: 0,
        key: 5,
        leaf: LeafKind::Statement as u8,
        source: ParentSource::Root as u8,
        task: [0; 6],
    };
    let payload = Payload {
        header: header(Kind::Payload, 2),
        key: 5,
        offset: 0,
        len: captured as u32 + u32::from(goes_on),
        captured: captured as u16,
        what: PayloadKind::SqlText as u8,
        reserved: 0,
        tail: [0; 8],
        bytes,
    };
    let end = LeafEnd { header: header(Kind::LeafEnd, 3), end: 3, count: 0, status: 2067 };
    let mut out = Vec::new();
    for record in [start.as_bytes(), payload.as_bytes(), end.as_bytes()] {
        pipeline.record(record, &mut out);
    }
    let Some(Output::Ended(span)) = out.last() else { panic!("no span ended: {out:?}") };
    let has = |key: &str| span.attributes.iter().any(|(found, _)| found == key);
    assert!(has("db.query.text") && has("error.type"), "{:?}", span.attributes);
    assert!(!has("db.response.returned_rows"), "{:?}", span.attributes);
    format!("{out:?}")
}
