//! The host's own services: run, restarted, scaled, stopped, removed, found again.

use crate::site::with_site;
use swarm_api::backend::Update;
use swarm_api::model::{Kind, Restart, RestartPolicy, ServiceChange, TaskState};
use swarm_api::{Backend, Error};

pub(crate) fn a_service_runs_and_its_output_and_exit_code_come_back() {
    with_site(async |site| {
        site.create(site.spec("box", "echo out; echo err >&2; exit 7"))
            .await;
        let (out, err, exit) = site.attach("box").await.unwrap();
        assert_eq!(
            (out.as_str(), err.as_str(), exit.code),
            ("out\n", "err\n", 7)
        );
        assert_eq!(site.host.wait("box.1".into()).await.unwrap().code, 7);
        let tasks = site
            .until("it has failed", |t| t[0].status.state == TaskState::Failed)
            .await;
        let status = &tasks[0].status;
        assert!(
            status.message.contains('7') && status.finished_at >= status.started_at,
            "{status:?}"
        );
        assert_eq!((tasks.len(), status.pid, tasks[0].attempt), (1, None, 0));
        site
    });
}

pub(crate) fn a_service_that_removes_itself_leaves_nothing() {
    with_site(async |site| {
        let mut spec = site.spec("short", "echo short; exit 2");
        spec.auto_remove = true;
        site.create(spec).await;
        let (out, _, exit) = site.attach("short.1").await.unwrap();
        assert_eq!((out.as_str(), exit.code), ("short\n", 2));
        site.until("it is gone", <[_]>::is_empty).await;
        let gone = site
            .host
            .get(Kind::Service, "short".into(), Default::default())
            .await;
        assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
        site
    });
}

pub(crate) fn a_task_that_fails_is_tried_again() {
    with_site(async |site| {
        let mut spec = site.spec("bad", "exit 1");
        spec.restart = RestartPolicy::with(Restart::OnFailure);
        site.create(spec).await;
        let tasks = site
            .until("it was tried three times", |t| {
                t.iter().any(|t| t.attempt == 2)
            })
            .await;
        assert!(tasks.iter().all(|t| t.name == "bad.1"));
        let mut spec = site.spec("good", "exit 0");
        spec.restart = RestartPolicy::with(Restart::OnFailure);
        site.create(spec).await;
        let state = |t: &swarm_api::model::Task| t.status.state == TaskState::Complete;
        site.until("it is done", |t| {
            t.iter().any(|t| t.service == "good" && state(t))
        })
        .await;
        site
    });
}

pub(crate) fn a_killed_task_is_replaced_and_a_stopped_one_is_not() {
    with_site(async |site| {
        let mut spec = site.spec("web", "trap 'exit 0' TERM; while true; do sleep 0.1; done");
        spec.restart = RestartPolicy::with(Restart::Always);
        site.create(spec).await;
        let first = site.until_running(1).await.remove(0);
        site.host.kill("web.1".into(), libc::SIGKILL).await.unwrap();
        let tasks = site
            .until("another runs", |t| {
                t.iter()
                    .any(|t| t.id != first.id && t.status.state == TaskState::Running)
            })
            .await;
        let killed = tasks.iter().find(|t| t.id == first.id).unwrap();
        assert_eq!(
            killed.status.exit.map(|e| (e.code, e.signal)),
            Some((137, Some(9)))
        );
        assert!(
            killed.status.message.contains("SIGKILL"),
            "{}",
            killed.status.message
        );
        site.host.stop("web".into(), None).await.unwrap();
        let tasks = site.tasks().await;
        assert!(tasks.iter().all(|t| t.status.state.is_final()), "{tasks:?}");
        assert!(
            tasks.iter().any(|t| t.status.state == TaskState::Shutdown),
            "{tasks:?}"
        );
        // Asked for again, it runs again.
        let change = ServiceChange { replicas: Some(2) };
        site.host
            .update(Update::Service("web".into(), change))
            .await
            .unwrap();
        site.until_running(2).await;
        site.host.stop("web.2".into(), None).await.unwrap();
        site.until_running(1).await;
        site
    });
}

pub(crate) fn a_service_is_scaled_and_removed() {
    with_site(async |site| {
        let mut spec = site.spec("web", "sleep 1000");
        spec.replicas = 3;
        site.create(spec).await;
        site.until_running(3).await;
        let change = ServiceChange { replicas: Some(1) };
        site.host
            .update(Update::Service("web".into(), change))
            .await
            .unwrap();
        let tasks = site.until("one is left", |t| t.len() == 1).await;
        assert_eq!(tasks[0].name, "web.1");
        let busy = site.host.remove(Kind::Task, "web.1".into(), false).await;
        assert!(matches!(busy, Err(Error::Conflict(_))), "{busy:?}");
        site.host
            .remove(Kind::Service, "web".into(), false)
            .await
            .unwrap();
        site.until("all is gone", <[_]>::is_empty).await;
        site
    });
}

pub(crate) fn services_and_tasks_outlive_the_agent() {
    with_site(async |site| {
        let mut spec = site.spec("web", "echo started; sleep 1000");
        spec.restart = RestartPolicy::with(Restart::Always);
        spec.replicas = 2;
        site.create(spec).await;
        let before = site.until_running(2).await;
        site.create(site.spec("done", "exit 3")).await;
        site.until("it has ended", |t| {
            t.iter().any(|t| t.status.state == TaskState::Failed)
        })
        .await;
        let site = site.restart().await;
        let after = site.until_running(2).await;
        for task in before {
            let found = after.iter().find(|t| t.id == task.id).unwrap();
            assert_eq!(
                (found.status.pid, &found.name),
                (task.status.pid, &task.name)
            );
        }
        assert_eq!(site.host.wait("done.1".into()).await.unwrap().code, 3);
        // They are still ours.
        site.host.kill("web.1".into(), libc::SIGKILL).await.unwrap();
        site.until("it is replaced", |t| {
            t.iter().filter(|t| t.name == "web.1").count() == 2
        })
        .await;
        site.until_running(2).await;
        site
    });
}

pub(crate) fn a_program_that_is_not_there_is_said() {
    with_site(async |site| {
        let mut spec = site.spec("bad", "");
        spec.task.args = vec!["no-such-program".into()];
        site.create(spec).await;
        let refused = site.attach("bad").await.unwrap_err();
        assert!(refused.to_string().contains("no-such-program"), "{refused}");
        let tasks = site
            .until("it is rejected", |t| {
                t[0].status.state == TaskState::Rejected
            })
            .await;
        assert!(
            tasks[0].status.message.contains("no-such-program"),
            "{tasks:?}"
        );
        let never = site.host.wait("bad.1".into()).await;
        assert!(
            matches!(&never, Err(Error::Conflict(w)) if w.contains("no-such-program")),
            "{never:?}"
        );
        site
    });
}

pub(crate) fn out_of_memory_is_said() {
    with_site(async |site| {
        let mut spec = site.spec("hog", "x=0123456789abcdef; while true; do x=$x$x; done");
        spec.task.resources.memory = Some(16 << 20);
        site.create(spec).await;
        let tasks = site
            .until("it is killed", |t| t[0].status.state == TaskState::Failed)
            .await;
        let status = &tasks[0].status;
        assert!(status.exit.is_some_and(|e| e.oom_killed), "{status:?}");
        assert!(
            status.message.contains("memory") && status.message.contains("16 MiB"),
            "{status:?}"
        );
        site
    });
}
