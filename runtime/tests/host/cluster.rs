//! Tasks that a cluster wants here.

use crate::site::{Site, with_site};
use async_trait::async_trait;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use swarm_api::backend::ExecSpec;
use swarm_api::model::{Id, Kind, NetworkMode, Task, TaskState};
use swarm_api::{Backend, Error, Result};
use swarm_runtime::host::{Dns, NetworkAttach, TaskOrder};

/// A network that only notes what it is asked for.
#[derive(Default)]
struct Notes {
    log: Mutex<Vec<String>>,
    refuses: bool,
}

#[async_trait]
impl NetworkAttach for Notes {
    async fn attach(&self, task: &Task, netns: OwnedFd) -> Result<()> {
        let own = std::fs::metadata("/proc/self/ns/net").unwrap();
        let theirs = rustix::fs::fstat(&netns).unwrap();
        assert_ne!(std::os::unix::fs::MetadataExt::ino(&own), theirs.st_ino);
        self.log
            .lock()
            .unwrap()
            .push(format!("attach {}", task.name));
        if self.refuses {
            return Err(Error::Unavailable("the network is full".into()));
        }
        Ok(())
    }

    async fn detach(&self, task: &Id) {
        self.log.lock().unwrap().push(format!("detach {task}"));
    }
}

async fn order(site: &Site, number: u64, script: &str, network: Option<Arc<Notes>>) -> TaskOrder {
    let mut spec = site.spec("web", script).task;
    spec.network = NetworkMode::Cluster("default".into());
    let task = Task {
        id: Id::from_u64(number),
        name: format!("web.{number}"),
        service: "web".into(),
        service_id: Id::from_u64(1000),
        slot: u32::try_from(number).unwrap(),
        spec,
        node: None,
        node_name: String::new(),
        addresses: vec!["10.1.2.3".parse().unwrap()],
        desired: Default::default(),
        status: Default::default(),
        attempt: 0,
        not_before: Default::default(),
        created_at: Default::default(),
    };
    TaskOrder {
        task,
        image: site.host.images().remove(0),
        env: vec!["EXTRA=yes".into()],
        dns: Dns {
            nameservers: vec![IpAddr::from([10, 1, 2, 1])],
            search: vec!["swarm".into()],
            options: vec!["ndots:0".into()],
        },
        hosts: vec![(IpAddr::from([10, 9, 9, 9]), "other".into())],
        network: network.map(|n| n as Arc<dyn NetworkAttach>),
    }
}

pub(crate) fn a_task_of_the_cluster_is_run_stopped_and_removed() {
    with_site(async |site| {
        let host = &site.host;
        let network = Arc::new(Notes::default());
        let order = order(
            &site,
            1,
            "trap 'exit 3' TERM; while true; do sleep 0.1; done",
            Some(network.clone()),
        )
        .await;
        let id = order.task.id.clone();
        host.run_task(order.clone()).await.unwrap();
        let task = host.cluster_tasks().remove(0);
        assert_eq!(task.status.state, TaskState::Running);
        assert!(task.status.pid.is_some());
        // Asked for again, nothing changes.
        host.run_task(order).await.unwrap();
        assert_eq!(host.cluster_tasks().len(), 1);
        assert_eq!(*network.log.lock().unwrap(), ["attach web.1"]);

        let script = "echo $EXTRA $SWARM_SERVICE $SWARM_TASK_ID; cat /etc/resolv.conf /etc/hosts";
        let args = ["sh", "-c", script].map(String::from).to_vec();
        let (out, ..) = site
            .exec(
                "web",
                ExecSpec {
                    args,
                    ..ExecSpec::default()
                },
            )
            .await
            .unwrap();
        for wanted in [
            &format!("yes web {id}"),
            "nameserver 10.1.2.1",
            "search swarm",
            "options ndots:0",
            "10.1.2.3\tweb-1",
            "10.9.9.9\tother",
        ] {
            assert!(out.contains(wanted), "{wanted}: {out}");
        }
        for refused in [
            host.remove(Kind::Task, "web.1".into(), true).await,
            host.remove(Kind::Service, "web".into(), true).await,
            host.stop("web.1".into(), None).await,
            host.stop("web".into(), None).await,
        ] {
            assert!(
                matches!(&refused, Err(Error::Conflict(w)) if w.contains("cluster")),
                "{refused:?}"
            );
        }
        // The agent goes down and comes back.
        let site = site.restart().await;
        let host = &site.host;
        let found = host.cluster_tasks().remove(0);
        assert_eq!(
            (found.status.state, found.status.pid),
            (TaskState::Running, task.status.pid)
        );
        host.set_network(network.clone());
        host.stop_task(&id, Duration::from_secs(20)).await.unwrap();
        let ended = host.cluster_tasks().remove(0).status;
        assert_eq!(
            (ended.state, ended.exit.map(|e| e.code)),
            (TaskState::Shutdown, Some(3))
        );
        host.remove_task(&id).await.unwrap();
        host.remove_task(&id).await.unwrap();
        assert!(host.cluster_tasks().is_empty());
        assert_eq!(
            network.log.lock().unwrap().last().unwrap(),
            &format!("detach {id}")
        );
        site
    });
}

pub(crate) fn a_task_that_cannot_start_leaves_nothing_but_its_status() {
    with_site(async |site| {
        let host = &site.host;
        let network = Arc::new(Notes {
            refuses: true,
            ..Notes::default()
        });
        let refused = order(&site, 1, "sleep 1000", Some(network.clone())).await;
        let why = host.run_task(refused.clone()).await.unwrap_err();
        assert!(
            matches!(&why, Error::Unavailable(w) if w.contains("web.1") && w.contains("network is full")),
            "{why}"
        );
        assert_eq!(network.log.lock().unwrap().len(), 2);
        let status = host.cluster_tasks().remove(0).status;
        assert_eq!(status.state, TaskState::Rejected);
        assert!(status.message.contains("network is full"));
        assert!(host.run_task(refused).await.is_err());
        let mut missing = order(&site, 2, "sleep 1000", None).await;
        missing.image.layers = vec![format!("sha256:{}", "0".repeat(64))];
        let why = host.run_task(missing).await.unwrap_err();
        assert!(
            matches!(&why, Error::NotFound(w) if w.contains("layer")),
            "{why}"
        );
        let left = std::fs::read_dir(site.temp.path().join("data/containers"))
            .unwrap()
            .count();
        assert_eq!(left, 0);
        site
    });
}

pub(crate) fn many_tasks_start_at_the_same_time() {
    with_site(async |site| {
        let mut orders = Vec::new();
        for number in 1..=12 {
            orders.push(order(&site, number, "sleep 1000", None).await);
        }
        let started =
            futures_util::future::join_all(orders.into_iter().map(|o| site.host.run_task(o))).await;
        assert!(started.iter().all(Result::is_ok), "{started:?}");
        let tasks = site.host.cluster_tasks();
        let pids: std::collections::BTreeSet<_> =
            tasks.iter().filter_map(|t| t.status.pid).collect();
        assert_eq!(pids.len(), 12);
        site
    });
}

pub(crate) fn a_stop_that_overtakes_the_start_wins() {
    with_site(async |site| {
        let order = order(&site, 1, "sleep 1000", None).await;
        let id = order.task.id.clone();
        let host = Arc::clone(&site.host);
        let start = tokio::spawn(async move { host.run_task(order).await });
        site.until("it is known", |t| !t.is_empty()).await;
        site.host
            .stop_task(&id, Duration::from_millis(100))
            .await
            .unwrap();
        let _ = start.await.unwrap();
        let status = site.host.cluster_tasks().remove(0).status;
        assert_eq!(status.state, TaskState::Shutdown, "{status:?}");
        site
    });
}
