//! How much of a conversation fits into a request.

use orchestrate_core::Message;

/// Characters per token, roughly.
const CHARS_PER_TOKEN: usize = 4;
const CONTEXT_TOKENS: usize = 60_000;
const MIN_RECENT: usize = 6;

/// Estimates tokens.
pub fn estimate(message: &Message) -> usize {
    let calls: usize = message.tool_calls.iter().map(|call| call.input.to_string().len()).sum();
    let results: usize = message.tool_results.iter().map(|result| result.content.len()).sum();
    (message.content.len() + calls + results) / CHARS_PER_TOKEN + 4
}

/// The latest messages that fit, and never fewer than a few.
pub fn window(messages: &[Message]) -> &[Message] {
    let mut used = 0;
    let mut start = messages.len();
    for (at, message) in messages.iter().enumerate().rev() {
        used += estimate(message);
        if used > CONTEXT_TOKENS && messages.len() - at > MIN_RECENT {
            break;
        }
        start = at;
    }
    &messages[start..]
}

/// How much an answer may take.
pub fn output_budget(context: usize) -> u32 {
    let left = CONTEXT_TOKENS.saturating_sub(context);
    u32::try_from(left / 8).unwrap_or(u32::MAX).clamp(512, 8192)
}
