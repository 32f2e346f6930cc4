//! Health: tasks are checked, found only while they are healthy, and ended when they are not.

use crate::site::{Site, with_site};
use std::time::Duration;
use swarm_api::Backend;
use swarm_api::model::{
    Health, HealthCheck, HealthState, ImageConfig, Restart, RestartPolicy, ServiceSpec, Task,
    TaskState,
};

fn check(words: &[&str]) -> HealthCheck {
    HealthCheck {
        test: words.iter().map(|w| (*w).to_owned()).collect(),
        interval_ms: Some(100),
        timeout_ms: Some(5_000),
        retries: Some(2),
        ..HealthCheck::default()
    }
}

fn checked(site: &Site, name: &str, script: &str, check: HealthCheck) -> ServiceSpec {
    let mut spec = site.spec(name, script);
    spec.task.health = Some(check);
    spec
}

fn health(task: &Task) -> &Health {
    task.status.health.as_ref().expect("it is checked")
}

async fn until_healthy(site: &Site) -> Vec<Task> {
    let healthy = |tasks: &[Task]| tasks.len() == 1 && tasks[0].status.serves();
    site.until("it is healthy", healthy).await
}

async fn found(site: &Site, name: &str) -> usize {
    let found = site.host.lookup(name.into(), Default::default()).await;
    found.unwrap().value.endpoints.len()
}

pub(crate) fn a_task_is_found_once_a_command_in_it_ends_well() {
    with_site(async |site| {
        // In its own time, and with its first word known.
        let mut slow = check(&["CMD-SHELL", "echo not yet; test -e /tmp/ready"]);
        slow.start_period_ms = Some(3_600_000);
        site.create(checked(&site, "web", "sleep 1000", slow)).await;
        let says_why = |tasks: &[Task]| {
            tasks.len() == 1
                && tasks[0].status.state == TaskState::Running
                && health(&tasks[0]).output == "not yet"
        };
        let tasks = site.until("it says why", says_why).await;
        assert_eq!(health(&tasks[0]).state, HealthState::Starting);
        assert_eq!(found(&site, "web").await, 0);
        let touch = swarm_api::backend::ExecSpec {
            args: vec!["touch".into(), "/tmp/ready".into()],
            ..Default::default()
        };
        site.exec("web", touch).await.unwrap();
        let tasks = until_healthy(&site).await;
        assert!(tasks[0].status.message.is_empty());
        assert_eq!(found(&site, "web").await, 1);
        site
    });
}

pub(crate) fn a_task_that_is_unhealthy_is_ended_failed_and_replaced() {
    with_site(async |site| {
        let script = "trap 'exit 0' TERM; touch /tmp/ready; while :; do sleep 0.1; done";
        let test = check(&[
            "CMD-SHELL",
            "test -e /tmp/ready || { echo too old; exit 1; }",
        ]);
        let mut spec = checked(&site, "web", script, test);
        spec.restart = RestartPolicy::with(Restart::OnFailure);
        site.create(spec).await;
        let first = until_healthy(&site).await.remove(0);
        let rm = swarm_api::backend::ExecSpec {
            args: vec!["rm".into(), "/tmp/ready".into()],
            ..Default::default()
        };
        site.exec("web", rm).await.unwrap();
        let replaced = |tasks: &[Task]| tasks.len() == 2 && tasks[1].status.serves();
        let tasks = site.until("it is replaced", replaced).await;
        assert_eq!(tasks[0].id, first.id);
        assert_eq!(tasks[0].status.state, TaskState::Failed);
        assert_eq!(tasks[0].status.message, "unhealthy: too old");
        assert_eq!(tasks[0].status.exit.unwrap().code, 0);
        assert_eq!(found(&site, "web").await, 1);
        site
    });
}

pub(crate) fn http_and_tcp_are_asked_inside_the_container_s_network() {
    with_site(async |site| {
        // No other program of this host could be meant: the network is the container's own.
        let server = "echo fine > /tmp/index.html; exec httpd -f -p 80 -h /tmp";
        for (name, words) in [("tcp", &["TCP", "80"][..]), ("http", &["HTTP", "80", "/"])] {
            site.create(checked(&site, name, server, check(words)))
                .await;
            let tasks = until_healthy(&site).await;
            if name == "http" {
                assert_eq!(health(&tasks[0]).output, "HTTP/1.1 200 OK");
            }
            let kind = swarm_api::model::Kind::Service;
            site.host.remove(kind, name.into(), true).await.unwrap();
            site.until("it is gone", <[Task]>::is_empty).await;
        }
        let deaf = checked(&site, "deaf", "sleep 1000", check(&["TCP", "80"]));
        site.create(deaf).await;
        let failed = |tasks: &[Task]| tasks.len() == 1 && tasks[0].status.state.is_final();
        let tasks = site.until("it has failed", failed).await;
        let message = &tasks[0].status.message;
        assert!(
            message.starts_with("unhealthy: port 80: cannot connect to 127.0.0.1"),
            "{message}"
        );
        site
    });
}

pub(crate) fn a_check_that_hangs_is_killed_and_counts_as_failed() {
    with_site(async |site| {
        let mut hanging = check(&["CMD-SHELL", "echo $$ > /tmp/pid; echo hm; exec sleep 1000"]);
        hanging.timeout_ms = Some(200);
        site.create(checked(&site, "web", "sleep 1000", hanging))
            .await;
        let failed = |tasks: &[Task]| tasks.len() == 1 && tasks[0].status.state.is_final();
        let tasks = site.until("it has failed", failed).await;
        let message = &tasks[0].status.message;
        assert!(
            message.starts_with("unhealthy: it did not end within 0.2 s and was killed: hm"),
            "{message}"
        );
        site
    });
}

pub(crate) fn the_image_says_how_it_is_checked_unless_the_task_does() {
    with_site(async |site| {
        let archive = site.host.export_layer(
            match site
                .host
                .get(
                    swarm_api::model::Kind::Image,
                    "busybox".into(),
                    Default::default(),
                )
                .await
                .unwrap()
                .value
            {
                swarm_api::model::Object::Image(image) => image.layers[0].clone(),
                other => panic!("{other:?}"),
            },
        );
        let config = ImageConfig {
            env: vec!["PATH=/bin".into()],
            health: Some(check(&["CMD", "false"])),
            ..ImageConfig::default()
        };
        site.host
            .import_image("ill".into(), config, archive.await.unwrap())
            .await
            .unwrap();
        let mut spec = site.spec("ill", "sleep 1000");
        spec.task.image = "ill".into();
        site.create(spec.clone()).await;
        let failed = |tasks: &[Task]| tasks.len() == 1 && tasks[0].status.state.is_final();
        let tasks = site.until("it has failed", failed).await;
        assert_eq!(tasks[0].status.message, "unhealthy: exit code 1");
        let kind = swarm_api::model::Kind::Service;
        site.host.remove(kind, "ill".into(), true).await.unwrap();
        spec.task.health = Some(HealthCheck {
            test: vec!["NONE".into()],
            ..HealthCheck::default()
        });
        site.create(spec).await;
        let tasks = site.until_running(1).await;
        assert!(
            tasks
                .iter()
                .any(|t| t.status.serves() && t.status.health.is_none())
        );
        site
    });
}

pub(crate) fn checks_go_on_when_the_agent_comes_back() {
    with_site(async |site| {
        let test = check(&["CMD", "test", "-e", "/tmp/ready"]);
        let script = "touch /tmp/ready; sleep 1000";
        site.create(checked(&site, "web", script, test)).await;
        let before = until_healthy(&site).await.remove(0);
        let site = site.restart().await;
        let after = until_healthy(&site).await.remove(0);
        assert_eq!(after.id, before.id);
        assert_eq!(health(&after), health(&before), "nothing is told twice");
        let rm = swarm_api::backend::ExecSpec {
            args: vec!["rm".into(), "/tmp/ready".into()],
            ..Default::default()
        };
        site.exec("web", rm).await.unwrap();
        let failed = |tasks: &[Task]| tasks.len() == 1 && tasks[0].status.state.is_final();
        let tasks = site.until("it has failed", failed).await;
        assert_eq!(health(&tasks[0]).state, HealthState::Unhealthy);
        site
    });
}

pub(crate) fn a_task_whose_checks_say_the_same_is_not_told_of_again() {
    with_site(async |site| {
        // Other words each time.
        let test = check(&["CMD-SHELL", "echo $$"]);
        site.create(checked(&site, "web", "sleep 1000", test)).await;
        until_healthy(&site).await;
        let mut changes = site.host.watch();
        changes.borrow_and_update();
        let quiet = tokio::time::timeout(Duration::from_secs(1), changes.changed()).await;
        assert!(quiet.is_err(), "{:#?}", site.tasks().await);
        site
    });
}
