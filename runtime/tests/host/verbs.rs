//! What the verbs answer, and what they refuse.

use crate::site::with_site;
use futures_util::StreamExt;
use futures_util::stream;
use swarm_api::backend::{AttachOptions, Create, ExecSpec, LogOptions, Update};
use swarm_api::model::{
    ImageConfig, Kind, Mount, MountSource, NetworkMode, NetworkSpec, Query, Scope, ServiceChange,
    TaskState,
};
use swarm_api::{Backend, Error};

pub(crate) fn bad_requests_are_refused_with_their_reason() {
    with_site(async |site| {
        let host = &site.host;
        let create = async |change: &dyn Fn(&mut swarm_api::model::ServiceSpec)| {
            let mut spec = site.spec("web", "sleep 1000");
            change(&mut spec);
            host.create(Create::Service(spec)).await.unwrap_err()
        };
        let why = create(&|s| s.task.image = "nginx".into()).await;
        assert!(
            matches!(&why, Error::NotFound(w) if w.contains("nginx") && w.contains("image import")),
            "{why}"
        );
        let why = create(&|s| s.ports = vec!["8080:80".parse().unwrap()]).await;
        assert!(
            matches!(&why, Error::Unsupported(w) if w.contains("swarmctl init")),
            "{why}"
        );
        let why = create(&|s| s.task.network = NetworkMode::Cluster("blue".into())).await;
        assert!(
            matches!(&why, Error::Unsupported(w) if w.contains("blue")),
            "{why}"
        );
        let why = create(&|s| s.task.constraints = vec!["node.name==host9".parse().unwrap()]).await;
        assert!(
            matches!(&why, Error::Conflict(w) if w.contains("host9")),
            "{why}"
        );
        let why = create(&|s| s.name = "Not_A_Label".into()).await;
        assert!(matches!(&why, Error::Invalid(_)), "{why}");
        assert!(
            host.list(Query::of(Kind::Service))
                .await
                .unwrap()
                .value
                .is_empty()
        );

        site.create(site.spec("web", "sleep 1000")).await;
        let why = create(&|_| ()).await;
        assert!(
            matches!(&why, Error::AlreadyExists(w) if w.contains("web")),
            "{why}"
        );

        let ghost = || "ghost".to_owned();
        let nothing = || stream::empty().boxed();
        let refusals = [
            host.get(Kind::Task, ghost(), Default::default())
                .await
                .map(drop),
            host.get(Kind::Service, ghost(), Default::default())
                .await
                .map(drop),
            host.get(Kind::Image, ghost(), Default::default())
                .await
                .map(drop),
            host.get(Kind::Node, ghost(), Default::default())
                .await
                .map(drop),
            host.get(Kind::Network, ghost(), Default::default())
                .await
                .map(drop),
            host.logs(ghost(), LogOptions::default()).await.map(drop),
            host.exec(ghost(), ExecSpec::default(), nothing())
                .await
                .map(drop),
            host.attach(ghost(), AttachOptions::default(), nothing())
                .await
                .map(drop),
            host.stop(ghost(), None).await,
            host.kill(ghost(), 9).await,
            host.wait(ghost()).await.map(drop),
            host.lookup(ghost(), Default::default()).await.map(drop),
            host.stats(vec![ghost()], false).await.map(drop),
            host.remove(Kind::Service, ghost(), true).await,
            host.remove(Kind::Task, ghost(), true).await,
            host.remove(Kind::Image, ghost(), true).await,
            host.update(Update::Service(
                ghost(),
                ServiceChange { replicas: Some(2) },
            ))
            .await
            .map(drop),
        ];
        for (n, refusal) in refusals.into_iter().enumerate() {
            let why = refusal.unwrap_err();
            assert!(
                matches!(&why, Error::NotFound(w) if w.contains("ghost")),
                "{n}: {why:?}"
            );
        }
        let why = host
            .create(Create::Network(NetworkSpec::default()))
            .await
            .unwrap_err();
        assert!(matches!(why, Error::Unsupported(_)), "{why}");
        let rubbish = stream::iter([Ok(bytes::Bytes::from(vec![b'x'; 4096]))]).boxed();
        let why = host
            .import_image("bad".into(), ImageConfig::default(), rubbish)
            .await
            .unwrap_err();
        assert!(
            matches!(&why, Error::Invalid(w) if w.contains("not a tar archive")),
            "{why}"
        );
        site.until_running(1).await;
        site
    });
}

pub(crate) fn exec_is_like_the_first_process() {
    with_site(async |site| {
        let mut spec = site.spec("box", "sleep 1000");
        spec.task.env = vec!["COLOUR=blue".into()];
        site.create(spec).await;
        site.until_running(1).await;
        let sh = |script: &str| ExecSpec {
            args: vec!["sh".into(), "-c".into(), script.into()],
            ..ExecSpec::default()
        };
        let (out, err, exit) = site
            .exec(
                "box",
                sh("echo $COLOUR $SWARM_TASK_NAME $SWARM_NODE; echo e >&2; exit 9"),
            )
            .await
            .unwrap();
        assert_eq!(
            (out.as_str(), err.as_str(), exit.code),
            ("blue box.1 host1\n", "e\n", 9)
        );
        let other = ExecSpec {
            user: Some("guest".into()),
            working_dir: Some("/etc".into()),
            env: vec!["COLOUR=red".into()],
            ..sh("id -u; pwd; echo $COLOUR $HOME")
        };
        let (out, ..) = site.exec("box.1", other).await.unwrap();
        assert_eq!(out, "1000\n/etc\nred /tmp\n");
        let missing = ExecSpec {
            args: vec!["no-such-program".into()],
            ..ExecSpec::default()
        };
        let why = site.exec("box.1", missing).await.unwrap_err();
        assert!(why.to_string().contains("no-such-program"), "{why}");
        let nobody = ExecSpec {
            user: Some("nobody-there".into()),
            ..sh("id")
        };
        let why = site.exec("box.1", nobody).await.unwrap_err();
        assert!(
            matches!(&why, Error::Invalid(w) if w.contains("nobody-there")),
            "{why}"
        );
        site.host.stop("box".into(), None).await.unwrap();
        let why = site.exec("box.1", sh("true")).await.unwrap_err();
        assert!(matches!(&why, Error::Conflict(_)), "{why}");
        site
    });
}

pub(crate) fn logs_of_several_tasks_are_one() {
    with_site(async |site| {
        let mut spec = site.spec("talk", "echo a $SWARM_TASK_NAME; echo b $SWARM_TASK_NAME");
        spec.replicas = 2;
        site.create(spec).await;
        let all = |tasks: &[swarm_api::model::Task]| {
            tasks.iter().all(|t| t.status.state == TaskState::Complete)
        };
        site.until("both have ended", |t| t.len() == 2 && all(t))
            .await;
        let mut lines = site.log("talk", LogOptions::default()).await;
        lines.sort();
        assert_eq!(lines, ["a talk.1", "a talk.2", "b talk.1", "b talk.2"]);
        let tail = LogOptions {
            tail: Some(1),
            ..LogOptions::default()
        };
        assert_eq!(site.log("talk", tail.clone()).await.len(), 1);
        assert_eq!(site.log("talk.2", tail).await, ["b talk.2"]);
        let follow = LogOptions {
            follow: true,
            ..LogOptions::default()
        };
        assert_eq!(site.log("talk", follow).await.len(), 4);
        site
    });
}

pub(crate) fn stats_events_and_lookups_tell_of_running_tasks() {
    with_site(async |site| {
        let host = &site.host;
        let mut events = Backend::watch(&**host, None).await.unwrap();
        site.create(site.spec("box", "sleep 1000")).await;
        let task = site.until_running(1).await.remove(0);
        let mut seen = Vec::new();
        while !seen.contains(&"running".to_owned()) {
            let event = events.next().await.unwrap().unwrap();
            assert!(event.name == "box" || event.name == "box.1", "{event:?}");
            seen.extend(event.attributes.get("state").cloned());
        }
        let first = Backend::watch(&**host, Some(0))
            .await
            .unwrap()
            .next()
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (first.index, first.kind, first.name.as_str()),
            (1, Kind::Service, "box")
        );
        let mut stats = host.stats(Vec::new(), false).await.unwrap();
        let round = stats.next().await.unwrap().unwrap();
        assert_eq!(
            (round.len(), round[0].task.as_str(), round[0].pids),
            (1, "box.1", 1)
        );
        assert!(round[0].memory > 0 && stats.next().await.is_none());
        let found = host
            .lookup("box".into(), Default::default())
            .await
            .unwrap()
            .value;
        assert_eq!(found.endpoints.len(), 1);
        let prefix = task.id.as_str()[..6].to_owned();
        host.get(Kind::Task, prefix, Default::default())
            .await
            .unwrap();
        let info = host.info().await.unwrap();
        assert_eq!(
            (info.scope, info.node_name.as_str()),
            (Scope::Host, "host1")
        );
        assert_eq!(
            host.list(Query::of(Kind::Node)).await.unwrap().value.len(),
            1
        );
        drop(events);
        site
    });
}

pub(crate) fn an_image_in_use_stays() {
    with_site(async |site| {
        site.create(site.spec("box", "sleep 1000")).await;
        site.until_running(1).await;
        let why = site
            .host
            .remove(Kind::Image, "busybox".into(), false)
            .await
            .unwrap_err();
        assert!(
            matches!(&why, Error::Conflict(w) if w.contains("box")),
            "{why}"
        );
        let image = site.host.images().remove(0);
        // The cluster may take it away by name; what runs goes on.
        site.host.remove_image(&image.reference).await.unwrap();
        let args = vec!["cat".into(), "/etc/passwd".into()];
        site.exec(
            "box",
            ExecSpec {
                args,
                ..ExecSpec::default()
            },
        )
        .await
        .unwrap();
        assert!(site.host.has_layers(&image).is_empty());
        site.host.put_image(image.clone()).await.unwrap();
        site.host
            .remove(Kind::Service, "box".into(), true)
            .await
            .unwrap();
        site.host
            .remove(Kind::Image, "busybox".into(), false)
            .await
            .unwrap();
        assert_eq!(site.host.has_layers(&image), image.parts());
        site
    });
}

pub(crate) fn mounts_and_names_are_in_place() {
    with_site(async |site| {
        let shared = site.temp.path().join("shared");
        std::fs::create_dir(&shared).unwrap();
        std::fs::write(shared.join("from-host"), "hello\n").unwrap();
        let mount = |source: MountSource, target: &str, read_only| Mount {
            source,
            target: target.into(),
            read_only,
        };
        let bind = || MountSource::Bind(shared.to_str().unwrap().into());
        let volume = || MountSource::Volume("store".into());
        let mut spec = site.spec(
            "one",
            "cat /shared/from-host; echo kept > /data/kept; hostname; cat /etc/hostname",
        );
        spec.task.mounts = vec![
            mount(bind(), "/shared", false),
            mount(volume(), "/data", false),
        ];
        assert_eq!(site.output_of(spec).await, "hello\none-1\none-1\n");
        let mut spec = site.spec(
            "two",
            "cat /data/kept; touch /shared/x 2>/dev/null || echo refused; touch /t/y && ls /t",
        );
        spec.task.mounts = vec![
            mount(bind(), "/shared", true),
            mount(volume(), "/data", true),
            mount(MountSource::Tmpfs, "/t", false),
        ];
        assert_eq!(site.output_of(spec).await, "kept\nrefused\ny\n");
        assert!(!shared.join("x").exists());
        let mut spec = site.spec("three", "true");
        spec.task.mounts = vec![mount(
            MountSource::Bind("/no/such/folder".into()),
            "/x",
            false,
        )];
        site.create(spec).await;
        let why = site.attach("three").await.unwrap_err();
        assert!(why.to_string().contains("/no/such/folder"), "{why}");
        let mut spec = site.spec("four", "touch /x 2>/dev/null || echo refused");
        spec.task.read_only = true;
        assert_eq!(site.output_of(spec).await, "refused\n");
        site
    });
}

pub(crate) fn users_are_those_of_the_image() {
    with_site(async |site| {
        let mut spec = site.spec("named", "id -u; id -g; echo $HOME");
        spec.task.user = Some("guest".into());
        assert_eq!(site.output_of(spec).await, "1000\n1000\n/tmp\n");
        let mut spec = site.spec("number", "id -u; id -g");
        spec.task.user = Some("4711:12".into());
        assert_eq!(site.output_of(spec).await, "4711\n12\n");
        let mut spec = site.spec("nobody", "id");
        spec.task.user = Some("nobody-there".into());
        site.create(spec).await;
        let why = site.attach("nobody").await.unwrap_err();
        assert!(why.to_string().contains("nobody-there"), "{why}");
        site
    });
}
