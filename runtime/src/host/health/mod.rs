//! Watches over the health of running tasks: checks each beside its container, notes what that comes to, and ends a task
//! that is unhealthy. What follows from a check is decided in `monitor`; `probe` makes one.
//!
//! The checks are the host's and not the shim's: nobody could act on them while the host is away. When it is back, or a
//! newer one, it goes on from what the record of the task says.

mod monitor;
mod probe;

use super::{Inner, clock};
use crate::engine::ContainerState;
use crate::oci;
use monitor::Monitor;
use probe::{Finding, Probe};
use std::sync::{Arc, Weak};
use swarm_api::backend::ExecSpec;
use swarm_api::model::{
    Health, HealthCheck, HealthPlan, HealthState, Id, ImageConfig, Task, TaskState, TaskStatus,
};
use tokio_util::sync::CancellationToken;

/// How a task is checked, by its own words and its image's.
///
/// # Errors
/// [`swarm_api::Error::Invalid`] where that cannot be carried out.
pub(super) fn plan(task: &Task, image: &ImageConfig) -> swarm_api::Result<Option<HealthPlan>> {
    HealthCheck::resolve(task.spec.health.as_ref(), image.health.as_ref())
}

/// Why a task is ended that is unhealthy.
pub(super) fn complaint(status: &TaskStatus) -> Option<String> {
    let health = status.health.as_ref()?;
    if health.state != HealthState::Unhealthy {
        return None;
    }
    Some(if health.output.is_empty() {
        "unhealthy".into()
    } else {
        format!("unhealthy: {}", health.output)
    })
}

impl Inner {
    /// Notes in the status of a task that begins to run whether its health is not known yet.
    pub(super) fn set_unchecked(&self, task: &mut Task, image: Option<&ImageConfig>) {
        let checked = image.is_some_and(|image| matches!(plan(task, image), Ok(Some(_))));
        if checked && task.status.health.is_none() {
            task.status.health = Some(Health {
                since: clock::now(),
                ..Health::default()
            });
        }
    }

    /// Checks a running task until it ends, in the background, if it is to be checked.
    pub(super) fn watch_health(self: &Arc<Self>, id: &Id) {
        let Some((task, image)) = self.lock().tasks.get(id).and_then(|entry| {
            let image = entry.record.image.as_ref()?.config.clone();
            Some((entry.record.task.clone(), image))
        }) else {
            return;
        };
        let (Ok(Some(plan)), Some(health)) = (plan(&task, &image), &task.status.health) else {
            return;
        };
        let started_at = task.status.started_at.unwrap_or(health.since);
        let monitor = Monitor::new(plan, started_at, health.state);
        let (inner, stop) = (Arc::downgrade(self), self.stop.clone());
        tokio::spawn(watch(inner, task.id, monitor, stop));
    }

    /// What checks a task, once it is known to be the task's own process that runs.
    async fn probe_of(self: &Arc<Self>, id: &Id, plan: &HealthPlan) -> crate::Result<Probe> {
        let gone = || crate::Error::Conflict("it does not run any more".into());
        let task = self.lock().task(id).cloned().ok_or_else(gone)?;
        let Some(ContainerState::Running { pid, .. }) = self.engine.state(id.as_str()) else {
            return Err(gone());
        };
        let (inner, test) = (Arc::clone(self), plan.test.clone());
        let probe = super::blocking(move || {
            Probe::new(&test, pid, &task.addresses, |words| {
                let exec = ExecSpec {
                    args: words.to_vec(),
                    ..ExecSpec::default()
                };
                inner.further_process(&task, &exec)
            })
        })
        .await?;
        // Its number was its own all the while if it still is there.
        self.engine.kill(id.as_str(), 0).await?;
        Ok(probe)
    }

    /// Notes what the checks of a task have come to.
    fn note_health(&self, id: &Id, state: HealthState, output: &str) {
        let now = clock::now();
        self.observe(id, |task| {
            let Some(health) = &mut task.status.health else {
                return;
            };
            if health.state != state {
                health.since = now;
            }
            health.state = state;
            output.clone_into(&mut health.output);
        });
    }

    /// Ends a task that is unhealthy, as a stop would, but nobody asked for it: it counts as failed.
    async fn end_unhealthy(self: &Arc<Self>, id: &Id) {
        let found = self.lock().tasks.get(id).map(|entry| {
            let image = entry.record.image.as_ref().map(|i| &i.config);
            let signal = oci::stop_signal(
                &entry.record.task.spec,
                image.unwrap_or(&ImageConfig::default()),
            );
            let timeout = entry.record.task.spec.stop_timeout();
            (signal.unwrap_or(libc::SIGTERM), timeout)
        });
        if let Some((signal, timeout)) = found
            && let Err(why) = self.end_process(id, signal, timeout).await
        {
            tracing::warn!(%why, %id, "an unhealthy task cannot be ended");
        }
    }
}

/// Checks one task until it ends, is unhealthy, or the host stops.
async fn watch(inner: Weak<Inner>, id: Id, mut monitor: Monitor, stop: CancellationToken) {
    let mut probe = None;
    let mut said = false;
    loop {
        let Some(wait) = monitor.wait(clock::now()) else {
            // It was unhealthy when the host went away.
            if let Some(inner) = inner.upgrade() {
                inner.end_unhealthy(&id).await;
            }
            return;
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
        let Some(inner) = inner.upgrade() else {
            return;
        };
        let runs = |task: &Task| task.status.state == TaskState::Running;
        if !inner.lock().task(&id).is_some_and(runs) || inner.is_stopping(&id) {
            return;
        }
        let began = clock::now();
        let finding = tokio::select! {
            finding = check(&inner, &id, monitor.plan(), &mut probe) => finding,
            () = stop.cancelled() => return,
            _ = inner.engine.wait(id.as_str()) => return,
        };
        if let Some(state) = monitor.note(began, finding.passed) {
            inner.note_health(&id, state, &finding.output);
        } else if !finding.passed && !said && monitor.state() == HealthState::Starting {
            // Once: a task that does not come up says why, and one that takes its time is not written of all along.
            said = true;
            inner.note_health(&id, HealthState::Starting, &finding.output);
        }
    }
}

async fn check(
    inner: &Arc<Inner>,
    id: &Id,
    plan: &HealthPlan,
    probe: &mut Option<Probe>,
) -> Finding {
    if probe.is_none() {
        match inner.probe_of(id, plan).await {
            Ok(made) => *probe = Some(made),
            Err(why) => return Finding::failed(why),
        }
    }
    match probe {
        Some(probe) => probe.run(inner, id, plan.timeout).await,
        None => Finding::failed("it cannot be checked"),
    }
}
