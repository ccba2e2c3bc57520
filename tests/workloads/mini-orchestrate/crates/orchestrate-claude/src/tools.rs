//! The tools. As in the real program: commands by `std::process`, files by `tokio::fs`. Unlike
//! there, some query the database or make HTTP requests.

use anyhow::{anyhow, bail, ensure, Context, Result};
use orchestrate_core::{Agent, AgentState, AgentType, Database};
use serde_json::{json, Value};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tracing::{debug, warn};
use workload_record::{ClientRequest, Outcome, Stamp, ToolRun};

use crate::client::Tool;

const MAX_FILE_SIZE: u64 = 10 * 1024 * 1024;
const FORBIDDEN: &[&str] = &["rm -rf /", "mkfs", ":(){", "of=/dev/"];

/// Each tool: its name, what it does, its arguments.
const TOOLS: &[(&str, &str, &[&str])] = &[
    ("bash", "Run a shell command", &["command"]),
    ("read", "Read a file", &["path"]),
    ("write", "Write a file", &["path", "content"]),
    ("edit", "Replace text in a file", &["path", "old_text", "new_text"]),
    ("glob", "Find files by a pattern", &["pattern"]),
    ("search", "Search for text in files", &["pattern", "path"]),
    ("db_query", "Query the agents' database", &["report"]),
    ("http_get", "Request a page of the web API", &["path"]),
    ("explode", "Panic", &["reason"]),
];

/// Executes tools.
pub struct ToolExecutor {
    working_dir: PathBuf,
    db: Database,
    http: reqwest::Client,
    /// Where the web API listens, without a slash at the end.
    web_url: String,
}

impl ToolExecutor {
    /// Tools that work in this directory, on this database, and with this web API.
    pub fn new(
        working_dir: impl Into<PathBuf>,
        db: Database,
        http: reqwest::Client,
        web_url: impl Into<String>,
    ) -> Self {
        Self { working_dir: working_dir.into(), db, http, web_url: web_url.into() }
    }

    /// The tools that an agent of this type is offered.
    pub fn get_tool_definitions(&self, agent_type: AgentType) -> Vec<Tool> {
        let allowed = agent_type.allowed_tools();
        TOOLS
            .iter()
            .filter(|(name, ..)| allowed.contains(name))
            .map(|&(name, description, arguments)| {
                let properties: serde_json::Map<String, Value> = arguments
                    .iter()
                    .map(|&argument| (argument.to_owned(), json!({"type": "string"})))
                    .collect();
                let input_schema =
                    json!({"type": "object", "properties": properties, "required": arguments});
                Tool { name, description, input_schema }
            })
            .collect()
    }

    /// Executes a tool; a failure is an answer that begins with `Error:`.
    pub async fn execute(&self, name: &str, input: &Value, agent: &Agent) -> String {
        let record = ToolRun::begin(agent.id, name);
        debug!("executing {name} with {input}");
        let result = match name {
            "bash" => self.execute_bash(input, agent).await,
            "read" => self.execute_read(input).await,
            "write" => self.execute_write(input).await,
            "edit" => self.execute_edit(input).await,
            "glob" => self.execute_glob(input).await,
            "search" => self.execute_search(input).await,
            "db_query" => self.execute_db_query(input, agent).await,
            "http_get" => self.execute_http_get(input).await,
            "explode" => panic!("told to explode: {}", text(input, "reason").unwrap_or("")),
            _ => Err(anyhow!("unknown tool {name}")),
        };
        record.returned(result.is_err());
        match result {
            Ok(output) => output,
            Err(error) => {
                warn!("tool {name} failed: {error:#}");
                format!("Error: {error:#}")
            }
        }
    }

    /// The path, absolute and without symbolic links; the file itself need not exist.
    fn resolve(&self, path: &str) -> Result<PathBuf> {
        let path = self.working_dir.join(path);
        let resolved = path.canonicalize().or_else(|error| {
            let parent = path.parent().ok_or(error)?.canonicalize()?;
            path.file_name().map(|name| parent.join(name)).ok_or_else(|| {
                std::io::Error::new(std::io::ErrorKind::NotFound, "the path has no file name")
            })
        });
        let resolved = resolved.with_context(|| format!("resolving {}", path.display()))?;
        ensure!(!resolved.starts_with("/etc/ssl"), "{} is off limits", resolved.display());
        Ok(resolved)
    }

    async fn execute_bash(&self, input: &Value, agent: &Agent) -> Result<String> {
        let command = text(input, "command")?;
        if let Some(pattern) = FORBIDDEN.iter().find(|pattern| command.contains(**pattern)) {
            bail!("the command contains {pattern:?}");
        }
        let dir =
            agent.context.working_directory.as_ref().map_or(self.working_dir.clone(), Into::into);
        let dir = dir.canonicalize().with_context(|| format!("in {}", dir.display()))?;
        let start = Stamp::now();
        // Blocks its worker thread, as in the real program.
        let child = Command::new("bash")
            .args(["-c", command])
            .current_dir(&dir)
            .env("HOME", &dir)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting bash")?;
        let pid = child.id();
        let output = child.wait_with_output()?;
        workload_record::process("bash", pid, start, output.status);
        Ok(report(&output))
    }

    async fn execute_read(&self, input: &Value) -> Result<String> {
        let path = self.resolve(text(input, "path")?)?;
        let metadata = tokio::fs::metadata(&path).await?;
        ensure!(metadata.len() <= MAX_FILE_SIZE, "{} is too large", path.display());
        Ok(tokio::fs::read_to_string(&path).await?)
    }

    async fn execute_write(&self, input: &Value) -> Result<String> {
        let path = self.resolve(text(input, "path")?)?;
        let content = text(input, "content")?;
        if let Some(parent) = path.parent() {
            tokio::fs::create_dir_all(parent).await?;
        }
        tokio::fs::write(&path, content).await?;
        Ok(format!("wrote {} bytes to {}", content.len(), path.display()))
    }

    async fn execute_edit(&self, input: &Value) -> Result<String> {
        let path = self.resolve(text(input, "path")?)?;
        let old = text(input, "old_text")?;
        let content = tokio::fs::read_to_string(&path).await?;
        ensure!(content.contains(old), "{} does not contain the old text", path.display());
        tokio::fs::write(&path, content.replace(old, text(input, "new_text")?)).await?;
        Ok(format!("edited {}", path.display()))
    }

    async fn execute_glob(&self, input: &Value) -> Result<String> {
        let pattern = self.working_dir.join(text(input, "pattern")?);
        let mut found = Vec::new();
        for entry in glob::glob(&pattern.to_string_lossy())? {
            match entry {
                Ok(path) => found.push(path.to_string_lossy().into_owned()),
                Err(error) => debug!("glob: {error}"),
            }
        }
        Ok(if found.is_empty() { "no matches".to_owned() } else { found.join("\n") })
    }

    async fn execute_search(&self, input: &Value) -> Result<String> {
        let path = self.resolve(text(input, "path").unwrap_or("."))?;
        let start = Stamp::now();
        let child = tokio::process::Command::new("grep")
            .args(["-s", "-n", "-m", "20", "--", text(input, "pattern")?])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting grep")?;
        let pid = child.id().unwrap_or_default();
        let output = child.wait_with_output().await?;
        workload_record::process("grep", pid, start, output.status);
        Ok(report(&output))
    }

    async fn execute_db_query(&self, input: &Value, agent: &Agent) -> Result<String> {
        match text(input, "report")? {
            "messages" => {
                let counts = self.db.count_messages(agent.id).await?;
                Ok(format!("{counts:?}"))
            }
            "tokens" => {
                let tokens = self.db.get_agent_token_stats(agent.id).await?;
                Ok(format!("{tokens:?}"))
            }
            "siblings" => {
                let (running, alike) = tokio::try_join!(
                    self.db.count_agents_by_state(AgentState::Running),
                    self.db.count_agents_by_type(agent.agent_type),
                )?;
                Ok(format!("{running} running, {alike} of my type"))
            }
            "checkpoint" => {
                let saved = self.db.save_checkpoint(agent.id, &agent.task).await?;
                Ok(format!("checkpoint {saved} saved"))
            }
            other => bail!("unknown report {other:?}"),
        }
    }

    async fn execute_http_get(&self, input: &Value) -> Result<String> {
        let path = text(input, "path")?;
        let mut record = ClientRequest::begin("GET", path);
        let request =
            self.http.get(format!("{}{path}", self.web_url)).header("x-request-seq", record.seq());
        let result = match request.send().await {
            Ok(response) => {
                record.status = Some(response.status().as_u16());
                response.text().await
            }
            Err(error) => Err(error),
        };
        record.outcome = Some(if result.is_ok() { Outcome::Returned } else { Outcome::Error });
        let body = result?;
        Ok(format!("{}: {} bytes", record.status.unwrap_or_default(), body.len()))
    }
}

fn text<'a>(input: &'a Value, name: &str) -> Result<&'a str> {
    input[name].as_str().with_context(|| format!("argument {name} is missing"))
}

fn report(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return stdout.into_owned();
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    format!("{}\nstdout: {stdout}\nstderr: {stderr}", output.status)
}

/// Makes the directory that tools work in.
///
/// # Errors
/// If it cannot be made.
pub fn prepare(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))
}
