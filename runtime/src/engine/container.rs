//! One container as the engine knows it: its state, and the connection over which its shim is driven.

use super::cleanup;
use super::connection::{Reader, Writer};
use super::types::ContainerState;
use crate::shim::files::Ending;
use crate::shim::protocol::{FromShim, Phase, ToShim};
use crate::{Error, Result};
use std::{collections::VecDeque, path::PathBuf, sync::Arc};
use tokio::process::Child;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// One container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) shared: Arc<Shared>,
    /// Requests to its shim; none where that has ended.
    control: Option<mpsc::Sender<Request>>,
    /// The shim's process, while its connection stands.
    pub(super) shim: Option<i32>,
    /// Held by who removes it.
    pub(super) removal: tokio::sync::Mutex<()>,
}

/// What the task at the shim's connection has of it too.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: String,
    pub(super) dir: PathBuf,
    pub(super) run: PathBuf,
    state: watch::Sender<ContainerState>,
    shim_gone: watch::Sender<bool>,
    events: broadcast::Sender<(String, ContainerState)>,
}

type Request = (ToShim, oneshot::Sender<Result<()>>);

impl From<Phase> for ContainerState {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Created { pid } => Self::Created { pid },
            Phase::Running { pid, started_at } => Self::Running { pid, started_at },
            Phase::Stopped(ending) => ending.into(),
        }
    }
}

impl From<Ending> for ContainerState {
    fn from(ending: Ending) -> Self {
        Self::Stopped {
            exit: ending.exit,
            started_at: ending.started_at,
            finished_at: ending.finished_at,
            message: ending.message,
        }
    }
}

impl Shared {
    pub(super) fn new(
        id: &str,
        dir: PathBuf,
        run: PathBuf,
        state: ContainerState,
        events: broadcast::Sender<(String, ContainerState)>,
    ) -> Self {
        Self {
            id: id.to_owned(),
            dir,
            run,
            state: watch::Sender::new(state),
            shim_gone: watch::Sender::new(false),
            events,
        }
    }

    pub(super) fn state(&self) -> ContainerState {
        self.state.borrow().clone()
    }

    /// Tells everybody, if it is news.
    fn set(&self, state: ContainerState) {
        let news = self.state.send_if_modified(|now| {
            // The end is final, whoever else has something to say.
            let news = *now != state && !now.is_stopped();
            if news {
                now.clone_from(&state);
            }
            news
        });
        if news {
            // Nobody needs to listen.
            let _ = self.events.send((self.id.clone(), state));
        }
    }

    /// Waits for its end.
    pub(super) async fn stopped(&self) -> ContainerState {
        let mut states = self.state.subscribe();
        match states.wait_for(ContainerState::is_stopped).await {
            Ok(state) => state.clone(),
            // The sender is in `self`.
            Err(_) => self.state(),
        }
    }

    /// Waits until its shim's process has gone.
    pub(super) async fn shim_gone(&self) {
        let _ = self.shim_gone.subscribe().wait_for(|gone| *gone).await;
    }
}

impl Container {
    /// One that has ended, without a shim.
    pub(super) fn ended(shared: Shared) -> Self {
        shared.shim_gone.send_replace(true);
        Self {
            shared: Arc::new(shared),
            control: None,
            shim: None,
            removal: tokio::sync::Mutex::default(),
        }
    }

    /// One whose shim is at the other end of a connection. `child` is the shim, where this process started it.
    pub(super) fn connected(
        shared: Shared,
        shim: i32,
        reader: Reader,
        writer: Writer,
        child: Option<Child>,
    ) -> Self {
        let shared = Arc::new(shared);
        let (control, requests) = mpsc::channel(16);
        tokio::spawn(listen(shared.clone(), reader, writer, requests, child));
        Self {
            shared,
            control: Some(control),
            shim: Some(shim),
            removal: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn state(&self) -> ContainerState {
        self.shared.state()
    }

    pub(super) fn id(&self) -> &str {
        &self.shared.id
    }

    /// Asks the shim for something and waits for its answer.
    pub(super) async fn request(&self, request: ToShim) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        if let Some(control) = &self.control
            && control.send((request, answer)).await.is_ok()
            && let Ok(done) = answered.await
        {
            return done;
        }
        Err(Error::Conflict(format!(
            "container {} has ended, and its shim with it",
            self.id()
        )))
    }
}

/// Listens to one shim until it ends, or the engine does: then the shim goes on alone.
async fn listen(
    shared: Arc<Shared>,
    mut reader: Reader,
    mut writer: Writer,
    mut requests: mpsc::Receiver<Request>,
    child: Option<Child>,
) {
    let mut waiting: VecDeque<oneshot::Sender<Result<()>>> = VecDeque::new();
    let failure = loop {
        tokio::select! {
            message = reader.next() => match message {
                Ok(Some(FromShim::State(phase))) => shared.set(phase.into()),
                Ok(Some(FromShim::Done)) => answer(&mut waiting, Ok(())),
                Ok(Some(FromShim::Failed(failure))) => answer(&mut waiting, Err(failure.into())),
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(error) => break Some(error),
            },
            request = requests.recv() => match request {
                Some((request, answer)) => match writer.send(&request).await {
                    Ok(()) => waiting.push_back(answer),
                    // The reader will see the end, after what the shim has said before it.
                    Err(error) => drop(answer.send(Err(error))),
                },
                None => return,
            },
        }
    };
    if let Some(error) = failure {
        tracing::warn!(container = shared.id, %error, "the connection to a shim broke");
    }
    // Where it is a child of this process it is collected; else the end of the connection was its end.
    if let Some(mut child) = child {
        let _ = child.wait().await;
    }
    drop(waiting);
    let ending = cleanup::after_shim(&shared.id, &shared.dir, shared.state()).await;
    shared.set(ending.into());
    shared.shim_gone.send_replace(true);
}

fn answer(waiting: &mut VecDeque<oneshot::Sender<Result<()>>>, result: Result<()>) {
    if let Some(waiting) = waiting.pop_front() {
        // Who asked may have gone.
        let _ = waiting.send(result);
    }
}
