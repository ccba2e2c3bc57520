//! The main loop: the only owner of everything that changes. Sockets, signals and the workshop
//! send it messages; it waits for nobody.

mod requests;
mod targets;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::{error, info, warn};

use super::auth;
use super::config::{Config, ConfigError};
use super::control::{self, Admission};
use super::discovery::{Rules, Scanner};
use super::outlets::Outlets;
use super::protocol::{Refused, Request};
use super::rates::Rates;
use super::report::{Report, Totals};
use super::settings::{Environment, Settings};
use super::state::{self, Lock, State, StateError};
use super::workshop::{Done, Workshop};
use super::{health, metrics};
use crate::attach::AttachOptions;
use crate::export::{Endpoint, SpoolConfig};
use crate::plan::Profile;
use crate::session::SessionOptions;
use targets::Targets;

/// Whoever started the service and wants to know how it is: systemd, or nobody.
pub trait Supervisor: Send {
    /// It is ready.
    fn ready(&mut self);
    /// How it is, in a few words.
    fn status(&mut self, text: &str);
    /// It reads its configuration again; [`Supervisor::ready`] follows.
    fn reloading(&mut self);
    /// It stops.
    fn stopping(&mut self);
    /// The main loop turns.
    fn alive(&mut self);
    /// How often that must be said at least.
    fn watchdog(&self) -> Option<Duration>;
}

/// Where things are.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// It was named: then it must exist.
    pub config_must_exist: bool,
    /// The folder of what survives a restart.
    pub state_dir: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
}

/// Why the service cannot run.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its profile.
    #[error(transparent)]
    Profile(#[from] crate::plan::ProfileError),
    /// Its state, or another daemon.
    #[error(transparent)]
    State(#[from] StateError),
    /// Settings that do not make sense together.
    #[error("the settings cannot be used: {0}; `orchestrate-trace config init` explains them")]
    Settings(String),
    /// A socket.
    #[error("{what}: {source}")]
    Socket {
        /// Which.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// No thread can be had.
    #[error("starting a thread: {0}")]
    Thread(#[source] io::Error),
}

impl ServiceError {
    /// Whether privileges are missing.
    pub fn is_permission(&self) -> bool {
        match self {
            Self::State(error) => error.is_permission(),
            Self::Socket { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::Config(_) | Self::Profile(_) | Self::Settings(_) | Self::Thread(_) => false,
        }
    }
}

pub(super) type Reply = mpsc::Sender<Result<(Report, Vec<Endpoint>), Refused>>;

/// What the main loop is told.
pub(super) enum Message {
    /// A request, already authorised.
    Request { request: Request, reply: Reply },
    /// Somebody wants the metrics.
    Metrics { reply: mpsc::Sender<String> },
    /// Something has been done.
    Done(Done),
    /// Read the configuration again.
    Reload,
    /// Stop.
    Stop,
}

/// Steers a service from another thread.
#[derive(Clone, Debug)]
pub struct Handle(mpsc::Sender<Message>);

impl Handle {
    /// Reads the configuration again.
    pub fn reload(&self) {
        let _ = self.0.send(Message::Reload);
    }

    /// Detaches, sends what is left, and ends.
    pub fn stop(&self) {
        let _ = self.0.send(Message::Stop);
    }
}

/// The service.
pub struct Service {
    options: Options,
    supervisor: Box<dyn Supervisor>,
    messages: mpsc::Receiver<Message>,
    admission: Arc<Admission>,
    own_environment: BTreeMap<String, String>,
    config: Config,
    state: State,
    settings: Settings,
    targets: Targets,
    /// Who waits for everything to be detached.
    disabling: Vec<Reply>,
    rates: Rates,
    last_error: Option<String>,
    began: Instant,
    told: String,
    supervised: Instant,
    noticed: Instant,
    _locks: [Lock; 2],
}

/// How often the supervisor hears of us at least, and notices are looked for.
const SECOND: Duration = Duration::from_secs(1);
/// How long the end may take: detaching, and sending the last spans.
const END: Duration = Duration::from_secs(20);

fn endpoints(settings: &Settings) -> Result<Vec<Endpoint>, ServiceError> {
    settings.endpoints().map_err(|error| ServiceError::Settings(error.to_string()))
}

/// What sessions begin with, by the configuration.
fn session_options(config: &Config) -> Result<SessionOptions, ServiceError> {
    let mut profile = match &config.tracing.profile {
        Some(path) => Profile::read(path)?,
        None => Profile::orchestrate(),
    };
    for text in &config.tracing.functions {
        let pattern =
            text.parse().map_err(|why| ServiceError::Settings(format!("'{text}': {why}")))?;
        profile.add_function(pattern);
    }
    let attach =
        AttachOptions { ring_bytes: config.tracing.ring_bytes, ..AttachOptions::default() };
    Ok(SessionOptions { profile, attach, ..SessionOptions::default() })
}

impl Service {
    /// Reads configuration and state, makes sure that it is alone, and listens.
    ///
    /// # Errors
    /// Something of that cannot be done.
    pub fn start(
        options: Options,
        supervisor: Box<dyn Supervisor>,
    ) -> Result<(Self, Handle), ServiceError> {
        let config = Config::read(&options.config, options.config_must_exist)?;
        let sessions = session_options(&config)?;
        let Options { state_dir, socket, .. } = &options;
        state::make_dir(state_dir, 0o750)?;
        if let Some(dir) = socket.parent() {
            state::make_dir(dir, 0o755)?;
        }
        let beside = |path: &PathBuf| {
            let mut name = path.clone().into_os_string();
            name.push(".lock");
            PathBuf::from(name)
        };
        let locks = [Lock::take(&beside(socket))?, Lock::take(&state_dir.join("lock"))?];
        let state = State::read(state_dir)?;
        let own_environment = Environment::own();
        let settings = Settings::resolve(state.enabled, &state.choice, &own_environment, &config)
            .map_err(ServiceError::Settings)?;
        let endpoints = endpoints(&settings)?;

        let (sender, messages) = mpsc::channel();
        let group = auth::group_id(&config.control.group);
        if group.is_none() {
            let group = &config.control.group;
            warn!(group, "no such group: only root may steer the service");
        }
        let admission = Arc::new(Admission::new(group));
        let listener = control::bind(socket, group).map_err(|source| ServiceError::Socket {
            what: format!("control socket {}", socket.display()),
            source,
        })?;
        control::serve(listener, Arc::clone(&admission), sender.clone())
            .map_err(ServiceError::Thread)?;
        if let Some(address) = config.health.listen {
            let bound = health::serve(address, sender.clone()).map_err(|source| {
                ServiceError::Socket { what: format!("health.listen {address}"), source }
            })?;
            info!(address = %bound, "metrics under /metrics, health under /healthz");
        }
        let workshop = Workshop::open(sender.clone()).map_err(ServiceError::Thread)?;
        let max_bytes = config.spool.max_bytes;
        let spool = SpoolConfig { dir: state_dir.join("spool"), max_bytes };
        let outlets = Outlets::new((max_bytes > 0).then_some(spool));
        let rules = Rules::new(&config.discovery);
        let targets = Targets::new(workshop, Scanner::new(), rules, sessions, outlets);
        let now = Instant::now();
        let mut service = Self {
            options,
            supervisor,
            messages,
            admission,
            own_environment,
            config,
            state,
            settings,
            targets,
            disabling: vec![],
            rates: Rates::default(),
            last_error: None,
            began: now,
            told: String::new(),
            supervised: now,
            noticed: now,
            _locks: locks,
        };
        service.apply(service.settings.clone(), &endpoints);
        Ok((service, Handle(sender)))
    }

    /// Runs until it is told to stop.
    pub fn run(mut self) {
        self.supervisor.ready();
        info!(
            enabled = self.settings.enabled,
            socket = %self.options.socket.display(),
            "orchestrate-trace {} is ready",
            env!("CARGO_PKG_VERSION")
        );
        loop {
            self.turn();
            let mut next = self.messages.recv_timeout(self.pause()).ok();
            // All that is waiting, but not for ever: sessions want to be looked at, too.
            for _ in 0..256 {
                let Some(message) = next else { break };
                if !self.handle(message) {
                    self.end();
                    return;
                }
                next = self.messages.try_recv().ok();
            }
        }
    }

    /// How long there is nothing to do but for messages.
    fn pause(&self) -> Duration {
        let watchdog = self.supervisor.watchdog().map(|every| every / 3);
        let mut pause = watchdog.unwrap_or(Duration::from_secs(3600));
        if self.targets.are_traced() {
            pause = pause.min(self.targets.pause());
        }
        if self.settings.enabled {
            pause = pause.min(self.targets.until_scan());
        }
        pause.max(Duration::from_millis(1))
    }

    fn turn(&mut self) {
        self.targets.poll(&mut self.rates);
        if self.settings.enabled && self.targets.until_scan().is_zero() {
            self.targets.scan(&self.config);
        }
        if self.noticed.elapsed() >= SECOND {
            self.noticed = Instant::now();
            self.targets.notices();
        }
        if !self.settings.enabled {
            self.targets.close_idle();
        }
        if self.targets.is_empty() {
            for reply in std::mem::take(&mut self.disabling) {
                let report = self.report();
                let _ = reply.send(Ok((report, vec![])));
            }
        }
        let every = self.supervisor.watchdog().map_or(SECOND, |every| every / 3);
        if self.supervised.elapsed() >= every {
            self.supervised = Instant::now();
            self.supervisor.alive();
        }
        self.tell();
    }

    /// Tells the supervisor how things are, when that has changed.
    fn tell(&mut self) {
        let text = if self.settings.enabled {
            match self.targets.traced() {
                0 => "tracing is on; no process to trace".to_owned(),
                1 => "tracing 1 process".to_owned(),
                n => format!("tracing {n} processes"),
            }
        } else {
            "tracing is off".to_owned()
        };
        if text != self.told {
            self.supervisor.status(&text);
            self.told = text;
        }
    }

    /// `false`: the end.
    fn handle(&mut self, message: Message) -> bool {
        match message {
            Message::Request { request, reply } => self.request(request, reply),
            Message::Metrics { reply } => {
                let report = self.report();
                let _ = reply.send(metrics::render(&report, &self.rates));
            }
            Message::Done(done) => {
                self.targets.done(done, self.settings.enabled, &mut self.rates);
            }
            Message::Reload => self.reload(),
            Message::Stop => return false,
        }
        true
    }

    fn reload(&mut self) {
        info!("reading the configuration again");
        self.supervisor.reloading();
        match self.read_again() {
            Ok(()) => {}
            Err(why) => {
                error!("the configuration is kept as it was: {why}");
                self.last_error = Some(format!("reload: {why}"));
            }
        }
        self.supervisor.ready();
    }

    fn read_again(&mut self) -> Result<(), ServiceError> {
        let config = Config::read(&self.options.config, self.options.config_must_exist)?;
        let sessions = session_options(&config)?;
        let State { v: _, enabled, choice } = &self.state;
        let settings = Settings::resolve(*enabled, choice, &self.own_environment, &config)
            .map_err(ServiceError::Settings)?;
        let endpoints = endpoints(&settings)?;
        if config.health.listen != self.config.health.listen {
            warn!("health.listen takes effect when the service is started again");
        }
        self.admission.set(auth::group_id(&config.control.group));
        self.targets.change(Rules::new(&config.discovery), sessions);
        self.config = config;
        self.apply(settings, &endpoints);
        Ok(())
    }

    /// Puts settings in force.
    fn apply(&mut self, settings: Settings, endpoints: &[Endpoint]) {
        self.settings = settings;
        if !self.settings.enabled {
            self.targets.release_all();
            return;
        }
        self.last_error = self.targets.send_to(endpoints, &self.settings).err();
        if let Some(why) = &self.last_error {
            error!("not everything can be sent: {why}");
        }
        self.targets.scan_now();
    }

    /// Detaches everything and sends what is left. The setting stays as it is: the next start
    /// restores it.
    fn end(mut self) {
        info!("stopping");
        self.supervisor.stopping();
        self.targets.release_all();
        let until = Instant::now() + END;
        self.targets.close_idle();
        while !(self.targets.is_empty() && self.targets.all_sent()) {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(message) = self.messages.recv_timeout(left) else {
                warn!("not everything could be sent within {} s", END.as_secs());
                break;
            };
            if let Message::Done(done) = message {
                self.targets.done(done, false, &mut self.rates);
            }
            self.targets.close_idle();
        }
        if let Err(error) = std::fs::remove_file(&self.options.socket) {
            warn!(%error, "removing the control socket");
        }
        let Totals { attached, refused: _, hits: _, spans, exported, drops } =
            self.targets.totals();
        info!(attached, spans, exported, ?drops, "stopped");
    }
}
