//! Calls of a model through Anthropic's Messages API: what was asked for and what it cost, from
//! the bodies of request and response. Text of prompts and answers is never kept.

use crate::protocol::{
    Encoding, EventStream, Gunzip, Json, Message, Path, Piece, ResponseHead, Sink,
};
use crate::span::Value;

/// What is looked for in a request.
const REQUEST: &[Path] = &[&["model"], &["max_tokens"]];

/// What is looked for in an answer that comes in one piece.
const ANSWER: &[Path] = &[
    &["type"],
    &["id"],
    &["model"],
    &["stop_reason"],
    &["usage", "input_tokens"],
    &["usage", "output_tokens"],
    &["usage", "cache_creation_input_tokens"],
    &["usage", "cache_read_input_tokens"],
];

/// What is looked for in each event of an answer that is streamed.
const EVENT: &[Path] = &[
    &["type"],
    &["message", "id"],
    &["message", "model"],
    &["delta", "stop_reason"],
    &["message", "usage", "input_tokens"],
    &["usage", "output_tokens"],
    &["message", "usage", "cache_creation_input_tokens"],
    &["message", "usage", "cache_read_input_tokens"],
    &["usage", "input_tokens"],
    &["usage", "cache_creation_input_tokens"],
    &["usage", "cache_read_input_tokens"],
];

/// Places in the lists above.
mod at {
    pub const TYPE: usize = 0;
    pub const ID: usize = 1;
    pub const MODEL: usize = 2;
    pub const STOP_REASON: usize = 3;
    pub const INPUT: usize = 4;
    pub const OUTPUT: usize = 5;
    pub const CACHE_CREATION: usize = 6;
    pub const CACHE_READ: usize = 7;
    /// In an event: totals so far, which take the place of what was said at the start.
    pub const TOTAL_INPUT: usize = 8;
    pub const TOTAL_CACHE_CREATION: usize = 9;
    pub const TOTAL_CACHE_READ: usize = 10;
}

/// What a model answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub id: Option<String>,
    pub model: Option<String>,
    pub stop_reason: Option<String>,
    pub input: Option<i64>,
    pub output: Option<i64>,
    pub cache_creation: Option<i64>,
    pub cache_read: Option<i64>,
}

/// Reads the body of a request.
#[derive(Debug)]
pub(super) struct Question(Json);

impl Question {
    pub fn new() -> Self {
        Self(Json::new(REQUEST))
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.0.feed(bytes);
    }

    pub fn model(&self) -> Option<&str> {
        self.0.text(0)
    }

    pub fn max_tokens(&self) -> Option<i64> {
        self.0.number(1)
    }
}

/// Reads the body of a response.
#[derive(Debug)]
pub(super) enum Reader {
    Plain(Body),
    Zipped(Box<Gunzip<Body>>),
    /// Coded in a way that is not undone here.
    Other,
}

/// A body, codings undone.
#[derive(Debug)]
pub(super) enum Body {
    Whole(Json),
    Streamed(Box<Streamed>),
}

/// An answer that comes in events.
#[derive(Debug)]
pub(super) struct Streamed {
    events: EventStream,
    event: Json,
    answer: Answer,
    stopped: bool,
    damaged: bool,
}

impl Sink for Body {
    fn take(&mut self, bytes: &[u8]) {
        match self {
            Self::Whole(json) => json.feed(bytes),
            Self::Streamed(streamed) => {
                let Streamed { events, event, answer, stopped, damaged } = &mut **streamed;
                events.feed(bytes, |piece| match piece {
                    Piece::Data(bytes) => event.feed(bytes),
                    Piece::End => {
                        let event = std::mem::replace(event, Json::new(EVENT));
                        match event.is_complete() {
                            true => *stopped |= answer.take(&event),
                            false => *damaged = true,
                        }
                    }
                });
            }
        }
    }
}

impl Answer {
    /// Takes in an event; whether it is the last.
    fn take(&mut self, event: &Json) -> bool {
        let text = |path| event.text(path).map(str::to_owned);
        match event.text(at::TYPE) {
            Some("message_start") => {
                self.id = text(at::ID);
                self.model = text(at::MODEL);
                self.input = event.number(at::INPUT);
                self.cache_creation = event.number(at::CACHE_CREATION);
                self.cache_read = event.number(at::CACHE_READ);
            }
            Some("message_delta") => {
                self.stop_reason = text(at::STOP_REASON).or(self.stop_reason.take());
                self.output = event.number(at::OUTPUT).or(self.output);
                self.input = event.number(at::TOTAL_INPUT).or(self.input);
                self.cache_creation =
                    event.number(at::TOTAL_CACHE_CREATION).or(self.cache_creation);
                self.cache_read = event.number(at::TOTAL_CACHE_READ).or(self.cache_read);
            }
            Some("message_stop") => return true,
            _ => {}
        }
        false
    }
}

impl Body {
    /// What it says, if all of it came.
    fn answer(&self) -> Option<Answer> {
        match self {
            Self::Whole(json) if json.is_complete() && json.text(at::TYPE) == Some("message") => {
                let text = |path| json.text(path).map(str::to_owned);
                Some(Answer {
                    id: text(at::ID),
                    model: text(at::MODEL),
                    stop_reason: text(at::STOP_REASON),
                    input: json.number(at::INPUT),
                    output: json.number(at::OUTPUT),
                    cache_creation: json.number(at::CACHE_CREATION),
                    cache_read: json.number(at::CACHE_READ),
                })
            }
            Self::Streamed(streamed) if !streamed.damaged => {
                let answer = streamed.answer.clone();
                // Until it stops, what was produced so far is not what is paid for.
                let output = answer.output.filter(|_| streamed.stopped);
                let stop_reason = answer.stop_reason.filter(|_| streamed.stopped);
                (answer.id.is_some()).then_some(Answer { output, stop_reason, ..answer })
            }
            Self::Whole(_) | Self::Streamed(_) => None,
        }
    }
}

impl Reader {
    pub fn new(head: &ResponseHead) -> Self {
        let body = match head.is_event_stream {
            true => Body::Streamed(Box::new(Streamed {
                events: EventStream::default(),
                event: Json::new(EVENT),
                answer: Answer::default(),
                stopped: false,
                damaged: false,
            })),
            false => Body::Whole(Json::new(ANSWER)),
        };
        match head.encoding {
            Encoding::Identity => Self::Plain(body),
            Encoding::Gzip => Self::Zipped(Box::new(Gunzip::new(body))),
            Encoding::Other => Self::Other,
        }
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        match self {
            Self::Plain(body) => body.take(bytes),
            Self::Zipped(gunzip) => gunzip.feed(bytes),
            Self::Other => {}
        }
    }

    /// What the response says.
    pub fn finish(&mut self, response: &Message<ResponseHead>) -> Option<Answer> {
        if response.is_damaged() {
            return None;
        }
        match self {
            Self::Plain(body) => body.answer(),
            Self::Zipped(gunzip) => gunzip.finish().then(|| gunzip.sink().answer()).flatten(),
            Self::Other => None,
        }
    }
}

/// The attributes of a model call: the seed's, then those of OpenTelemetry's conventions.
pub(super) fn attributes(
    question: Option<&Question>,
    answer: &Answer,
    out: &mut Vec<(String, Value)>,
) {
    let Answer { id, model, stop_reason, input, output, cache_creation, cache_read } = answer;
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            out.push((key.to_owned(), value));
        }
    };
    let text = |text: &Option<String>| text.clone().map(Value::from);
    let asked = question.and_then(Question::model);
    // What is paid for is what answered; what was asked for may be an alias of it.
    put("model", asked.map(Value::from).or_else(|| text(model)));
    put("input_tokens", input.map(Value::from));
    put("output_tokens", output.map(Value::from));
    put("gen_ai.operation.name", Some("chat".into()));
    put("gen_ai.provider.name", Some("anthropic".into()));
    put("gen_ai.request.model", asked.map(Value::from));
    let max_tokens = question.and_then(Question::max_tokens);
    put("gen_ai.request.max_tokens", max_tokens.map(Value::from));
    put("gen_ai.response.model", text(model));
    put("gen_ai.response.id", text(id));
    let reasons = stop_reason.clone().map(|reason| Value::Texts(vec![reason]));
    put("gen_ai.response.finish_reasons", reasons);
    // As the conventions have it for Anthropic: cached tokens are part of the input.
    let all = [
        Some(input.unwrap_or(0)),
        Some(cache_creation.unwrap_or(0)),
        Some(cache_read.unwrap_or(0)),
    ]
    .into_iter()
    .try_fold(0_i64, |sum, tokens| sum.checked_add(tokens?));
    put("gen_ai.usage.input_tokens", input.and(all).map(Value::from));
    put("gen_ai.usage.output_tokens", output.map(Value::from));
    put("gen_ai.usage.cache_creation.input_tokens", cache_creation.map(Value::from));
    put("gen_ai.usage.cache_read.input_tokens", cache_read.map(Value::from));
}
