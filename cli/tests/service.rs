//! The service as users and scripts see it: `daemon`, `enable`, `disable`, `status`, `config`.
//! None of this traces anything, nor needs privileges.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
const RULE: &str = "============================================================\n";

fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A folder for a service, which may run or not.
struct Place {
    dir: TempDir,
}

/// A running daemon.
struct Daemon<'a> {
    place: &'a Place,
    child: Child,
}

#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        // Nothing on this machine is meant.
        place.configure("");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the configuration: nothing is traced, whatever else it says.
    fn configure(&self, text: &str) {
        let text = format!("[discovery]\nexecutables = []\n{text}");
        fs::write(self.path("config.toml"), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrate-trace"));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("OTEL_") || text.starts_with("ORCHESTRATE_TRACE_") {
                command.env_remove(&name);
            }
        }
        command
            .args(args)
            .env_remove("NOTIFY_SOCKET")
            .env_remove("JOURNAL_STREAM")
            .env("ORCHESTRATE_TRACE_SOCKET", self.path("run/control.sock"))
            .env("ORCHESTRATE_TRACE_STATE_DIR", self.path("state"))
            .env("ORCHESTRATE_TRACE_CONFIG", self.path("config.toml"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Said {
        said(self.command(args))
    }

    fn status(&self) -> Value {
        let said = self.run(&["status", "--json"]);
        assert_eq!(said.out.matches('\n').count(), 1, "{said:?}");
        serde_json::from_str(&said.out).unwrap()
    }

    fn daemon(&self) -> Daemon<'_> {
        self.daemon_with(&[])
    }

    fn daemon_with(&self, env: &[(&str, &str)]) -> Daemon<'_> {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = self.command(&["daemon"]);
        command.envs(env.iter().copied()).stdout(Stdio::null()).stderr(log);
        let mut daemon = Daemon { place: self, child: command.spawn().unwrap() };
        wait_for("the daemon to answer", || {
            assert!(daemon.child.try_wait().unwrap().is_none(), "{}", self.log());
            (self.run(&["status"]).code == 0).then_some(())
        });
        daemon
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// What a raw peer is answered.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.path("run/control.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut text = vec![];
        let _ = stream.read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    }
}

fn said(mut command: Command) -> Said {
    let output = command.output().unwrap();
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Daemon<'_> {
    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Ends it in order.
    fn stop(mut self) {
        self.signal(15);
        let status = wait_for("the daemon's end", || self.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{}", self.place.log());
        assert!(!self.place.path("run/control.sock").exists());
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An endpoint that takes connections, and one that does not.
fn endpoints() -> (TcpListener, String, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let there = format!("http://{}", listener.local_addr().unwrap());
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    (listener, there, format!("http://{gone}"))
}

#[test]
fn without_a_service() {
    let place = Place::new();
    let status = place.run(&["status"]);
    assert_eq!(status.code, 5, "{status:?}");
    let expected = format!(
        "{RULE}Distributed Tracing Status\n{RULE}\
         Status:       Disabled (service not running)\n\
         Exporter:     none\n\
         Service Name: orchestrate\n\
         Sample Rate:  100%\n\
         Jaeger:       http://localhost:14268/api/traces\n\
         OTLP:         http://localhost:4317\n{RULE}"
    );
    assert_eq!(status.out, expected);
    assert_eq!(place.status()["running"], false);
    for args in [&["enable", "--exporter", "otlp"][..], &["disable"]] {
        let said = place.run(args);
        assert_eq!(said.code, 5, "{said:?}");
        assert!(said.err.contains("systemctl start orchestrate-trace"), "{said:?}");
        assert!(said.err.contains("orchestrate-trace daemon"), "{said:?}");
    }
}

#[test]
fn enable_status_disable() {
    let place = Place::new();
    let (_listener, there, gone) = endpoints();
    let daemon = place.daemon();
    let enabled = place.run(&["enable", "--exporter", "otlp", "--otlp-endpoint", &there]);
    let expected = format!(
        "{RULE}Distributed Tracing Enabled\n{RULE}\
         Exporter:     otlp\n\
         Service Name: orchestrate\n\
         Sample Rate:  100%\n\
         OTLP:         {there}\n{RULE}"
    );
    assert_eq!((enabled.code, enabled.out, enabled.err), (0, expected, String::new()));

    // An endpoint that nobody answers at is a warning; so is a rate out of bounds.
    let jaeger = format!("{gone}/api/traces");
    let args = ["enable", "--exporter", "jaeger", "--jaeger-endpoint", &jaeger];
    let args = [&args[..], &["--service-name", "my-service", "--sample-rate", "1.5"]].concat();
    let enabled = place.run(&args);
    let expected = format!(
        "{RULE}Distributed Tracing Enabled\n{RULE}\
         Exporter:     jaeger\n\
         Service Name: my-service\n\
         Sample Rate:  100%\n\
         Jaeger:       {jaeger}\n{RULE}"
    );
    assert_eq!((enabled.code, enabled.out), (0, expected));
    assert!(enabled.err.contains(&format!("warning: {jaeger} cannot be reached")));
    assert!(enabled.err.contains("--sample-rate 1.5 is not between 0 and 1; using 1"));

    // The second replaced the first.
    let status = place.run(&["status"]);
    let expected = format!(
        "{RULE}Distributed Tracing Status\n{RULE}\
         Status:       Enabled\n\
         Exporter:     jaeger\n\
         Service Name: my-service\n\
         Sample Rate:  100%\n\
         Jaeger:       {jaeger}\n\
         OTLP:         http://localhost:4317\n{RULE}"
    );
    assert!(status.code == 0 && status.out.starts_with(&expected), "{status:?}");
    assert!(status.out.contains("service 0.") && status.out.contains(", up "), "{status:?}");

    let both = ["enable", "--exporter", "jaeger", "--exporter", "otlp", "--sample-rate", "0.125"];
    let enabled = place.run(&both);
    assert!(enabled.out.contains("Exporter:     jaeger, otlp\n"), "{enabled:?}");
    assert!(enabled.out.contains("Sample Rate:  12.5%\n"), "{enabled:?}");
    let default = "Jaeger:       http://localhost:14268/api/traces (default)\n\
                   OTLP:         http://localhost:4317 (default)\n";
    assert!(enabled.out.contains(default), "{enabled:?}");

    let disabled = place.run(&["disable"]);
    let expected = format!("{RULE}Distributed Tracing Disabled\n{RULE}");
    assert_eq!((disabled.code, disabled.out, disabled.err), (0, expected, String::new()));
    let status = place.status();
    assert_eq!((&status["running"], &status["enabled"]), (&true.into(), &false.into()));
    assert_eq!(status["v"], 1);
    daemon.stop();
}

#[test]
fn a_setting_survives_whatever_happens_to_the_daemon() {
    let place = Place::new();
    let (_listener, there, _) = endpoints();
    let daemon = place.daemon();
    let args = ["enable", "--exporter", "otlp", "--otlp-endpoint", &there, "--sample-rate", "0.5"];
    assert_eq!(place.run(&args).code, 0);
    let settings = |status: &Value| {
        let keys = ["enabled", "exporters", "sample_rate", "otlp_endpoint", "service_name"];
        keys.map(|key| status[key].clone())
    };
    let before = settings(&place.status());
    assert_eq!(before[0], true);
    // Killed: its socket stays behind, and is no obstacle.
    drop(daemon);
    assert!(place.path("run/control.sock").exists());
    let gone = place.run(&["status"]);
    assert!(gone.code == 5 && gone.out.contains("Sample Rate:  50%\n"), "{gone:?}");
    assert_eq!(settings(&place.status()), before);
    let daemon = place.daemon();
    assert_eq!(settings(&place.status()), before);
    daemon.stop();
    let daemon = place.daemon();
    assert_eq!(settings(&place.status()), before);
    assert_eq!(place.run(&["disable"]).code, 0);
    daemon.stop();
    assert_eq!(place.status()["enabled"], false);
    let mode = fs::metadata(place.path("state/state.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o007, 0, "{mode:o}");
}

#[test]
fn a_second_daemon_refuses() {
    let place = Place::new();
    let daemon = place.daemon();
    let second = place.run(&["daemon"]);
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.err.contains("another daemon is running"), "{second:?}");
    // Another socket does not make it a different one: it is the same state.
    let mut elsewhere = place.command(&["daemon", "--socket"]);
    elsewhere.arg(place.path("other.sock"));
    let second = said(elsewhere);
    assert!(second.code == 1 && second.err.contains("another daemon"), "{second:?}");
    assert_eq!(place.run(&["status"]).code, 0);
    daemon.stop();
}

#[test]
fn what_cannot_be_used_changes_nothing() {
    let place = Place::new();
    let daemon = place.daemon();
    let before = place.status()["enabled"].clone();
    for (args, words) in [
        (&["enable"][..], "nowhere to send spans to"),
        (&["enable", "--otlp-endpoint", "localhost:4317"], "http://localhost:4317"),
        (&["enable", "--jaeger-endpoint", "ftp://h"], "--jaeger-endpoint"),
        (&["enable", "--exporter", "zipkin"], "jaeger"),
        (&["enable", "--exporter", "otlp", "--sample-rate", "half"], "0 to 1"),
        (&["enable", "--exporter", "otlp", "--service-name", " "], "--service-name"),
        (&["enable", "--exporter", "otlp", "--otlp-protocol", "http/json"], "not supported"),
    ] {
        let said = place.run(args);
        assert_eq!(said.code, 2, "{args:?}: {said:?}");
        assert!(said.err.contains(words) && said.out.is_empty(), "{args:?}: {said:?}");
    }
    assert_eq!(place.status()["enabled"], before);
    // Without sending is a choice, too.
    assert_eq!(place.run(&["enable", "--exporter", "none"]).code, 0);
    assert!(place.run(&["status"]).out.contains("Exporter:     none\n"));
    daemon.stop();
}

#[test]
fn whose_word_counts() {
    let place = Place::new();
    place.configure(
        "[export]\nexporters = ['otlp']\nservice_name = 'file'\n\
         otlp_endpoint = 'http://127.0.0.1:1'\n",
    );
    let name = |status: Value| status["service_name"].as_str().unwrap().to_owned();
    let daemon = place.daemon();
    assert_eq!(place.run(&["enable"]).code, 0);
    assert_eq!(name(place.status()), "file");
    daemon.stop();

    let own = [
        ("OTEL_SERVICE_NAME", "own"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:2"),
    ];
    let daemon = place.daemon_with(&own);
    assert_eq!(name(place.status()), "own");
    assert_eq!(place.status()["otlp_endpoint"], "http://127.0.0.1:2");

    // The caller's environment is sent along, wins, and is remembered.
    let mut enable = place.command(&["enable"]);
    enable.env("OTEL_SERVICE_NAME", "caller");
    enable.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:3");
    assert_eq!(said(enable).code, 0);
    assert_eq!(name(place.status()), "caller");
    assert_eq!(place.status()["otlp_endpoint"], "http://127.0.0.1:3");
    daemon.stop();
    let daemon = place.daemon_with(&own);
    assert_eq!(name(place.status()), "caller");
    let args = ["enable", "--service-name", "flag"];
    let mut enable = place.command(&args);
    enable.env("OTEL_SERVICE_NAME", "caller");
    assert_eq!(said(enable).code, 0);
    assert_eq!(name(place.status()), "flag");
    daemon.stop();
}

#[test]
fn sighup_reads_the_configuration_again() {
    let place = Place::new();
    place.configure("[export]\nexporters = ['otlp']\nservice_name = 'one'\n");
    let daemon = place.daemon();
    assert_eq!(place.run(&["enable"]).code, 0);
    place.configure("[export]\nexporters = ['otlp']\nservice_name = 'two'\n");
    daemon.signal(1);
    wait_for("the new name", || (place.status()["service_name"] == "two").then_some(()));
    // A mistake is reported, and what was in force stays so.
    place.configure("[export]\nservice_nam = 'three'\n");
    daemon.signal(1);
    let error = wait_for("the error", || {
        place.status()["service"]["last_error"].as_str().map(str::to_owned)
    });
    assert!(error.contains("line 4") && error.contains("service_nam"), "{error}");
    assert_eq!(place.status()["service_name"], "two");
    assert!(place.log().contains("service_nam"), "{}", place.log());
    place.configure("[export]\nservice_name = 'four'\nexporters = ['otlp']\n");
    daemon.signal(1);
    wait_for("the newest name", || (place.status()["service_name"] == "four").then_some(()));
    assert_eq!(place.status()["service"]["last_error"], Value::Null);
    daemon.stop();
}

#[test]
fn configurations() {
    let place = Place::new();
    let init = place.run(&["config", "init"]);
    assert_eq!(init.code, 0);
    fs::write(place.path("config.toml"), &init.out).unwrap();
    // What it prints is one.
    place.daemon().stop();
    fs::write(place.path("config.toml"), "[discovery]\npids = []\nnonsense = 1\n").unwrap();
    let refused = place.run(&["daemon"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    for word in ["config.toml", "line 3", "nonsense", "config init"] {
        assert!(refused.err.contains(word), "{refused:?}");
    }
    fs::remove_file(place.path("config.toml")).unwrap();
    let missing = place.run(&["daemon"]);
    assert!(missing.code == 1 && missing.err.contains("config.toml"), "{missing:?}");
}

#[test]
fn a_damaged_state_is_not_overwritten() {
    let place = Place::new();
    fs::create_dir(place.path("state")).unwrap();
    fs::write(place.path("state/state.json"), "{\"v\":7}").unwrap();
    for args in [&["daemon"][..], &["status"]] {
        let said = place.run(args);
        assert!(said.code == 1 && said.err.contains("state.json"), "{args:?}: {said:?}");
    }
    assert_eq!(fs::read_to_string(place.path("state/state.json")).unwrap(), "{\"v\":7}");
}

#[test]
fn bad_requests_harm_nobody() {
    let place = Place::new();
    let daemon = place.daemon();
    for (bytes, kind) in [
        (b"\n".as_slice(), "malformed"),
        (b"GET / HTTP/1.1\r\n\r\n", "malformed"),
        (b"{\"v\":1,\"request\":\"status\"", "malformed"),
        (b"{\"v\":1,\"request\":\"launch\"}\n", "malformed"),
        (b"{\"v\":2,\"request\":\"status\"}\n", "version"),
        (&[b'['; 70_000], "malformed"),
        (&[0; 70_000], "malformed"),
    ] {
        let text = place.raw(bytes);
        assert!(text.contains(&format!("\"kind\":\"{kind}\"")), "{kind}: {text}");
    }
    let silent: Vec<UnixStream> =
        (0..8).map(|_| UnixStream::connect(place.path("run/control.sock")).unwrap()).collect();
    assert_eq!(place.run(&["status"]).code, 0);
    drop(silent);
    daemon.stop();
}

#[test]
fn metrics_and_health() {
    let place = Place::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    place.configure(&format!("[health]\nlisten = '127.0.0.1:{port}'\n"));
    let daemon = place.daemon();
    let get = |path: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    assert!(get("/healthz").ends_with("\r\n\r\nok\n"));
    let metrics = get("/metrics");
    assert!(metrics.contains("\norchestrate_trace_enabled 0\n"), "{metrics}");
    assert_eq!(place.run(&["enable", "--exporter", "none"]).code, 0);
    assert!(get("/metrics").contains("\norchestrate_trace_enabled 1\n"));
    assert!(get("/").starts_with("HTTP/1.1 404"));
    daemon.stop();
}

#[test]
fn systemd_is_told() {
    let place = Place::new();
    let path = place.path("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let log = File::create(place.path("log")).unwrap();
    // The watchdog names the process, as systemd does between fork and exec.
    let script = "export WATCHDOG_PID=$$; exec \"$0\" daemon";
    let command = place.command(&[]);
    let program = command.get_program().to_owned();
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(script).arg(program).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.env("NOTIFY_SOCKET", &path).env("JOURNAL_STREAM", "1:1").stderr(log);
    let child = shell.env("WATCHDOG_USEC", "300000").spawn().unwrap();
    let daemon = Daemon { place: &place, child };
    let mut told = String::new();
    let mut until = |word: &str| {
        while !told.contains(word) {
            let mut buffer = [0; 4096];
            let n = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{word}: {e}: {told}"));
            told.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
        }
        told.clear();
    };
    until("READY=1");
    until("STATUS=tracing is off");
    until("WATCHDOG=1");
    until("WATCHDOG=1");
    daemon.signal(1);
    until("RELOADING=1");
    until("READY=1");
    daemon.signal(15);
    until("STOPPING=1");
    // Every line begins with its priority.
    let log = place.log();
    assert!(log.lines().all(|line| line.starts_with('<')), "{log}");
    assert!(log.contains("<6>"), "{log}");
}

#[test]
fn an_image_gets_the_same_unit() {
    let place = Place::new();
    let root = place.path("image");
    let root = root.to_str().unwrap();
    let said = place.run(&["install-service", "--root", root]);
    assert_eq!(said.code, 0, "{said:?}");
    let unit = place.path("image/etc/systemd/system/orchestrate-trace.service");
    let text = fs::read_to_string(&unit).unwrap();
    let program = env!("CARGO_BIN_EXE_orchestrate-trace");
    assert!(text.contains(&format!("ExecStart={program} daemon\n")), "{text}");
    let packaged = include_str!("../../packaging/orchestrate-trace.service");
    assert_eq!(text.replace(program, "/usr/bin/orchestrate-trace"), packaged);
    assert!(place.path("image/etc/sysusers.d/orchestrate-trace.conf").exists());
    // What the administrator wrote stays.
    let config = place.path("image/etc/orchestrate-trace/config.toml");
    fs::write(&config, "# mine\n").unwrap();
    assert_eq!(place.run(&["install-service", "--root", root]).code, 0);
    assert_eq!(fs::read_to_string(&config).unwrap(), "# mine\n");
    let said = place.run(&["install-service", "--root", root, "--remove"]);
    assert!(said.code == 0 && !unit.exists() && config.exists(), "{said:?}");
    // The package's unit is not to be doubled.
    let packaged = place.path("image/usr/lib/systemd/system");
    fs::create_dir_all(&packaged).unwrap();
    fs::write(packaged.join("orchestrate-trace.service"), "").unwrap();
    let said = place.run(&["install-service", "--root", root]);
    assert!(said.code == 1 && said.err.contains("the package is installed"), "{said:?}");
}
