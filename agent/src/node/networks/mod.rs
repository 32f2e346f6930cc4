//! This node's part of the cluster's networks: what they should be follows from the replica (`desired`), the kernel is
//! made so, looked after, and repaired; tasks are connected when the bridge of their network is there.

mod attach;
pub(super) mod desired;
#[cfg(test)]
mod tests;
pub(super) mod underlay;

use super::Part;
use super::backoff::Backoff;
use super::footing::Footing;
use super::kernel::Kernel;
use super::local::Local;
use super::warnings::Warnings;
use crate::follow::Follow;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use attach::request;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use swarm_api::model::{Id, NetworkMode, Task, TaskState};
use swarm_api::{Error, Result};
use swarm_member::Member;
use swarm_network::{HostNetwork, NetworkSpec, Report, VTEP_OVERHEAD, veth_name};
use swarm_runtime::host::NetworkAttach;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the kernel is compared with what it should be, although nothing changed.
const DRIFT_CHECK: Duration = Duration::from_secs(30);
/// How long a replica that may be old is waited for. Then the networks are made as it has them: names are to be answered
/// also on a host that is cut off.
const FOOTING: Duration = Duration::from_secs(5);
/// How long a task may wait for its network's bridge.
const BRIDGE: Duration = Duration::from_secs(15);
/// What a network takes at most.
const LONGEST_MTU: u32 = 65_450;
/// The rest between two comparisons, for each thing that was compared: where much changes at once in a large cluster, all of
/// it is looked at together.
const REST_EACH: Duration = Duration::from_micros(10);
const SUBJECT: &str = "network";

/// The networks that can be used on this node now, by name.
pub(super) type Ready = Arc<BTreeMap<String, NetworkSpec>>;

/// This node's networks.
pub(super) struct Networks {
    member: Member,
    local: Arc<Local>,
    warnings: Warnings,
    footing: watch::Receiver<Footing>,
    kernel: Arc<dyn Kernel>,
    underlay: IpAddr,
    ready: watch::Sender<Ready>,
    /// Whom tasks in the host's own network ask for names.
    resolvers: ArcSwap<Vec<SocketAddr>>,
}

impl Networks {
    /// Nothing is changed yet. A kernel that cannot do it is a warning, and the tasks that need it are refused.
    pub(super) fn new(
        member: Member,
        local: Arc<Local>,
        kernel: Arc<dyn Kernel>,
        underlay: IpAddr,
        warnings: Warnings,
        footing: watch::Receiver<Footing>,
    ) -> Self {
        if let Some(why) = kernel.refusal() {
            let line = format!("tasks in cluster networks cannot run on this node: {why}");
            warnings.set(SUBJECT, Some(line));
        }
        Self {
            member,
            local,
            warnings,
            footing,
            kernel,
            underlay,
            ready: watch::Sender::default(),
            resolvers: ArcSwap::default(),
        }
    }

    /// Follows which networks can be used.
    pub(super) fn ready(&self) -> watch::Receiver<Ready> {
        self.ready.subscribe()
    }

    pub(super) fn host_resolver(&self) -> Vec<SocketAddr> {
        self.resolvers.load().to_vec()
    }

    pub(super) fn set_host_resolver(&self, resolvers: Vec<SocketAddr>) {
        self.resolvers.store(Arc::new(resolvers));
    }

    /// Waits until the network can be used here.
    ///
    /// # Errors
    /// When this node's kernel cannot do it, or the network does not come within [`BRIDGE`].
    pub(super) async fn wait_for(&self, name: &str) -> Result<NetworkSpec> {
        self.usable()?;
        let mut ready = self.ready.subscribe();
        let found = ready.wait_for(|ready| ready.contains_key(name));
        match tokio::time::timeout(BRIDGE, found).await {
            Ok(Ok(ready)) => ready.get(name).cloned().ok_or_else(|| absent(name, None)),
            _ => Err(absent(name, self.warnings.of(SUBJECT))),
        }
    }

    fn usable(&self) -> Result<()> {
        match self.kernel.refusal() {
            None => Ok(()),
            Some(why) => Err(Error::Unsupported(format!(
                "this node cannot connect tasks to cluster networks: {why}"
            ))),
        }
    }

    /// Removes a task's interface; no error if there is none.
    pub(super) async fn detach(&self, task: &Id) {
        if let Err(why) = self.kernel.detach(&veth_name(task.as_str())).await {
            tracing::warn!(%task, %why, "a task's interface was not removed");
        }
    }

    /// Removes everything of ours from the kernel.
    pub(super) async fn teardown(&self) {
        self.ready.send_replace(Ready::default());
        if let Err(why) = self.kernel.teardown().await {
            tracing::warn!(%why, "something of the cluster's networks stays on this host");
        }
    }

    /// Keeps the kernel as the replica wants it, until `stop`.
    pub(super) async fn run(&self, stop: CancellationToken) {
        if self.kernel.refusal().is_some() {
            return;
        }
        let mtu = self.mtu().await;
        let mut footing = self.footing.clone();
        let sure = footing.wait_for(|footing| *footing != Footing::Unsure);
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tokio::time::timeout(FOOTING, sure) => {}
        }
        let node = self.member.id();
        let mut follow = Follow::new(self.member.clone(), move |state| {
            (super::part(state, node), state.marks.networks)
        });
        let mut known = true;
        let mut check = tokio::time::interval(DRIFT_CHECK);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut backoff = Backoff::new(Duration::from_millis(500), DRIFT_CHECK);
        let mut done: Option<Arc<HostNetwork>> = None;
        let mut due = true;
        loop {
            follow.look();
            footing.borrow_and_update();
            let desired = self.desired(mtu);
            let mut retry = None;
            if let Some(desired) = desired
                && (due || done.as_deref() != Some(&desired))
            {
                let desired = Arc::new(desired);
                let repair = due && done.as_ref() == Some(&desired);
                match self.reconcile(&desired, repair).await {
                    Ok(()) => {
                        backoff.reset();
                        self.warnings.set(SUBJECT, None);
                        let compared = u32::try_from(desired.endpoints.len());
                        done = Some(desired);
                        let rest = REST_EACH * compared.unwrap_or(u32::MAX);
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = tokio::time::sleep(rest) => {}
                        }
                    }
                    Err(why) => {
                        self.warnings.set(SUBJECT, Some(why));
                        retry = Some(backoff.delay());
                        done = None;
                    }
                }
            }
            let rest = async {
                match retry {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => std::future::pending().await,
                }
            };
            due = tokio::select! {
                () = stop.cancelled() => return,
                changed = footing.changed(), if known => {
                    known = changed.is_ok();
                    false
                }
                changed = follow.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    false
                }
                _ = check.tick() => true,
                () = rest => true,
            };
        }
    }

    /// What the kernel should be like; `None` while it should stay as it is.
    fn desired(&self, mtu: u32) -> Option<HostNetwork> {
        let local = match *self.footing.borrow() {
            Footing::Sure => Vec::new(),
            Footing::Unsure | Footing::TakenOut => self.local.tasks(),
        };
        let (state, node) = (self.member.state(), self.member.id());
        let leave_alone = match super::part(&state, node) {
            Part::Unknown => true,
            Part::In => false,
            // Its tasks may use the network until they have stopped.
            Part::Out => !self.local.tasks().is_empty(),
        };
        (!leave_alone).then(|| {
            let mut desired = desired::of(&state, node, self.underlay, mtu);
            desired::keep(&mut desired, &local);
            desired
        })
    }

    async fn mtu(&self) -> u32 {
        match self.kernel.mtu(self.underlay).await {
            // The loopback interface takes more than a network may.
            Ok(mtu) => mtu
                .saturating_sub(desired::overhead(self.underlay))
                .min(LONGEST_MTU),
            Err(why) => {
                let mtu = underlay::COMMON_MTU - VTEP_OVERHEAD;
                let line = format!(
                    "cannot tell how long packets to other nodes may be ({why}); networks here take {mtu} bytes"
                );
                self.warnings.set("mtu", Some(line));
                mtu
            }
        }
    }

    /// One comparison. `repair` says that nothing but the kernel can have changed.
    ///
    /// # Errors
    /// What could not be made, as a warning for people.
    async fn reconcile(
        &self,
        desired: &Arc<HostNetwork>,
        repair: bool,
    ) -> std::result::Result<(), String> {
        // Before the kernel is looked at: these had their interfaces before they ran.
        let running = running(&self.local.tasks());
        let report = match self.kernel.reconcile(Arc::clone(desired)).await {
            Ok(report) => report,
            Err(why) => return Err(format!("the networks of this node cannot be made: {why}")),
        };
        if repair && !report.made.is_empty() {
            let made: Vec<String> = report.made.iter().map(ToString::to_string).collect();
            tracing::warn!(
                made = made.join("; "),
                "repaired what had changed in this host's network"
            );
        }
        self.publish(desired, &report);
        let lost: Vec<&Task> = running
            .iter()
            .filter(|(interface, _)| report.missing.contains(interface))
            .map(|(_, task)| task)
            .collect();
        for task in lost {
            match self.attach_again(task).await {
                Ok(()) => tracing::warn!(
                    task = task.name,
                    "connected a task again, whose interface was gone"
                ),
                Err(why) => {
                    tracing::warn!(task = task.name, %why, "a task's interface is gone and was not made again");
                }
            }
        }
        match report.failed.first() {
            None => Ok(()),
            Some((change, why)) => Err(format!(
                "the networks of this node are not as they should be: cannot {change}: {why}"
            )),
        }
    }

    fn publish(&self, desired: &HostNetwork, report: &Report) {
        let failed = report.failed.iter().map(|(change, _)| change);
        let ready = desired::usable(desired, failed);
        self.ready.send_if_modified(|before| {
            let differs = **before != ready;
            if differs {
                *before = Arc::new(ready);
            }
            differs
        });
    }

    /// Connects a running task whose interface is gone.
    async fn attach_again(&self, task: &Task) -> Result<()> {
        let gone = || Error::NotFound(format!("the process of task {} has ended", task.name));
        let pid = task.status.pid.ok_or_else(gone)?;
        let number = u32::try_from(pid).map_err(|_| gone())?;
        let netns = (self.kernel.network_of(number)).map_err(|e| Error::NotFound(e.to_string()))?;
        // Its number may have been another process's by then, unless it still runs.
        let runs = |t: &Task| t.id == task.id && t.status.state == TaskState::Running;
        if !self
            .local
            .tasks()
            .iter()
            .any(|t| runs(t) && t.status.pid == Some(pid))
        {
            return Err(gone());
        }
        let NetworkMode::Cluster(name) = &task.spec.network else {
            return Ok(());
        };
        let spec = self.ready.borrow().get(name).cloned();
        let spec = spec.ok_or_else(|| absent(name, None))?;
        let request = request(task, &spec, netns)?;
        self.kernel.attach(request).await.map_err(refused)
    }
}

#[async_trait]
impl NetworkAttach for Networks {
    async fn attach(&self, task: &Task, netns: OwnedFd) -> Result<()> {
        let NetworkMode::Cluster(name) = &task.spec.network else {
            return Ok(());
        };
        let spec = self.wait_for(name).await?;
        let request = request(task, &spec, netns)?;
        self.kernel.attach(request).await.map_err(|why| {
            refused(why).context(format!(
                "cannot connect task {} to network {name}",
                task.name
            ))
        })
    }

    async fn detach(&self, task: &Id) {
        Networks::detach(self, task).await;
    }
}

/// The running tasks that are in a cluster network, by the name of their interface on the host.
fn running(tasks: &[Task]) -> BTreeMap<String, Task> {
    tasks
        .iter()
        .filter(|t| t.status.state == TaskState::Running)
        .filter(|t| matches!(t.spec.network, NetworkMode::Cluster(_)))
        .map(|t| (veth_name(t.id.as_str()), t.clone()))
        .collect()
}

fn refused(why: swarm_network::Error) -> Error {
    match why {
        swarm_network::Error::Invalid { .. } => Error::Invalid(why.to_string()),
        swarm_network::Error::NoBridge { .. } => Error::Unavailable(why.to_string()),
        _ => Error::Internal(why.to_string()),
    }
}

fn absent(name: &str, why: Option<String>) -> Error {
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    Error::Unavailable(format!("network {name} is not there on this node{why}"))
}
