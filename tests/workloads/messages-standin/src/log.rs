//! The log of the requests served: one line each, written when the request ends.

use anyhow::{Context, Result};
use serde_json::{json, Value};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// The log, or nothing where none is wanted.
pub struct Log {
    file: Option<Mutex<File>>,
}

/// One request; dropping it writes its line.
pub struct Entry<'a> {
    log: &'a Log,
    start: f64,
    path: String,
    /// The model asked for.
    pub model: String,
    /// The status answered; 0 if the client went away before.
    pub status: u16,
    answer: Value,
}

impl Log {
    /// Creates the file.
    pub fn create(path: Option<&Path>) -> Result<Self> {
        let file = path
            .map(|path| File::create(path).with_context(|| format!("creating {}", path.display())))
            .transpose()?;
        Ok(Self { file: file.map(Mutex::new) })
    }

    /// A request begins.
    pub fn begin(&self, path: &str) -> Entry<'_> {
        Entry {
            log: self,
            start: now(),
            path: path.to_owned(),
            model: String::new(),
            status: 0,
            answer: Value::Null,
        }
    }
}

impl Entry<'_> {
    /// The request is answered with this message.
    pub fn answered(&mut self, answer: &Value) {
        self.status = 200;
        self.answer = json!({
            "id": answer["id"],
            "stop_reason": answer["stop_reason"],
            "usage": answer["usage"],
            "tools": answer["content"].as_array().map(|blocks| {
                blocks.iter().filter_map(|block| block["name"].as_str()).collect::<Vec<_>>()
            }),
        });
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let Some(file) = &self.log.file else { return };
        let tokens = |name: &str| self.answer["usage"][name].as_u64().unwrap_or(0);
        let line = json!({
            "start": self.start,
            "end": now(),
            "path": self.path,
            "model": self.model,
            "input_tokens": tokens("input_tokens"),
            "output_tokens": tokens("output_tokens"),
            "cache_creation_input_tokens": tokens("cache_creation_input_tokens"),
            "cache_read_input_tokens": tokens("cache_read_input_tokens"),
            "status": self.status,
            "id": self.answer["id"],
            "stop_reason": self.answer["stop_reason"],
            "tools": self.answer["tools"],
        });
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        // One write each, so that a reader never sees half a line.
        if let Err(error) = file.write_all(format!("{line}\n").as_bytes()) {
            eprintln!("the log cannot be written: {error}");
        }
    }
}

/// Seconds since the epoch.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
