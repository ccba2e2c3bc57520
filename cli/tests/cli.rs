//! The binary as scripts see it: exit codes, streams, and messages. None of it needs privileges.

use std::process::Stdio;

use assert_cmd::Command;

fn trace() -> Command {
    let mut command = Command::cargo_bin("orchestrate-trace").unwrap();
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    command.env_remove("CLICOLOR_FORCE").env_remove("NO_COLOR");
    command
}

/// Runs it; gives the exit code, standard output, standard error.
fn run(args: &[&str]) -> (i32, String, String) {
    let output = trace().args(args).output().unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[track_caller]
fn fails(args: &[&str], code: i32, words: &[&str]) {
    let (found, out, err) = run(args);
    assert_eq!(found, code, "{args:?}: {err}");
    assert_eq!(out, "", "{args:?}");
    for word in words {
        assert!(err.contains(word), "{args:?}: no {word:?} in: {err}");
    }
    assert!(!err.contains('\x1b'), "{err:?}");
}

#[test]
fn wrong_usage() {
    fails(&[], 2, &["Usage"]);
    fails(&["nonsense"], 2, &["nonsense"]);
    fails(&["attach"], 2, &["PID|NAME"]);
    fails(&["attach", "0"], 2, &["'0' is not a process id"]);
    fails(&["attach", "99999999999"], 2, &["not a process id"]);
    fails(&["attach", "/usr/bin/x"], 2, &["is a path"]);
    fails(&["attach", "1", "--duration", "soon"], 2, &["--duration", "10s"]);
    fails(&["attach", "1", "--ring-size", "3M"], 2, &["power of two"]);
    fails(&["attach", "1", "--mechanism", "magic"], 2, &["uprobe-multi", "perf-event"]);
    fails(&["attach", "1", "--exporter", "zipkin"], 2, &["otlp"]);
    let jaeger = ["attach", "1", "--exporter", "jaeger", "--jaeger-endpoint", "localhost:14268"];
    fails(&jaeger, 2, &["--jaeger-endpoint", "http://localhost:14268/api/traces"]);
    fails(&["attach", "1", "--keep", "errors"], 2, &["'errors'", "slower=500ms"]);
    fails(&["attach", "1", "--sample-rate", "half"], 2, &["--sample-rate"]);
    fails(&["attach", "1", "--spool-size", "1K"], 2, &["64M"]);
    fails(&["attach", "1", "--otlp-protocol", "http/json"], 2, &["http/json", "http/protobuf"]);
    fails(&["attach", "1", "--otlp-endpoint", "localhost:4317"], 2, &["http://localhost:4317"]);
    fails(&["run"], 2, &["CMD"]);
    fails(&["completions", "tcsh"], 2, &["tcsh"]);
}

#[test]
fn environment_is_checked_too() {
    let output = trace()
        .args(["attach", "1", "--exporter", "otlp"])
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("OTEL_EXPORTER_OTLP_PROTOCOL: 'carrier-pigeon'"), "{err}");
}

#[test]
fn no_process_of_that_name() {
    fails(&["attach", "no-such-program-anywhere"], 4, &["no-such-program-anywhere", "run --"]);
}

#[test]
fn run_fails_like_env() {
    fails(&["run", "--", "no-such-program-anywhere"], 127, &["no such program"]);
    fails(&["run", "--", "/no/such/program"], 127, &["no such program"]);
    fails(&["run", "--", "/etc/passwd"], 126, &["not executable"]);
    fails(&["run", "--", "/etc"], 126, &["not executable"]);
}

#[test]
fn targets_that_cannot_be_traced() {
    fails(&["attach", "4194303"], 4, &["no process 4194303"]);
    fails(&["inspect", "4194303"], 4, &["no process 4194303"]);
    fails(&["inspect", "/no/such/file"], 4, &["/no/such/file"]);
    fails(&["inspect", "/etc/passwd"], 4, &["/etc/passwd", "ELF"]);
    fails(&["replay", "/no/such/file"], 1, &["/no/such/file"]);
    fails(&["replay", "/etc/passwd"], 1, &["/etc/passwd", "recording"]);
    fails(&["attach", "1", "--profile", "/no/such/file"], 1, &["/no/such/file"]);
}

#[test]
fn help_says_it_all() {
    let (code, out, err) = run(&["--help"]);
    assert_eq!((code, err.as_str()), (0, ""));
    for word in ["Examples:", "Exit codes:", "attach", "replay", "not permitted"] {
        assert!(out.contains(word), "{word}");
    }
    assert!(!out.contains('\x1b'));
    let (_, out, _) = run(&["attach", "--help"]);
    for word in ["--otlp-endpoint", "--function", "CAP_BPF", "jq", "Exit codes:"] {
        assert!(out.contains(word), "{word}");
    }
    let (code, out, _) = run(&["--version"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("orchestrate-trace "));
}

#[test]
fn colours_when_asked_for() {
    let (_, out, _) = run(&["--color", "always", "--help"]);
    assert!(out.contains("\x1b["));
    let (_, _, err) = run(&["--color=always", "attach", "no-such-program-anywhere"]);
    assert!(err.contains("\x1b["));
    let output = trace().args(["--color", "never", "--help"]).env("CLICOLOR_FORCE", "1").output();
    assert!(!String::from_utf8(output.unwrap().stdout).unwrap().contains('\x1b'));
}

#[test]
fn doctor_has_one_object() {
    let (code, out, _) = run(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["v"], 1);
    assert_eq!(code, if report["works"] == true { 0 } else { 1 });
    let checks = report["checks"].as_array().unwrap();
    for name in ["kernel", "BTF", "capabilities", "memory limit"] {
        assert!(checks.iter().any(|check| check["name"] == name), "{name}");
    }
    let (same, out, _) = run(&["doctor"]);
    assert_eq!(code, same);
    assert!(out.contains("capabilities"));
}

#[test]
fn completions_and_manual() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, out, _) = run(&["completions", shell]);
        assert_eq!(code, 0);
        assert!(out.contains("otlp-endpoint"), "{shell}");
    }
    let (code, out, _) = run(&["man"]);
    assert_eq!(code, 0);
    assert!(out.contains(".TH orchestrate-trace") && out.contains("orchestrate-trace-attach"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let path = assert_cmd::cargo::cargo_bin("orchestrate-trace");
    let status =
        std::process::Command::new(path).arg("man").stdout(Stdio::from(writer)).status().unwrap();
    assert_eq!(status.code(), Some(0));
}
