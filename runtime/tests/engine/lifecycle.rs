//! Create, start, kill, delete; and what happens when the agent or a shim goes away.

use crate::site::{Options, Site, cgroups, spec, with_site, with_site_in};
use std::path::Path;
use swarm_api::backend::LogOptions;
use swarm_runtime::Error;
use swarm_runtime::engine::{ContainerState, Engine, EngineConfig};

/// The shim of a container: the parent of its process.
fn shim_of(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status
        .lines()
        .find_map(|l| l.strip_prefix("PPid:"))
        .unwrap();
    parent.trim().parse().unwrap()
}

fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

fn pid(site: &Site, id: &str) -> i32 {
    site.engine.state(id).unwrap().pid().unwrap()
}

fn is_alive(pid: i32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state
        .rsplit(')')
        .next()
        .is_some_and(|s| !s.is_empty() && !s.trim_start().starts_with(['Z', 'X']))
}

pub(crate) fn output_and_exit_code_are_kept() {
    with_site(async |site| {
        site.run("one", "echo out; echo err >&2; exit 7", Options::default())
            .await;
        let exit = site.wait("one").await;
        assert_eq!((exit.code, exit.signal, exit.oom_killed), (7, None, false));
        let mut lines = site.logs("one", LogOptions::default()).await;
        lines.sort_by(|a, b| b.1.cmp(&a.1));
        assert_eq!(
            lines.iter().map(|l| l.1.as_ref()).collect::<Vec<_>>(),
            [&b"out\n"[..], b"err\n"]
        );
        site.delete("one").await;
    });
}

pub(crate) fn states_are_told_in_order() {
    with_site(async |site| {
        let mut events = site.engine.subscribe();
        site.run("one", "exit 0", Options::default()).await;
        site.wait("one").await;
        let mut seen = Vec::new();
        loop {
            let (id, state) = events.recv().await.unwrap();
            assert_eq!(id, "one");
            let last = state.is_stopped();
            seen.push(state);
            if last {
                break;
            }
        }
        assert!(
            matches!(
                seen.as_slice(),
                [
                    ContainerState::Created { .. },
                    ContainerState::Running { .. },
                    ContainerState::Stopped {
                        started_at: Some(_),
                        ..
                    }
                ]
            ),
            "{seen:?}"
        );
        site.delete("one").await;
        assert_eq!(site.engine.state("one"), None);
    });
}

pub(crate) fn a_signal_reaches_the_process_and_its_end_is_told() {
    with_site(async |site| {
        site.run(
            "one",
            "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done",
            Options::default(),
        )
        .await;
        site.attach("one", true).await.expect("ready").await;
        site.engine.kill("one", libc::SIGTERM).await.unwrap();
        assert_eq!(site.wait("one").await.code, 9);
        site.run("two", "sleep 1000", Options::default()).await;
        site.engine.kill("two", libc::SIGKILL).await.unwrap();
        let exit = site.wait("two").await;
        assert_eq!(
            (exit.code, exit.signal, exit.oom_killed),
            (137, Some(9), false)
        );
        assert!(matches!(
            site.engine.kill("two", libc::SIGKILL).await,
            Err(Error::Conflict(_))
        ));
        site.delete("one").await;
        site.delete("two").await;
    });
}

pub(crate) fn a_program_that_is_not_there_is_named() {
    with_site(async |site| {
        let spec = spec(&["/bin/no-such-program"], false);
        let made = site
            .engine
            .create("one", &spec, site.launch(Options::default()))
            .await;
        made.unwrap();
        let error = site.engine.start("one").await.unwrap_err();
        assert!(error.to_string().contains("no-such-program"), "{error}");
        let state = site.engine.wait("one").await.unwrap();
        let ContainerState::Stopped { exit, message, .. } = state else {
            panic!("{state:?}")
        };
        assert_eq!(exit.code, 127);
        assert!(message.contains("no-such-program"), "{message}");
        site.delete("one").await;
        assert_eq!(cgroups(&spec), Vec::<std::path::PathBuf>::new());
    });
}

pub(crate) fn a_container_that_cannot_be_made_leaves_nothing() {
    with_site(async |site| {
        let spec = spec(&["/bin/true"], false);
        let mut launch = site.launch(Options::default());
        launch.lower = vec!["/no/such/layer".into()];
        let error = site.engine.create("one", &spec, launch).await.unwrap_err();
        assert!(!error.to_string().is_empty());
        nothing_of(&site.config, "one");
        assert_eq!(site.engine.list(), []);
        assert_eq!(cgroups(&spec), Vec::<std::path::PathBuf>::new());
    });
}

pub(crate) fn a_shim_that_cannot_be_started_says_why() {
    with_site(async |site| {
        for (program, why) in [
            ("/no/such/shim", "/no/such/shim"),
            ("/bin/false", "exit status: 1"),
        ] {
            let config = EngineConfig {
                shim: vec![program.into()],
                ..site.config.clone()
            };
            let engine = Engine::open(config).await.unwrap();
            let launch = site.launch(Options::default());
            let error = engine
                .create("one", &spec(&["/bin/true"], false), launch)
                .await
                .unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            nothing_of(&site.config, "one");
        }
    });
}

fn nothing_of(config: &EngineConfig, id: &str) {
    for dir in [&config.state_dir, &config.run_dir] {
        let left: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .flatten()
            .map(|e| e.file_name())
            .collect();
        assert!(
            left.iter().all(|name| !name.to_string_lossy().contains(id)),
            "{left:?} in {}",
            dir.display()
        );
    }
}

pub(crate) fn delete_leaves_nothing() {
    with_site(async |site| {
        let spec = site
            .create(
                "one",
                "touch /written; sleep 1000 & sleep 1000",
                Options::default(),
            )
            .await;
        site.engine.start("one").await.unwrap();
        let process = pid(&site, "one");
        let shim = shim_of(process);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(site.config.state_dir.to_str().unwrap()),
            "a mount of it is on the host"
        );
        assert!(!cgroups(&spec).is_empty());
        site.delete("one").await;
        nothing_of(&site.config, "one");
        assert_eq!(cgroups(&spec), Vec::<std::path::PathBuf>::new());
        assert!(!is_alive(process) && !is_alive(shim));
        assert!(
            !Path::new(&format!("/proc/{shim}")).exists(),
            "the shim is a zombie"
        );
        assert!(matches!(
            site.engine.delete("one", true).await,
            Err(Error::NotFound(_))
        ));
    });
}

pub(crate) fn a_running_container_is_removed_by_force_only() {
    with_site(async |site| {
        site.run("one", "sleep 1000", Options::default()).await;
        assert!(matches!(
            site.engine.delete("one", false).await,
            Err(Error::Conflict(_))
        ));
        assert!(matches!(
            site.engine.state("one"),
            Some(ContainerState::Running { .. })
        ));
        site.delete("one").await;
        site.create("two", "true", Options::default()).await;
        site.engine.delete("two", false).await.unwrap();
        nothing_of(&site.config, "two");
    });
}

pub(crate) fn containers_outlive_the_agent() {
    with_site(async |site| {
        let options = Options {
            stdin: true,
            ..Options::default()
        };
        site.run(
            "one",
            "echo before; read line; echo got $line; exit 3",
            options,
        )
        .await;
        site.attach("one", true).await.expect("before").await;
        let before = site.engine.state("one");
        let site = site.restart().await;
        assert_eq!(site.engine.state("one"), before);
        let joined = site.attach("one", true).await;
        joined.send_bytes(b"it\n");
        let (out, _, exit) = joined.finish().await;
        assert_eq!((out.as_slice(), exit.code), (&b"before\ngot it\n"[..], 3));
        assert_eq!(site.wait("one").await.code, 3);
        site.delete("one").await;
        nothing_of(&site.config, "one");
    });
}

pub(crate) fn an_end_without_the_agent_is_found() {
    with_site(async |site| {
        site.run("one", "echo out; exit 4", Options::default())
            .await;
        // Another engine sees the end; the one that is opened after both reads it.
        let config = site.config.clone();
        site.wait("one").await;
        let site = site.restart().await;
        let Some(ContainerState::Stopped {
            exit,
            started_at,
            message,
            ..
        }) = site.engine.state("one")
        else {
            panic!("{:?}", site.engine.state("one"))
        };
        assert_eq!((exit.code, message.as_str()), (4, ""));
        assert!(started_at.is_some());
        let (out, _, _) = site.attach("one", true).await.finish().await;
        assert_eq!(out, b"out\n");
        site.delete("one").await;
        nothing_of(&config, "one");
    });
}

pub(crate) fn a_created_container_is_started_by_the_next_agent() {
    with_site(async |site| {
        site.create("one", "exit 5", Options::default()).await;
        let site = site.restart().await;
        assert!(matches!(
            site.engine.state("one"),
            Some(ContainerState::Created { .. })
        ));
        site.engine.start("one").await.unwrap();
        assert_eq!(site.wait("one").await.code, 5);
        site.delete("one").await;
    });
}

pub(crate) fn a_killed_shim_takes_its_container_along() {
    with_site(async |site| {
        let spec = site
            .create("one", "echo out; sleep 1000", Options::default())
            .await;
        site.engine.start("one").await.unwrap();
        let mut joined = site.attach("one", true).await;
        joined.expect("out").await;
        let process = pid(&site, "one");
        signal(shim_of(process), nix::sys::signal::Signal::SIGKILL);
        let state = site.engine.wait("one").await.unwrap();
        let ContainerState::Stopped {
            exit,
            message,
            started_at,
            ..
        } = state
        else {
            panic!("{state:?}")
        };
        assert_eq!(exit.signal, Some(9));
        assert!(
            started_at.is_some() && message.contains("shim"),
            "{message}"
        );
        let (_, _, seen) = joined.finish().await;
        assert_eq!(seen.signal, Some(9));
        site.delete("one").await;
        assert!(!is_alive(process));
        assert_eq!(cgroups(&spec), Vec::<std::path::PathBuf>::new());
        nothing_of(&site.config, "one");
    });
}

pub(crate) fn a_shim_killed_without_the_agent_is_found() {
    with_site(async |site| {
        let spec = site.create("one", "sleep 1000", Options::default()).await;
        site.engine.start("one").await.unwrap();
        let process = pid(&site, "one");
        let shim = shim_of(process);
        let site = site
            .restart_after(|| signal(shim, nix::sys::signal::Signal::SIGKILL))
            .await;
        let Some(ContainerState::Stopped {
            message,
            started_at,
            ..
        }) = site.engine.state("one")
        else {
            panic!("{:?}", site.engine.state("one"))
        };
        assert!(
            message.contains("shim") && started_at.is_some(),
            "{message}"
        );
        site.delete("one").await;
        assert!(!is_alive(process));
        assert_eq!(cgroups(&spec), Vec::<std::path::PathBuf>::new());
        nothing_of(&site.config, "one");
    });
}

pub(crate) fn signals_for_the_agents_group_do_not_reach_a_shim() {
    use nix::sys::signal::Signal;
    with_site(async |site| {
        let options = Options {
            stdin: true,
            ..Options::default()
        };
        site.run(
            "one",
            "trap 'exit 1' TERM HUP INT; echo ready; read line; exit 0",
            options,
        )
        .await;
        let mut joined = site.attach("one", true).await;
        joined.expect("ready").await;
        let shim = shim_of(pid(&site, "one"));
        assert_ne!(
            nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(shim))).unwrap(),
            nix::unistd::getsid(None).unwrap()
        );
        for sig in [
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGINT,
            Signal::SIGPIPE,
        ] {
            signal(shim, sig);
        }
        joined.send_bytes(b"\n");
        let (_, _, exit) = joined.finish().await;
        assert_eq!(exit.code, 0);
        site.delete("one").await;
    });
}

pub(crate) fn directories_may_have_long_names() {
    let long = "a-directory-with-a-long-name/".repeat(8);
    with_site_in(&long, async |site| {
        site.run("one", "echo out; sleep 1000", Options::default())
            .await;
        site.attach("one", true).await.expect("out").await;
        let site = site.restart().await;
        assert!(matches!(
            site.engine.state("one"),
            Some(ContainerState::Running { .. })
        ));
        site.delete("one").await;
    });
}

pub(crate) fn what_was_there_before_the_hosts_restart_is_explained() {
    with_site(async |site| {
        // What a host that lost its power leaves: the files of a container, and no shim.
        let dir = site.config.state_dir.join("one");
        std::fs::create_dir(&dir).unwrap();
        let text = serde_json::to_vec(&spec(&["/bin/true"], false)).unwrap();
        std::fs::write(dir.join("spec.json"), text).unwrap();
        let launch = r#"{"lower":[],"log_max_bytes":1,"stdin":false,"size":null,"boot":"another"}"#;
        std::fs::write(dir.join("launch.json"), launch).unwrap();
        std::fs::create_dir(site.config.state_dir.join("two")).unwrap();
        let site = site.restart().await;
        let Some(ContainerState::Stopped { message, .. }) = site.engine.state("one") else {
            panic!()
        };
        assert_eq!(message, "its host was restarted");
        let Some(ContainerState::Stopped { message, .. }) = site.engine.state("two") else {
            panic!()
        };
        assert!(message.contains("not made completely"), "{message}");
        site.delete("one").await;
        site.delete("two").await;
        nothing_of(&site.config, "one");
        nothing_of(&site.config, "two");
    });
}

pub(crate) fn statistics_are_those_of_the_container() {
    with_site(async |site| {
        site.run(
            "one",
            "sleep 1000 & sleep 1000 & echo ready; wait",
            Options::default(),
        )
        .await;
        site.attach("one", true).await.expect("ready").await;
        let stats = site.engine.stats("one").await.unwrap();
        assert!((1..=3).contains(&stats.used.pids), "{stats:?}");
        site.delete("one").await;
    });
}

pub(crate) fn an_end_for_lack_of_memory_is_told() {
    with_site(async |site| {
        let script = [
            "/bin/dd",
            "if=/dev/zero",
            "of=/dev/null",
            "bs=200M",
            "count=1",
        ];
        let spec = serde_json::to_value(spec(&script, false)).map(|mut spec| {
            spec["linux"]["resources"] = serde_json::json!({"memory": {"limit": 16 << 20}});
            spec
        });
        let spec = serde_json::from_value(spec.unwrap()).unwrap();
        let launch = site.launch(Options::default());
        site.engine.create("one", &spec, launch).await.unwrap();
        site.engine.start("one").await.unwrap();
        let exit = site.wait("one").await;
        assert_eq!((exit.signal, exit.oom_killed), (Some(9), true));
        site.delete("one").await;
    });
}
