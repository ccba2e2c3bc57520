//! What the stand-in answers. Everything follows from the request and the seed: the turn from the
//! number of messages, the tools from those that the request offers, the choice from a hash.

use serde_json::{json, Value};
use std::hash::{DefaultHasher, Hash, Hasher};

/// A request, as far as the answer depends on it.
pub struct Question<'a> {
    request: &'a Value,
    /// The model asked for.
    pub model: &'a str,
    /// The first message: the task.
    task: String,
    /// How many answers the conversation already has.
    turn: usize,
    offered: Vec<&'a str>,
    hash: u64,
}

impl<'a> Question<'a> {
    /// Reads a request. What is missing is taken for empty.
    pub fn read(request: &'a Value, seed: u64) -> Self {
        let messages = request["messages"].as_array().map_or(&[][..], Vec::as_slice);
        let task = messages.first().map(|message| text(&message["content"])).unwrap_or_default();
        let turn = messages.iter().filter(|message| message["role"] == "assistant").count();
        let offered = request["tools"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|tool| tool["name"].as_str())
            .collect();
        let mut hasher = DefaultHasher::new();
        (seed, &task, turn).hash(&mut hasher);
        let model = request["model"].as_str().unwrap_or_default();
        Self { request, model, task, turn, offered, hash: hasher.finish() }
    }

    /// A number below `bound`, the same for the same question and `salt`.
    pub fn random(&self, salt: u64, bound: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.hash, salt).hash(&mut hasher);
        hasher.finish() % bound.max(1)
    }

    /// Whether the task asks for this fault, as `[blocked]`.
    pub fn has_marker(&self, marker: &str) -> bool {
        self.task.contains(&format!("[{marker}]"))
    }

    /// The answer: tools for some turns, then the end.
    ///
    /// `serial` is different for every answer, since ids are never repeated.
    pub fn answer(&self, tool_turns: usize, serial: u64) -> Value {
        let (stop_reason, content) = if self.turn >= tool_turns || self.offered.is_empty() {
            ("end_turn", vec![json!({"type": "text", "text": self.last_words()})])
        } else {
            ("tool_use", self.tool_use(serial))
        };
        let size = |value: &Value| value.to_string().len() as u64 / 4;
        let system = size(&self.request["system"]) + size(&self.request["tools"]);
        let (written, read) = if self.turn == 0 { (system, 0) } else { (0, system) };
        json!({
            "id": format!("msg_{:016x}{serial:08}", self.hash),
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": null,
            "usage": {
                "input_tokens": size(&self.request["messages"]) + 1,
                "output_tokens": content.iter().map(size).sum::<u64>() + 1,
                "cache_creation_input_tokens": written,
                "cache_read_input_tokens": read,
            },
        })
    }

    fn last_words(&self) -> &'static str {
        if self.has_marker("blocked") {
            "I cannot go on.\nSTATUS: BLOCKED: the task needs a decision"
        } else if self.has_marker("waiting") {
            "Nothing to do until then.\nSTATUS: WAITING"
        } else {
            "The task is done.\nSTATUS: COMPLETE"
        }
    }

    /// Some text and one to three tools.
    fn tool_use(&self, serial: u64) -> Vec<Value> {
        let mut calls = Vec::new();
        if self.has_marker("explode") && self.turn == 1 && self.offered.contains(&"explode") {
            calls.push(("explode", json!({"reason": "the task says so"})));
        }
        let usable = self.usable();
        for number in 0..=self.random(1, 3) {
            let at = self.random(2 + number, usable.len().max(1) as u64);
            let Some(&name) = usable.get(usize::try_from(at).unwrap_or(0)) else { break };
            self.call(name, number, &mut calls);
        }
        let mut content =
            vec![json!({"type": "text", "text": format!("Turn {}: let me look.", self.turn + 1)})];
        content.extend(calls.into_iter().enumerate().map(|(number, (name, input))| {
            let id = format!("toolu_{:014x}{serial:08}{number:02}", self.hash >> 8);
            json!({"type": "tool_use", "id": id, "name": name, "input": input})
        }));
        content
    }

    /// The tools on offer whose arguments are known here.
    fn usable(&self) -> Vec<&'a str> {
        const KNOWN: &[&str] =
            &["bash", "read", "write", "edit", "glob", "search", "db_query", "http_get", "task"];
        self.offered.iter().copied().filter(|name| KNOWN.contains(name)).collect()
    }

    fn call(&self, name: &'a str, number: u64, calls: &mut Vec<(&'a str, Value)>) {
        let choose = |choices: &[&'static str]| {
            choices[usize::try_from(self.random(10 + number, choices.len() as u64)).unwrap_or(0)]
        };
        let file = format!("note-{:016x}-{number}.txt", self.hash);
        let write = json!({"path": file, "content": format!("First thoughts on: {}\n", self.task)});
        let input = match name {
            "bash" => json!({"command": choose(&[
                "echo found it; ls | head -3",
                "sleep 0.02; date +%s",
                "for i in 1 2 3; do echo $i; done | sort -r",
                "echo no such thing >&2; exit 3",
                "uname -s && sleep 0.05",
            ])}),
            "read" => json!({"path": choose(&["/etc/os-release", "/etc/hostname"])}),
            "write" => write,
            "edit" => {
                // What is edited must be there, and `edit` is never offered without `write`.
                calls.push(("write", write));
                json!({"path": file, "old_text": "First", "new_text": "Second"})
            }
            "glob" => json!({"pattern": choose(&["*.txt", "/etc/*.conf", "*.nothing"])}),
            "search" => json!({"pattern": "NAME", "path": "/etc/os-release"}),
            "db_query" => {
                json!({"report": choose(&["messages", "tokens", "siblings", "checkpoint"])})
            }
            "http_get" => json!({"path": choose(&[
                "/api/agents?limit=5",
                "/api/status",
                "/api/health",
                "/api/agents/00000000-0000-0000-0000-000000000000",
            ])}),
            _ => json!({
                "subagent_type": "explorer",
                "prompt": "Look around",
                "description": "look around",
            }),
        };
        calls.push((name, input));
    }
}

/// The text of a message, whose content may be a string or blocks.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks.iter().filter_map(|block| block["text"].as_str()).collect(),
        _ => String::new(),
    }
}
