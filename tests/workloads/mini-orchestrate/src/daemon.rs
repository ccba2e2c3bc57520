//! The daemon: finds agents that wait, runs each in a task of its own, serves the web API.

use crate::{agents, DaemonArgs};
use anyhow::{Context, Result};
use orchestrate_claude::{tools, AgentLoop, ClaudeClient, LoopConfig, ToolExecutor};
use orchestrate_core::{Agent, AgentState, Database};
use orchestrate_web::AppState;
use std::collections::HashSet;
use std::future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{signal, SignalKind};
use tokio::sync::Semaphore;
use tracing::{error, info, warn};
use uuid::Uuid;
use workload_record::Asker;

/// What every agent's task needs.
#[derive(Clone)]
struct Shared {
    db: Database,
    client: ClaudeClient,
    http: reqwest::Client,
    web_url: String,
    workdir: PathBuf,
    model: Option<String>,
    shutdown: Arc<AtomicBool>,
    /// The agents that have a task.
    active: Arc<Mutex<HashSet<Uuid>>>,
}

/// Runs until all agents are done, or until a signal.
///
/// # Errors
/// If the database, the web API or the client of the Messages API cannot be set up.
pub async fn run_daemon(args: DaemonArgs) -> Result<()> {
    let workdir = match &args.workdir {
        Some(dir) => dir.clone(),
        None => args.db.parent().map(Path::to_path_buf).unwrap_or_default().join("."),
    };
    tools::prepare(&workdir)?;
    let db = Database::new(&args.db).await?;
    agents::fill(&db, args.agents, args.mix).await?;

    let shutdown = Arc::new(AtomicBool::new(false));
    stop_on_signals(&shutdown)?;
    let listener = TcpListener::bind(args.web_listen)
        .await
        .with_context(|| format!("listening on {}", args.web_listen))?;
    let address = listener.local_addr()?;
    let router = orchestrate_web::create_router(Arc::new(AppState { db: db.clone() }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    info!("web API on http://{address}");
    if let Some(file) = &args.port_file {
        publish(file, &address.port().to_string()).await?;
    }

    let shared = Shared {
        db: db.clone(),
        client: ClaudeClient::new(args.api_key.clone(), args.api_url.clone())?,
        http: reqwest::Client::new(),
        web_url: format!("http://{address}"),
        workdir,
        model: args.model.clone(),
        shutdown: shutdown.clone(),
        active: Arc::default(),
    };
    if let Some(gate) = &args.start_gate {
        info!("waiting for {}", gate.display());
        while !tokio::fs::try_exists(gate).await? && !shutdown.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    poll_agents(&args, &shared).await?;
    db.close().await;
    info!("daemon stopped");
    Ok(())
}

/// Looks for agents until told to stop, or until none is left.
async fn poll_agents(args: &DaemonArgs, shared: &Shared) -> Result<()> {
    let semaphore = Arc::new(Semaphore::new(args.concurrency));
    while !shared.shutdown.load(Ordering::SeqCst) {
        for agent in shared.db.list_agents_by_state(AgentState::Created).await? {
            if shared.is_active(agent.id) {
                continue;
            }
            let Ok(permit) = semaphore.clone().try_acquire_owned() else { break };
            shared.set_active(agent.id, true);
            let shared = shared.clone();
            tokio::spawn(async move {
                let _permit = permit;
                supervise(shared, agent).await;
            });
        }
        if !args.stay && shared.db.count_unfinished().await? == 0 && !shared.any_active() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(args.poll_ms)).await;
    }
    // Each agent's task gives its permit back as its last act.
    let all = u32::try_from(args.concurrency).context("the concurrency is too large")?;
    let wait = tokio::time::timeout(Duration::from_secs(30), semaphore.acquire_many(all));
    if wait.await.is_err() {
        warn!("some agents are still running");
    }
    Ok(())
}

/// Runs an agent in a task of its own, so that a panic ends that agent only.
async fn supervise(shared: Shared, agent: Agent) {
    let id = agent.id;
    let task = tokio::spawn(run_single_agent(shared.clone(), agent));
    match task.await {
        Ok(Ok(())) => info!("[AGENT {id}] over"),
        Ok(Err(error)) => error!("[AGENT {id}] {error:#}"),
        Err(join) => {
            error!("[AGENT {id}] {join}");
            if let Err(error) = mark_failed(&shared.db, id, &join.to_string()).await {
                error!("[AGENT {id}] not marked as failed: {error:#}");
            }
        }
    }
    shared.set_active(id, false);
}

async fn mark_failed(db: &Database, id: Uuid, why: &str) -> Result<()> {
    let mut agent = db.get_agent(id).await?.context("the agent is gone")?;
    agent.fail(why)?;
    db.update_agent(&agent).await
}

async fn run_single_agent(shared: Shared, mut agent: Agent) -> Result<()> {
    let Shared { db, client, http, web_url, workdir, model, shutdown, active: _ } = shared;
    let config = LoopConfig { model, ..LoopConfig::default() };
    let executor = ToolExecutor::new(workdir, db.clone(), http, web_url);
    let agent_loop = AgentLoop::new(client, db.clone(), executor, config);
    let deadline = agent.context.deadline_ms.map(Duration::from_millis);
    let asker = Asker::Agent(agent.id);

    let result = tokio::select! {
        result = workload_record::scope(asker, agent_loop.run(&mut agent)) => result,
        () = async {
            while !shutdown.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        } => stop(&mut agent, "shutdown"),
        () = async {
            match deadline {
                Some(deadline) => tokio::time::sleep(deadline).await,
                None => future::pending().await,
            }
        } => stop(&mut agent, "deadline"),
    };
    db.update_agent(&agent).await?;
    result
}

/// The agent's run was dropped in the middle.
fn stop(agent: &mut Agent, why: &str) -> Result<()> {
    warn!("[AGENT {}] stopped: {why}", agent.id);
    agent.error_message = Some(format!("stopped: {why}"));
    if agent.state.is_over() {
        return Ok(());
    }
    if agent.state == AgentState::Created {
        agent.transition_to(AgentState::Initializing)?;
    }
    agent.transition_to(AgentState::Paused)
}

fn stop_on_signals(shutdown: &Arc<AtomicBool>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("told to stop");
        shutdown.store(true, Ordering::SeqCst);
    });
    Ok(())
}

/// Writes a file so that whoever waits for it never sees half of it.
async fn publish(file: &Path, content: &str) -> Result<()> {
    let part = file.with_extension("part");
    tokio::fs::write(&part, content).await?;
    tokio::fs::rename(&part, file).await.with_context(|| format!("writing {}", file.display()))
}

impl Shared {
    fn is_active(&self, id: Uuid) -> bool {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    fn any_active(&self) -> bool {
        !self.active.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn set_active(&self, id: Uuid, active: bool) {
        let mut ids = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        if active {
            ids.insert(id);
        } else {
            ids.remove(&id);
        }
    }
}
