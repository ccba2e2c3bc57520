//! Harmless, bounded, without credentials; and what is none of these stays as it is.

use proptest::prelude::*;

use super::*;
use crate::span::SpanEvent;

#[test]
fn terminal_escapes_go() {
    let cases = [
        ("\u{1b}[1;31mred\u{1b}[0m", "red"),
        ("\u{1b}]0;title\u{7}text", "text"),
        ("\u{1b}]8;;http://x\u{1b}\\link", "link"),
        ("\u{9b}31mred", "red"),
        ("a\r\nb\tc", "a b c"),
        ("\u{1b}(Bx\u{1b}", "x"),
        ("a\u{202e}b\u{200b}c\u{0}\u{7f}", "abc"),
        // An opener alone does not hide what follows.
        ("\u{1b}]0;x\nrest", " rest"),
        ("plain ünïcode", "plain ünïcode"),
    ];
    for (from, to) in cases {
        assert_eq!(clean(from), to, "{from:?}");
    }
}

#[test]
fn what_is_harmless_stays() {
    for harmless in [
        "SELECT id, token FROM sessions WHERE token = ? AND password = :password",
        "claude-sonnet-4-5-20250929",
        "agent_id=550e8400-e29b-41d4-a716-446655440000 agent_type=story_developer",
        "input_tokens=4096 max_tokens: 1024 token_count=3",
        "build_id=3f786850e387550fdab836ed7e6dc881de23001b",
        "basic authentication failed, bearer of news",
        "orchestrate_claude::loop_runner::AgentLoop::run",
        "GET /api/agents/550e8400-e29b-41d4-a716-446655440000?limit=10",
        "mail to someone@example.com about http://example.com/@name",
        "/usr/lib/x86_64-linux-gnu/libSSL.so.3 = 12345678901234567890",
        "risk-taking task-oriented desk-1",
        "the key=agents of the map, monkey: banana",
        "Authorization",
    ] {
        assert_eq!(text(harmless), harmless);
    }
}

#[test]
fn a_long_text_is_cut_at_a_character_and_not_within_a_credential() {
    let long = "ä".repeat(MAX_TEXT);
    let cut = text(&long);
    assert!(cut.len() <= MAX_TEXT + '…'.len_utf8() && cut.ends_with('…'));
    for shift in 0..40 {
        let secret =
            format!("{}sk-ant-REDACTED{}", "x ".repeat(MAX_TEXT - 20 + shift), "y".repeat(99));
        let shown = text(&secret);
        assert!(!shown.contains("sk-"), "{}", &shown[shown.len() - 60..]);
    }
}

#[test]
fn private_attributes_need_their_switch_and_credentials_have_none() {
    let attributes = || -> Vec<(String, Value)> {
        [
            ("command", "ls -l"),
            ("gen_ai.input.messages", "hello"),
            ("http.request.header.accept", "text/html"),
            ("http.request.header.authorization", "anything at all"),
            ("request.api_key", "short"),
            ("url.path", "/x"),
            ("db.query.parameter.0", "7"),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect()
    };
    let shown = |captures| {
        let (mut all, mut counts) = (attributes(), Redacted::default());
        Redactor::new(captures).attributes(&mut all, &mut counts);
        let all: Vec<String> = all
            .into_iter()
            .map(|(key, value)| match value {
                Value::Str(text) => format!("{key}={text}"),
                other => format!("{key}={other:?}"),
            })
            .collect();
        (all, counts)
    };
    let (all, counts) = shown(Captures::default());
    assert_eq!(all, ["request.api_key=[redacted]", "url.path=/x"]);
    assert_eq!(counts, Redacted { secrets: 1, private: 5, overflow: 0 });
    let (all, counts) = shown(Captures::all());
    assert_eq!(
        all,
        [
            "command=ls -l",
            "gen_ai.input.messages=hello",
            "http.request.header.accept=text/html",
            "http.request.header.authorization=[redacted]",
            "request.api_key=[redacted]",
            "url.path=/x",
            "db.query.parameter.0=7",
        ]
    );
    assert_eq!(counts.private, 0);
    let only = Captures::default().with(Private::Commands);
    assert_eq!(shown(only).0.first().map(String::as_str), Some("command=ls -l"));
}

#[test]
fn events_are_gone_over_too() {
    let mut span = super::planted::span();
    span.events.push(SpanEvent {
        at: span.start,
        name: "log".into(),
        attributes: vec![("body".to_owned(), "password=hunter2\u{1b}[0m".into())],
    });
    Redactor::default().span(&mut span, &mut Redacted::default());
    assert_eq!(span.events[0].attributes[0].1, Value::from("password=[redacted]"));
}

proptest! {
    #[test]
    fn any_text_comes_out_harmless_and_the_second_pass_changes_nothing(
        found in "(\\PC|[\u{0}-\u{1f}\u{7f}-\u{9f}\u{200b}-\u{202e}]|sk-|token[=:]|\"|authorization: |=|://|@| ){0,60}"
    ) {
        let once = text(&found).into_owned();
        let hostile = once.chars().any(|c| c.is_control() || c == '\u{202e}');
        prop_assert!(!hostile);
        let twice = text(&once).into_owned();
        prop_assert_eq!(twice.trim_end(), once.trim_end());
    }

    #[test]
    fn bytes_become_text(bytes in prop::collection::vec(any::<u8>(), 0..200), truncated: bool) {
        text(&lossy(&bytes, truncated));
    }
}
