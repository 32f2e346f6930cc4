//! What flows out of tasks: logs of one or several, attached streams, measurements, events.

use super::table::Table;
use super::{Inner, clock, machine};
use futures_util::StreamExt;
use futures_util::stream;
use std::sync::Arc;
use std::time::Duration;
use swarm_api::backend::{AttachOptions, ExecSpec, Input, LogOptions, LogRecord, Output, Stats};
use swarm_api::model::{Event, Id, Task, TaskState};
use swarm_api::{BoxStream, Error, Result};
use tokio::sync::broadcast;

/// Holds a task's record for as long as somebody reads its streams.
pub(super) struct Hold {
    inner: Arc<Inner>,
    id: Id,
}

impl Hold {
    pub(super) fn new(inner: &Arc<Inner>, id: &Id) -> Self {
        *inner.lock().attached.entry(id.clone()).or_default() += 1;
        Self {
            inner: Arc::clone(inner),
            id: id.clone(),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        {
            let mut table = self.inner.lock();
            if let Some(count) = table.attached.get_mut(&self.id) {
                *count -= 1;
                if *count == 0 {
                    table.attached.remove(&self.id);
                }
            }
        }
        self.inner.notify();
    }
}

impl Inner {
    pub(super) async fn attach(
        self: &Arc<Self>,
        name: &str,
        options: AttachOptions,
        input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>> {
        let task = self.lock().find_task(name)?.clone();
        let hold = Hold::new(self, &task.id);
        let what = format!("cannot attach to the task {}", task.name);
        self.wait_started(&task.id)
            .await
            .map_err(|e| e.context(&what))?;
        let now = self.lock().task(&task.id).cloned().unwrap_or(task);
        if now.status.state.is_final() && !options.replay {
            return Err(Error::Conflict(format!(
                "{what}: it has ended ({}); `swarmctl logs` shows what it put out",
                now.status.state
            )));
        }
        let output = self
            .engine
            .attach(now.id.as_str(), options, input)
            .await
            .map_err(|e| Error::from(e).context(&what))?;
        Ok(held(output, hold))
    }

    pub(super) async fn exec(
        self: &Arc<Self>,
        name: &str,
        spec: &ExecSpec,
        input: BoxStream<Input>,
    ) -> Result<BoxStream<Result<Output>>> {
        let task = self.lock().find_task(name)?.clone();
        let id = task.id.clone();
        if task.status.state != TaskState::Running {
            return Err(Error::Conflict(format!(
                "cannot execute a program in the task {}: it is {}, not running",
                task.name, task.status.state
            )));
        }
        let (inner, of, size, stdin) = (Arc::clone(self), task.clone(), spec.size, spec.stdin);
        let spec = spec.clone();
        let process = super::blocking(move || inner.further_process(&of, &spec)).await?;
        let what = format!("cannot execute a program in the task {}", task.name);
        let output = self
            .engine
            .exec(id.as_str(), &process, stdin, size, input)
            .await
            .map_err(|e| Error::from(e).context(what))?;
        Ok(held(output, Hold::new(self, &id)))
    }

    /// The log of one task or of a service's, by time where it is not followed.
    pub(super) async fn logs(
        self: &Arc<Self>,
        name: &str,
        options: LogOptions,
    ) -> Result<BoxStream<Result<LogRecord>>> {
        let tasks: Vec<Task> = {
            let table = self.lock();
            let of_service = table.tasks_of_service(name);
            if of_service.is_empty() && table.service(name).is_none() {
                vec![table.find_task(name)?.clone()]
            } else {
                of_service.into_iter().cloned().collect()
            }
        };
        let mut logs = Vec::new();
        for task in tasks {
            let name = task.name.clone();
            if options.follow {
                // Also of tasks that are about to start.
                let (inner, options) = (Arc::clone(self), options.clone());
                let log = async move { inner.log_of(task, options).await };
                let log = stream::once(log).map(move |opened| match opened {
                    Ok(log) => log,
                    Err(e) => stream::iter([Err(e.context(format!("the log of {name}")))]).boxed(),
                });
                logs.push(log.flatten().boxed());
            } else {
                logs.push(self.log_of(task, options.clone()).await?);
            }
        }
        if options.follow {
            return Ok(stream::select_all(logs).boxed());
        }
        if logs.len() == 1 {
            return Ok(logs.remove(0));
        }
        let merged = by_time(logs);
        Ok(match options.tail {
            None => merged,
            Some(tail) => last(merged, usize::try_from(tail).unwrap_or(usize::MAX)).await?,
        })
    }

    async fn log_of(
        self: &Arc<Self>,
        task: Task,
        options: LogOptions,
    ) -> Result<BoxStream<Result<LogRecord>>> {
        if options.follow {
            match self
                .wait_for(&task.id, |s| s.state >= TaskState::Running)
                .await
            {
                Ok(_) | Err(Error::NotFound(_)) => {}
                Err(e) => return Err(e),
            }
        }
        if self.engine.state(task.id.as_str()).is_none() {
            return Ok(stream::empty().boxed());
        }
        let hold = Hold::new(self, &task.id);
        let log = self.engine.logs(task.id.as_str(), options).await?;
        let records = log.map(move |record| {
            let (time, stream, data) = record?;
            Ok(LogRecord {
                task: task.name.clone(),
                time,
                stream,
                data,
            })
        });
        Ok(held(records.boxed(), hold))
    }

    /// One round of measurements, or one a second while any of the tasks runs.
    pub(super) async fn stats(
        self: &Arc<Self>,
        names: Vec<String>,
        follow: bool,
    ) -> Result<BoxStream<Result<Vec<Stats>>>> {
        let named: Option<Vec<Id>> = if names.is_empty() {
            None
        } else {
            let table = self.lock();
            let found = names.iter().map(|name| running(&table, name));
            Some(found.collect::<Result<Vec<Vec<Id>>>>()?.concat())
        };
        if !follow {
            let round = self.measure(named.as_deref()).await;
            return Ok(stream::iter([Ok(round)]).boxed());
        }
        let inner = Arc::clone(self);
        let rounds = stream::unfold(true, move |first| {
            let (inner, named) = (Arc::clone(&inner), named.clone());
            async move {
                if !first {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                let round = inner.measure(named.as_deref()).await;
                let ended = named.is_some() && round.is_empty();
                (!ended).then_some((Ok(round), false))
            }
        });
        Ok(rounds.boxed())
    }

    async fn measure(&self, only: Option<&[Id]>) -> Vec<Stats> {
        let tasks: Vec<Task> = {
            let table = self.lock();
            let all = table.tasks.values().map(|e| &e.record.task);
            let mut tasks: Vec<Task> = all
                .filter(|t| t.status.state == TaskState::Running)
                .filter(|t| only.is_none_or(|ids| ids.contains(&t.id)))
                .cloned()
                .collect();
            tasks.sort_by(|a, b| (&a.service, a.slot).cmp(&(&b.service, b.slot)));
            tasks
        };
        let mut round = Vec::new();
        for task in tasks {
            match self.engine.stats(task.id.as_str()).await {
                Ok(usage) => {
                    let used = usage.used;
                    let (rx_bytes, tx_bytes) =
                        task.status.pid.map_or((0, 0), machine::network_bytes);
                    round.push(Stats {
                        task: task.name,
                        task_id: task.id,
                        node_name: self.config.node_name.clone(),
                        time: clock::now(),
                        cpu_ns: used.cpu_ns,
                        memory: used.memory,
                        memory_limit: used.memory_limit.or(task.spec.resources.memory),
                        pids: used.pids,
                        rx_bytes,
                        tx_bytes,
                        oom_kills: usage.oom_kills,
                        pressure: usage.pressure,
                    });
                }
                // It has ended meanwhile.
                Err(why) => tracing::debug!(%why, task = task.name, "a task was not measured"),
            }
        }
        round
    }

    pub(super) fn watch_events(&self, since: Option<u64>) -> Result<BoxStream<Result<Event>>> {
        let (receiver, missed) = {
            // Both at one moment, so that no event is missed or comes twice.
            let table = self.lock();
            let missed = since.map(|index| table.events_since(index)).transpose()?;
            (self.events.subscribe(), missed.unwrap_or_default())
        };
        let live = stream::unfold(Some(receiver), |receiver| async move {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Ok(event) => Some((Ok(event), Some(receiver))),
                Err(broadcast::error::RecvError::Closed) => None,
                Err(broadcast::error::RecvError::Lagged(lost)) => Some((
                    Err(Error::Exhausted(format!(
                        "{lost} events were lost because they were not read fast enough; watch again"
                    ))),
                    None,
                )),
            }
        });
        Ok(stream::iter(missed.into_iter().map(Ok)).chain(live).boxed())
    }
}

pub(super) fn held<T: Send + 'static>(stream: BoxStream<T>, hold: Hold) -> BoxStream<T> {
    stream
        .map(move |item| {
            let _hold = &hold;
            item
        })
        .boxed()
}

/// The running tasks behind a name: one task, or a service's.
fn running(table: &Table, name: &str) -> Result<Vec<Id>> {
    let of_service = table.tasks_of_service(name);
    let runs = |t: &&&Task| t.status.state == TaskState::Running;
    let mut ids: Vec<Id> = of_service
        .iter()
        .filter(runs)
        .map(|t| t.id.clone())
        .collect();
    if ids.is_empty() {
        let task = table.find_task(name)?;
        if task.status.state != TaskState::Running {
            return Err(Error::Conflict(format!(
                "the task {} is {}, not running: it uses nothing",
                task.name, task.status.state
            )));
        }
        ids.push(task.id.clone());
    }
    Ok(ids)
}

type Log = BoxStream<Result<LogRecord>>;

/// Several logs as one, the oldest record first. Each is in order itself.
fn by_time(logs: Vec<Log>) -> Log {
    let start = logs.into_iter().map(|log| (None, log)).collect();
    stream::unfold(
        start,
        |mut heads: Vec<(Option<Result<LogRecord>>, Log)>| async move {
            let mut at = 0;
            while at < heads.len() {
                if heads[at].0.is_none() {
                    heads[at].0 = heads[at].1.next().await;
                }
                if heads[at].0.is_none() {
                    drop(heads.remove(at));
                } else {
                    at += 1;
                }
            }
            let time = |head: &Option<Result<LogRecord>>| match head {
                Some(Ok(record)) => Some(record.time),
                _ => None,
            };
            let first = heads
                .iter()
                .enumerate()
                .min_by_key(|(_, (head, _))| time(head))
                .map(|(n, _)| n)?;
            let record = heads[first].0.take()?;
            Some((record, heads))
        },
    )
    .boxed()
}

async fn last(mut log: Log, count: usize) -> Result<Log> {
    let mut kept = std::collections::VecDeque::new();
    while let Some(record) = log.next().await {
        kept.push_back(record?);
        if kept.len() > count {
            kept.pop_front();
        }
    }
    Ok(stream::iter(kept.into_iter().map(Ok)).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_api::backend::LogStream;
    use swarm_api::model::Timestamp;

    fn log(task: &str, times: &[u64]) -> Log {
        let record = |time: &u64| {
            Ok(LogRecord {
                task: task.into(),
                time: Timestamp(*time),
                stream: LogStream::Stdout,
                data: "x\n".into(),
            })
        };
        stream::iter(times.iter().map(record).collect::<Vec<_>>()).boxed()
    }

    async fn times(log: Log) -> Vec<u64> {
        log.map(|r| r.unwrap().time.0).collect().await
    }

    #[tokio::test]
    async fn several_logs_are_one_by_time_and_the_tail_is_of_all() {
        let logs = || vec![log("a", &[1, 4, 6]), log("b", &[]), log("c", &[2, 3, 9])];
        assert_eq!(times(by_time(logs())).await, [1, 2, 3, 4, 6, 9]);
        assert_eq!(times(last(by_time(logs()), 2).await.unwrap()).await, [6, 9]);
    }
}
