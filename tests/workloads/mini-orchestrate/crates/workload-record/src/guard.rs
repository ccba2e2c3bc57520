//! Guards held by the body of the work they describe: created first, dropped last, so that their
//! interval is the body's own, and their outcome is known even if the body never reaches its end.

use crate::asker::{bind_span, current, set_tool};
use crate::{current_tool, next_seq, writer, Asker, Interval, Line, Outcome, Stamp};
use uuid::Uuid;

/// What a guard says of a body that did not say how it ended.
fn unfinished() -> Outcome {
    if std::thread::panicking() {
        Outcome::Panicked
    } else {
        Outcome::Cancelled
    }
}

/// One run of an agent's loop.
pub struct AgentRun {
    seq: u64,
    agent: Uuid,
    agent_type: &'static str,
    model: String,
    tools: u64,
    start: Stamp,
    outcome: Option<Outcome>,
}

impl AgentRun {
    /// Begins; also marks the current span as this agent's.
    pub fn begin(agent: Uuid, agent_type: &'static str, model: &str) -> Self {
        let start = Stamp::now();
        let seq = next_seq();
        bind_span(Asker::Agent(agent));
        let model = model.to_owned();
        writer::write(Line::AgentBegin { seq, agent, agent_type, model: model.clone(), at: start });
        Self { seq, agent, agent_type, model, tools: 0, start, outcome: None }
    }

    /// Counts a tool call.
    pub fn tool(&mut self) {
        self.tools += 1;
    }

    /// Passes a result on, noting an error: the body is about to return it.
    ///
    /// # Errors
    /// The error it is given.
    pub fn check<T, E>(&mut self, result: Result<T, E>) -> Result<T, E> {
        if result.is_err() {
            self.outcome = Some(Outcome::Error);
        }
        result
    }

    /// The body reached its end.
    pub fn returned(mut self) {
        self.outcome = Some(Outcome::Returned);
    }
}

impl Drop for AgentRun {
    fn drop(&mut self) {
        writer::write(Line::Agent {
            seq: self.seq,
            agent: self.agent,
            agent_type: self.agent_type,
            model: std::mem::take(&mut self.model),
            outcome: self.outcome.unwrap_or_else(unfinished),
            tools: self.tools,
            when: Interval::since(self.start),
        });
    }
}

/// One execution of a tool.
pub struct ToolRun {
    seq: u64,
    agent: Uuid,
    name: String,
    start: Stamp,
    outcome: Option<Outcome>,
}

impl ToolRun {
    /// Begins; what is done until the guard is dropped is this tool's.
    pub fn begin(agent: Uuid, name: &str) -> Self {
        let start = Stamp::now();
        let seq = next_seq();
        set_tool(Some(seq));
        let name = name.to_owned();
        writer::write(Line::ToolBegin { seq, agent, name: name.clone(), at: start });
        Self { seq, agent, name, start, outcome: None }
    }

    /// The body reached its end.
    pub fn returned(mut self, is_error: bool) {
        self.outcome = Some(if is_error { Outcome::Error } else { Outcome::Returned });
    }
}

impl Drop for ToolRun {
    fn drop(&mut self) {
        set_tool(None);
        writer::write(Line::Tool {
            seq: self.seq,
            agent: self.agent,
            name: std::mem::take(&mut self.name),
            outcome: self.outcome.unwrap_or_else(unfinished),
            when: Interval::since(self.start),
        });
    }
}

/// One request to the Messages API.
pub struct ApiCall {
    /// The HTTP status.
    pub status: Option<u16>,
    /// The model that answered.
    pub response_model: Option<String>,
    /// The id of the message.
    pub id: Option<String>,
    /// Why the model stopped.
    pub stop_reason: Option<String>,
    /// Tokens, as the answer says: input, output, read from and written to the cache.
    pub tokens: [i64; 4],
    /// How it ended, unless it was dropped before.
    pub outcome: Option<Outcome>,
    request_model: String,
    start: Stamp,
}

impl ApiCall {
    /// Begins.
    pub fn begin(request_model: &str) -> Self {
        Self {
            status: None,
            response_model: None,
            id: None,
            stop_reason: None,
            tokens: [0; 4],
            outcome: None,
            request_model: request_model.to_owned(),
            start: Stamp::now(),
        }
    }
}

impl Drop for ApiCall {
    fn drop(&mut self) {
        let [input_tokens, output_tokens, cache_read_input_tokens, cache_creation_input_tokens] =
            self.tokens;
        writer::write(Line::Api {
            seq: next_seq(),
            agent: current().and_then(Asker::agent),
            path: "/v1/messages",
            request_model: std::mem::take(&mut self.request_model),
            response_model: self.response_model.take(),
            id: self.id.take(),
            status: self.status,
            stop_reason: self.stop_reason.take(),
            input_tokens,
            output_tokens,
            cache_read_input_tokens,
            cache_creation_input_tokens,
            outcome: self.outcome.unwrap_or_else(unfinished),
            when: Interval::since(self.start),
        });
    }
}

/// One HTTP request that a tool makes.
pub struct ClientRequest {
    seq: u64,
    method: &'static str,
    path: String,
    start: Stamp,
    /// The status of the response, once it is there.
    pub status: Option<u16>,
    /// How it ended, unless it was dropped before.
    pub outcome: Option<Outcome>,
}

impl ClientRequest {
    /// Begins.
    pub fn begin(method: &'static str, path: &str) -> Self {
        Self {
            seq: next_seq(),
            method,
            path: path.to_owned(),
            start: Stamp::now(),
            status: None,
            outcome: None,
        }
    }

    /// The number to send along, so that the server's line can name this one.
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

impl Drop for ClientRequest {
    fn drop(&mut self) {
        writer::write(Line::HttpClient {
            seq: self.seq,
            agent: current().and_then(Asker::agent),
            tool: current_tool(),
            method: self.method,
            path: std::mem::take(&mut self.path),
            status: self.status,
            outcome: self.outcome.unwrap_or_else(unfinished),
            when: Interval::since(self.start),
        });
    }
}

/// One HTTP request that the web server serves.
pub struct ServerRequest {
    seq: u64,
    client: Option<u64>,
    method: String,
    path: String,
    route: Option<String>,
    start: Stamp,
    status: Option<u16>,
}

impl ServerRequest {
    /// Begins; `client` is the number that the client sent along.
    pub fn begin(method: &str, path: &str, route: Option<&str>, client: Option<u64>) -> Self {
        Self {
            seq: next_seq(),
            client,
            method: method.to_owned(),
            path: path.to_owned(),
            route: route.map(str::to_owned),
            start: Stamp::now(),
            status: None,
        }
    }

    /// Who asks for what is done to serve this request.
    pub fn asker(&self) -> Asker {
        Asker::Request(self.seq)
    }

    /// The response is ready.
    pub fn respond(mut self, status: u16) {
        self.status = Some(status);
    }
}

impl Drop for ServerRequest {
    fn drop(&mut self) {
        let outcome = if self.status.is_some() { Outcome::Returned } else { unfinished() };
        writer::write(Line::HttpServer {
            seq: self.seq,
            client: self.client,
            method: std::mem::take(&mut self.method),
            path: std::mem::take(&mut self.path),
            route: self.route.take(),
            status: self.status,
            outcome,
            when: Interval::since(self.start),
        });
    }
}
