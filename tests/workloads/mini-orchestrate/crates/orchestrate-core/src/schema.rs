//! The tables; those that the real program has too are named and shaped alike.

/// Run at every start.
pub const MIGRATIONS: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS agents (
        id TEXT PRIMARY KEY,
        agent_type TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'created',
        task TEXT NOT NULL,
        context TEXT NOT NULL DEFAULT '{}',
        session_id TEXT,
        error_message TEXT,
        created_at TEXT NOT NULL,
        updated_at TEXT NOT NULL,
        completed_at TEXT
    );
    CREATE TABLE IF NOT EXISTS agent_messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        agent_id TEXT NOT NULL REFERENCES agents(id) ON DELETE CASCADE,
        role TEXT NOT NULL CHECK (role IN ('user', 'assistant', 'tool')),
        content TEXT NOT NULL,
        tool_calls TEXT,
        tool_results TEXT,
        input_tokens INTEGER NOT NULL DEFAULT 0,
        output_tokens INTEGER NOT NULL DEFAULT 0,
        created_at TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS idx_agents_state ON agents(state);
    CREATE INDEX IF NOT EXISTS idx_messages_agent ON agent_messages(agent_id);",
    "CREATE TABLE IF NOT EXISTS sessions (
        id TEXT PRIMARY KEY,
        agent_id TEXT NOT NULL REFERENCES agents(id) ON DELETE CASCADE,
        total_tokens INTEGER NOT NULL DEFAULT 0,
        created_at TEXT NOT NULL,
        closed_at TEXT
    );
    CREATE TABLE IF NOT EXISTS session_token_stats (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        session_id TEXT NOT NULL,
        agent_id TEXT NOT NULL REFERENCES agents(id) ON DELETE CASCADE,
        turn_number INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        cache_read_tokens INTEGER NOT NULL,
        cache_write_tokens INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS daily_token_usage (
        date TEXT NOT NULL,
        model TEXT NOT NULL,
        total_input_tokens INTEGER NOT NULL DEFAULT 0,
        total_output_tokens INTEGER NOT NULL DEFAULT 0,
        request_count INTEGER NOT NULL DEFAULT 0,
        UNIQUE (date, model)
    );",
    "CREATE TABLE IF NOT EXISTS checkpoints (
        agent_id TEXT PRIMARY KEY REFERENCES agents(id) ON DELETE CASCADE,
        label TEXT NOT NULL,
        saved INTEGER NOT NULL DEFAULT 1
    );",
];

pub const JOURNAL: &str = "PRAGMA journal_mode=WAL";
pub const FOREIGN_KEYS: &str = "PRAGMA foreign_keys=ON";

pub const INSERT_AGENT: &str = "INSERT INTO agents (id, agent_type, state, task, context, session_id, error_message, created_at, updated_at, completed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
/// Never replaces later by earlier: the last write of a run that was dropped may still be under way
/// on another connection.
pub const UPDATE_AGENT: &str = "UPDATE agents SET state = ?, task = ?, context = ?, session_id = ?, error_message = ?, updated_at = ?, completed_at = ? WHERE id = ? AND updated_at <= ?";
pub const GET_AGENT: &str = "SELECT * FROM agents WHERE id = ?";
pub const AGENTS_BY_STATE: &str = "SELECT * FROM agents WHERE state = ? ORDER BY created_at DESC";
pub const LIST_AGENTS: &str = "SELECT * FROM agents ORDER BY created_at DESC LIMIT ?";
pub const COUNT_AGENTS: &str = "SELECT COUNT(*) FROM agents";
pub const COUNT_BY_STATE: &str = "SELECT COUNT(*) FROM agents WHERE state = ?";
pub const COUNT_BY_TYPE: &str = "SELECT COUNT(*) FROM agents WHERE agent_type = ?";
pub const COUNT_UNFINISHED: &str =
    "SELECT COUNT(*) FROM agents WHERE state IN ('created', 'initializing', 'running')";

pub const INSERT_MESSAGE: &str = "INSERT INTO agent_messages (agent_id, role, content, tool_calls, tool_results, input_tokens, output_tokens, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
pub const GET_MESSAGES: &str = "SELECT agent_id, role, content, tool_calls, tool_results, input_tokens, output_tokens, created_at FROM agent_messages WHERE agent_id = ? ORDER BY id";
pub const COUNT_MESSAGES: &str =
    "SELECT role, COUNT(*) FROM agent_messages WHERE agent_id = ? GROUP BY role ORDER BY role";

pub const CREATE_SESSION: &str = "INSERT INTO sessions (id, agent_id, created_at) VALUES (?, ?, ?)";
pub const CLOSE_SESSION: &str =
    "UPDATE sessions SET closed_at = ?, total_tokens = ? WHERE id = ? AND closed_at IS NULL";
pub const RECORD_TOKENS: &str = "INSERT INTO session_token_stats (session_id, agent_id, turn_number, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens) VALUES (?, ?, ?, ?, ?, ?, ?)";
pub const DAILY_TOKENS: &str = "INSERT INTO daily_token_usage (date, model, total_input_tokens, total_output_tokens, request_count) VALUES (?, ?, ?, ?, 1) ON CONFLICT (date, model) DO UPDATE SET total_input_tokens = total_input_tokens + excluded.total_input_tokens, total_output_tokens = total_output_tokens + excluded.total_output_tokens, request_count = request_count + 1";
pub const AGENT_TOKENS: &str = "SELECT COUNT(*), COALESCE(SUM(input_tokens), 0), COALESCE(SUM(output_tokens), 0) FROM session_token_stats WHERE agent_id = ?";

pub const PUT_CHECKPOINT: &str = "INSERT INTO checkpoints (agent_id, label) VALUES (?, ?) ON CONFLICT (agent_id) DO UPDATE SET label = excluded.label, saved = saved + 1";
pub const GET_CHECKPOINT: &str = "SELECT saved FROM checkpoints WHERE agent_id = ?";
