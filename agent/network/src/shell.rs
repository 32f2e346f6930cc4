//! The thin shell: threads that own the netlink sockets, and the async face of them.
//!
//! Netlink answers within the sending call and takes the kernel's one lock for interfaces meanwhile, so the calls run on
//! two threads of their own: one reconciles, the other attaches and detaches, so that starting a container never waits
//! for a long dump.

use std::sync::{Arc, mpsc};
use std::thread;

use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use crate::error::{Error, Result};
use crate::model::{Attach, HostNetwork};
use crate::netlink::socket::Netlink;
use crate::netlink::{apply, attach, observe};
use crate::plan::{Change, plan, teardown_plan};
use crate::state::KernelState;

/// One host's networks. Cheap to clone; the threads end with the last clone.
#[derive(Clone)]
pub struct Network {
    reconciler: Worker<(Netlink, Netlink)>,
    connector: Worker<Netlink>,
}

/// What a reconciliation did.
#[derive(Debug, Default)]
pub struct Report {
    /// Changes made; empty when the kernel was as desired.
    pub made: Vec<Change>,
    /// Changes that failed; the next reconciliation tries again.
    pub failed: Vec<(Change, Error)>,
    /// Host interfaces of desired attachments that do not exist: attach these again, or restart their tasks.
    pub missing: Vec<String>,
}

impl Report {
    /// Whether the kernel is now as desired.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.failed.is_empty() && self.missing.is_empty()
    }

    /// The first failure as an error, for callers that have nothing else to do about one.
    ///
    /// # Errors
    /// The reason of the first change that failed.
    pub fn into_result(mut self) -> Result<Self> {
        if self.failed.is_empty() {
            Ok(self)
        } else {
            Err(self.failed.swap_remove(0).1)
        }
    }
}

impl Network {
    /// Opens the sockets, in the network namespace of the calling thread; all later calls work on that namespace, from
    /// wherever they are made.
    ///
    /// # Errors
    /// [`Error::Socket`] if the kernel has no nf_tables or threads cannot be started.
    pub fn new() -> Result<Self> {
        let open = || Ok((Netlink::route()?, Netlink::netfilter()?));
        Ok(Self {
            reconciler: Worker::start("network", open)?,
            connector: Worker::start("network-attach", Netlink::route)?,
        })
    }

    /// Reads what the kernel has of ours.
    ///
    /// # Errors
    /// [`Error::Kernel`] or [`Error::Socket`] if it cannot be read.
    pub async fn observe(&self) -> Result<KernelState> {
        self.reconciler
            .call(|(route, netfilter)| observe::observe(route, netfilter))
            .await
    }

    /// Makes changes, in order; those that fail are in the report.
    ///
    /// # Errors
    /// [`Error::Socket`] if the kernel cannot be reached.
    pub async fn apply(&self, changes: Vec<Change>) -> Result<Report> {
        self.reconciler
            .call(|(route, netfilter)| make(route, netfilter, changes))
            .await
    }

    /// Compares the kernel with what is desired and repairs the difference. Interfaces of containers that are not in
    /// `desired` are left alone: they may be in the making, and they vanish with their containers.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `desired` contradicts itself, in which case nothing is changed; otherwise as
    /// [`Network::observe`]. Single changes that fail are in the report instead.
    pub async fn reconcile(&self, desired: impl Into<Arc<HostNetwork>>) -> Result<Report> {
        let desired = desired.into();
        desired.validate()?;
        self.reconciler
            .call(move |(route, netfilter)| {
                let observed = observe::observe(route, netfilter)?;
                let mut report = make(route, netfilter, plan(&desired, &observed))?;
                let names = desired
                    .attachments
                    .iter()
                    .map(|attachment| &attachment.host_ifname);
                report.missing = names
                    .filter(|name| !observed.veths.contains_key(*name))
                    .cloned()
                    .collect();
                Ok(report)
            })
            .await
    }

    /// Connects a container to a network whose bridge exists: a veth pair, its one end in the bridge, its other in the
    /// container's network namespace with address, default route, and loopback up. A left-over pair of the same name is
    /// replaced; a failure leaves nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::NoBridge`], or what the kernel refused.
    pub async fn attach(&self, request: Attach) -> Result<()> {
        self.connector
            .call(move |route| attach::attach(route, &request))
            .await
    }

    /// Removes a container's veth pair by the name of the host's end. It is no error if that is gone.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the kernel refuses.
    pub async fn detach(&self, host_ifname: &str) -> Result<()> {
        let name = host_ifname.to_owned();
        self.connector
            .call(move |route| attach::detach(route, &name))
            .await
    }

    /// The MTU in bytes of an interface of this host, such as the underlay's.
    ///
    /// # Errors
    /// [`Error::Kernel`] if there is no such interface.
    pub async fn mtu(&self, interface: &str) -> Result<u32> {
        let name = interface.to_owned();
        self.connector
            .call(move |route| observe::mtu(route, &name))
            .await
    }

    /// Removes everything of ours, containers' interfaces included, and nothing else. Forwarding stays enabled.
    ///
    /// # Errors
    /// The first thing that could not be removed; the others are.
    pub async fn teardown(&self) -> Result<()> {
        let report = self
            .reconciler
            .call(|(route, netfilter)| {
                let observed = observe::observe(route, netfilter)?;
                make(route, netfilter, teardown_plan(&observed))
            })
            .await?;
        report.into_result().map(drop)
    }
}

fn make(route: &mut Netlink, netfilter: &mut Netlink, changes: Vec<Change>) -> Result<Report> {
    let (made, failed) = apply::apply(route, netfilter, changes)?;
    for (change, error) in &failed {
        warn!(%change, %error, "network change failed");
    }
    for change in &made {
        debug!(%change, "network change made");
    }
    if !made.is_empty() {
        info!(
            changes = made.len(),
            failed = failed.len(),
            "host network changed"
        );
    }
    Ok(Report {
        made,
        failed,
        missing: Vec::new(),
    })
}

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A thread that owns sockets and carries out one job after the other.
struct Worker<S> {
    jobs: mpsc::Sender<Job<S>>,
}

impl<S> Clone for Worker<S> {
    fn clone(&self) -> Self {
        Self {
            jobs: self.jobs.clone(),
        }
    }
}

impl<S: 'static> Worker<S> {
    /// Starts the thread, which inherits the caller's network namespace, and opens the sockets there.
    fn start(name: &str, open: impl FnOnce() -> Result<S> + Send + 'static) -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job<S>>();
        let (opened, outcome) = mpsc::sync_channel(1);
        let run = move || match open() {
            Ok(mut sockets) => {
                let _ = opened.send(Ok(()));
                for job in queue {
                    job(&mut sockets);
                }
            }
            Err(error) => drop(opened.send(Err(error))),
        };
        let failed = |source| Error::Socket {
            doing: "start the network thread",
            source,
        };
        thread::Builder::new()
            .name(name.to_owned())
            .stack_size(256 << 10)
            .spawn(run)
            .map_err(failed)?;
        outcome.recv().unwrap_or(Err(Error::WorkerGone))?;
        Ok(Self { jobs })
    }

    async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut S) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job<S> = Box::new(move |sockets| drop(answer.send(job(sockets))));
        self.jobs.send(job).map_err(|_| Error::WorkerGone)?;
        answered.await.unwrap_or(Err(Error::WorkerGone))
    }
}
