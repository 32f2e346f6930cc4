//! The logs of a task or of all tasks of a service, each read where it is, as one.

use super::{Cluster, merge, names};
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, SelectAll};
use futures_util::{StreamExt, stream};
use std::collections::BTreeSet;
use swarm_api::backend::{LogOptions, LogRecord};
use swarm_api::model::{Id, NodeHealth, NodeId, Task, TaskState};
use swarm_api::{BoxStream, Error, Result};
use swarm_cluster::{PlanItem, State, orchestrator};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Records that a follower may lag behind before its tasks' nodes wait for it.
const BUFFER: usize = 64;

type Records = BoxStream<Result<LogRecord>>;

impl Cluster {
    pub(super) async fn logs(&self, name: &str, options: LogOptions) -> Result<Records> {
        self.fresh().await?;
        let target = names::service_or_task(&self.member.state(), name)?;
        if options.follow {
            let (records, receiver) = mpsc::channel(BUFFER);
            tokio::spawn(self.clone().follow(target, options, records));
            return Ok(ReceiverStream::new(receiver).boxed());
        }
        let sources = sources(&self.member.state(), &target);
        let opened = sources.into_iter().map(|s| self.open(s, options.clone()));
        let (mut streams, mut errors) = (Vec::new(), Vec::new());
        for outcome in join_all(opened).await {
            match outcome {
                Ok(records) => streams.push(records),
                Err(Error::NotFound(_)) => {} // Its container is not made yet, or gone.
                Err(why) => errors.push(why),
            }
        }
        if streams.is_empty()
            && let Some(why) = errors.pop()
        {
            return Err(why);
        }
        let merged = merge::merge(streams);
        let merged = match options.tail {
            None => merged,
            Some(count) => {
                let (kept, broken) = merge::last(merged, count).await;
                errors.extend(broken);
                stream::iter(kept).map(Ok).boxed()
            }
        };
        // What is missing is said after all that is there.
        Ok(merged.chain(stream::iter(errors).map(Err)).boxed())
    }

    async fn open(&self, source: Source, options: LogOptions) -> Result<Records> {
        // Nobody waits for an answer that cannot come.
        let down = self.down_node(source.node);
        if let Some(name) = down {
            return Err(Error::Unavailable(format!(
                "node {name} is down, and what was logged there cannot be read until it is back"
            )));
        }
        let on = self.backend_of(source.node).await?;
        on.open(on.backend.logs(source.task.to_string(), options))
            .await
    }

    fn down_node(&self, node: NodeId) -> Option<String> {
        let state = self.member.state();
        let node = state.nodes.get(&node)?;
        (node.health == NodeHealth::Down).then(|| node.name.clone())
    }

    /// Sends what the tasks of `target` log until all of them have ended for good. A task that appears later is
    /// followed from its beginning. A node that is lost ends the following of its own tasks only: those that take
    /// their place are followed in turn.
    async fn follow(
        self,
        target: names::Target,
        mut options: LogOptions,
        records: mpsc::Sender<Result<LogRecord>>,
    ) {
        let mut applied = self.member.watch_applied();
        let mut opened: BTreeSet<Id> = BTreeSet::new();
        let mut opening = FuturesUnordered::new();
        let mut streams: SelectAll<Records> = SelectAll::new();
        let (mut said, mut failure) = (false, None);
        let mut look = true;
        loop {
            if look {
                look = false;
                applied.borrow_and_update();
                let (sources, over) = {
                    let state = self.member.state();
                    let mut sources = sources(&state, &target);
                    sources.retain(|s| !opened.contains(&s.task));
                    let idle = sources.is_empty() && opening.is_empty() && streams.is_empty();
                    let over = idle && is_over(&state, &target, self.member.world().now());
                    (sources, over)
                };
                if over {
                    break;
                }
                for source in sources {
                    opened.insert(source.task.clone());
                    opening.push(self.open(source, options.clone()));
                }
                options.tail = None;
            }
            tokio::select! {
                Some(outcome) = opening.next(), if !opening.is_empty() => match outcome {
                    Ok(stream) => streams.push(stream),
                    Err(why) => { failure = Some(why); look = true; }
                },
                item = streams.next(), if !streams.is_empty() => match item {
                    Some(Ok(record)) => {
                        said = true;
                        if records.send(Ok(record)).await.is_err() {
                            return;
                        }
                    }
                    Some(Err(why)) => failure = Some(why),
                    None => look = true,
                },
                changed = applied.changed() => match changed {
                    Ok(()) => look = true,
                    Err(_) => { failure = Some(super::await_state::ended()); said = false; break; }
                },
                () = records.closed() => return,
            }
        }
        if let Some(why) = failure.filter(|_| !said) {
            let _ = records.send(Err(why)).await;
        }
    }
}

/// Where a log is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    task: Id,
    node: NodeId,
}

/// Where the logs of `target` are. A task that was not started yet has none; one that was lost has one where nobody
/// can be asked.
fn sources(state: &State, target: &names::Target) -> Vec<Source> {
    let source = |task: &Task| {
        let may_have_log = matches!(
            task.status.state,
            TaskState::Running | TaskState::Complete | TaskState::Shutdown | TaskState::Failed
        );
        let node = task.node.filter(|_| may_have_log)?;
        Some(Source {
            task: task.id.clone(),
            node,
        })
    };
    of(state, target).filter_map(source).collect()
}

fn of<'a>(
    state: &'a State,
    target: &'a names::Target,
) -> Box<dyn Iterator<Item = &'a Task> + Send + 'a> {
    match target {
        names::Target::Task(id) => Box::new(state.tasks.get(id).into_iter()),
        names::Target::Service(id) => Box::new(state.tasks.of_service(id)),
    }
}

/// Whether nothing more will be logged: all has ended, and nothing is to follow.
fn is_over(state: &State, target: &names::Target, now: swarm_api::model::Timestamp) -> bool {
    if of(state, target).any(|t| !t.status.state.is_final()) {
        return false;
    }
    let names::Target::Service(id) = target else {
        return true;
    };
    // What the leader would decide on this state is known here as well.
    let follows =
        |item: &PlanItem| matches!(item, PlanItem::AddTask { service, .. } if service == id);
    !(state.services.contains_key(id) && orchestrator::plan(state, now).items.iter().any(follows))
}
