use super::*;
use swarm_api::model::{Cpus, DesiredState, Id, TaskStatus, Timestamp};

fn task(spec: TaskSpec) -> Task {
    Task {
        id: Id::from_u64(7),
        name: "web.1".into(),
        service: "web".into(),
        service_id: Id::from_u64(1),
        slot: 1,
        spec,
        node: None,
        node_name: "host1".into(),
        addresses: Vec::new(),
        desired: DesiredState::Running,
        status: TaskStatus::default(),
        attempt: 0,
        not_before: Timestamp(0),
        created_at: Timestamp(0),
    }
}

fn image() -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["/entry".into()],
        command: vec!["default".into()],
        env: vec!["COLOUR=red".into(), "PATH=/image".into()],
        ..ImageConfig::default()
    }
}

fn accounts() -> Accounts {
    let passwd = "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1001::/home/guest:/bin/sh\n";
    let group = "root:x:0:\nwheel:x:10:root,guest\nstaff:x:50:\n";
    Accounts::new(Some(passwd.into()), Some(group.into()))
}

fn make(spec: TaskSpec, image: &ImageConfig) -> Result<Spec> {
    super::spec(&Order {
        task: &task(spec),
        image,
        env: &["SWARM_SERVICE=web".into()],
        accounts: &accounts(),
        cgroup: "/swarm/abc",
        files: Path::new("/files"),
        volumes: Path::new("/volumes"),
        unnamed: &[],
        open_files: 20_000,
        seccomp: LinuxSeccomp::default(),
    })
}

fn process(spec: TaskSpec, image: &ImageConfig) -> Process {
    make(spec, image).unwrap().process().clone().unwrap()
}

#[test]
fn arguments_and_environment_are_the_image_s_until_the_task_has_its_own() {
    let default = process(TaskSpec::default(), &image());
    assert_eq!(default.args().as_deref().unwrap(), ["/entry", "default"]);
    let env = default.env().clone().unwrap();
    for wanted in [
        "PATH=/image",
        "COLOUR=red",
        "HOME=/root",
        "HOSTNAME=web-1",
        "SWARM_SERVICE=web",
    ] {
        assert!(env.iter().any(|e| e == wanted), "{wanted}: {env:?}");
    }
    let own = TaskSpec {
        args: vec!["mine".into()],
        env: vec!["COLOUR=blue".into()],
        tty: true,
        ..TaskSpec::default()
    };
    let own = process(own, &image());
    assert_eq!(own.args().as_deref().unwrap(), ["/entry", "mine"]);
    let env = own.env().clone().unwrap();
    assert!(env.contains(&"COLOUR=blue".into()) && !env.contains(&"COLOUR=red".into()));
    assert!(env.contains(&"TERM=xterm".into()));
    let replaced = TaskSpec {
        entrypoint: Some(vec!["/other".into()]),
        ..TaskSpec::default()
    };
    assert_eq!(
        process(replaced, &image()).args().as_deref().unwrap(),
        ["/other"]
    );
    let refused = make(TaskSpec::default(), &ImageConfig::default());
    assert!(matches!(refused, Err(Error::Invalid(_))));
}

#[test]
fn a_user_is_found_by_name_and_by_number() {
    let found = |text: &str| accounts().find(text);
    assert_eq!(
        found("guest").unwrap(),
        User {
            uid: 1000,
            gid: 1001,
            groups: vec![10],
            home: "/home/guest".into()
        }
    );
    let ids = |text: &str| found(text).map(|u| (u.uid, u.gid)).ok();
    assert_eq!(ids(""), Some((0, 0)));
    assert_eq!(ids("1000"), Some((1000, 1001)));
    assert_eq!(ids("4711"), Some((4711, 0)));
    assert_eq!(ids("guest:staff"), Some((1000, 50)));
    assert_eq!(ids("5:6"), Some((5, 6)));
    assert!(
        found("nobody-there")
            .unwrap_err()
            .to_string()
            .contains("nobody-there")
    );
    assert!(
        found("guest:nogroup")
            .unwrap_err()
            .to_string()
            .contains("nogroup")
    );
    assert_eq!(Accounts::default().find("").unwrap().home, "/root");
}

#[test]
fn limits_mounts_and_namespaces_are_what_was_asked() {
    let spec = TaskSpec {
        resources: Resources {
            memory: Some(64 << 20),
            cpus: Some(Cpus(500_000_000)),
            pids: Some(32),
            storage: None,
        },
        mounts: vec![
            Mount {
                source: MountSource::Volume("db".into()),
                target: "/data/db".into(),
                read_only: true,
            },
            Mount {
                source: MountSource::Tmpfs,
                target: "/data".into(),
                read_only: false,
            },
        ],
        network: NetworkMode::Host,
        read_only: true,
        user_namespace: true,
        ..TaskSpec::default()
    };
    let spec = make(spec, &image()).unwrap();
    let json = serde_json::to_value(&spec).unwrap();
    let resources = &json["linux"]["resources"];
    assert_eq!(resources["memory"]["limit"], 64 << 20);
    assert_eq!(resources["cpu"]["quota"], 50_000);
    assert_eq!(resources["pids"]["limit"], 32);
    assert_eq!(json["linux"]["cgroupsPath"], "/swarm/abc");
    assert_eq!(json["root"]["readonly"], true);
    assert_eq!(json["hostname"], "web-1");
    let kinds: Vec<&str> = json["linux"]["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["type"].as_str().unwrap())
        .collect();
    assert!(!kinds.contains(&"network") && kinds.contains(&"user") && kinds.contains(&"pid"));
    let targets: Vec<&str> = json["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["destination"].as_str().unwrap())
        .collect();
    let at = |t: &str| targets.iter().position(|x| *x == t).unwrap();
    assert!(at("/data") < at("/data/db") && at("/dev") < at("/dev/pts"));
    let volume = &json["mounts"][at("/data/db")];
    assert_eq!(volume["source"], "/volumes/db");
    assert!(volume["options"].as_array().unwrap().contains(&"ro".into()));
    assert_eq!(json["process"]["noNewPrivileges"], true);
    let caps = json["process"]["capabilities"]["bounding"]
        .as_array()
        .unwrap();
    assert!(!caps.contains(&"CAP_SYS_ADMIN".into()) && caps.contains(&"CAP_CHOWN".into()));
}

#[test]
fn a_further_process_is_like_the_first_but_for_what_it_asks() {
    let spec = TaskSpec {
        env: vec!["COLOUR=blue".into()],
        ..TaskSpec::default()
    };
    let first = process(spec, &image());
    let asked = ExecSpec {
        args: vec!["sh".into()],
        env: vec!["COLOUR=green".into()],
        user: Some("guest".into()),
        tty: true,
        ..ExecSpec::default()
    };
    let made = exec(&first, &accounts(), &asked).unwrap();
    assert_eq!(made.args().as_deref().unwrap(), ["sh"]);
    assert_eq!(made.user().uid(), 1000);
    assert_eq!(made.terminal(), Some(true));
    let env = made.env().clone().unwrap();
    assert!(env.contains(&"COLOUR=green".into()) && env.contains(&"HOME=/home/guest".into()));
    assert!(env.contains(&"TERM=xterm".into()) && !env.contains(&"HOME=/root".into()));
    assert!(matches!(
        exec(&first, &accounts(), &ExecSpec::default()),
        Err(Error::Invalid(_))
    ));
}

#[test]
fn a_long_name_still_makes_a_host_name() {
    let mut long = task(TaskSpec::default());
    long.name = format!("{}.10000", "a".repeat(63));
    let name = hostname(&long);
    assert!(name.len() <= 64 && name.ends_with("-10000"), "{name}");
}

#[test]
fn signals_are_read_as_people_write_them() {
    for (text, number) in [
        ("SIGTERM", 15),
        ("term", 15),
        ("9", 9),
        ("RTMIN+3", 37),
        ("sigusr1", 10),
    ] {
        assert_eq!(parse_signal(text).unwrap(), number, "{text}");
    }
    for bad in ["", "0", "65", "SIGNOTHING", "RTMIN+40", "-1"] {
        assert!(parse_signal(bad).is_err(), "{bad}");
    }
    assert_eq!(name_of_signal(9), "SIGKILL");
}

#[test]
fn a_mount_or_a_name_that_leads_elsewhere_is_refused() {
    let mount = |source: MountSource, target: &str| TaskSpec {
        mounts: vec![Mount {
            source,
            target: target.into(),
            read_only: false,
        }],
        ..TaskSpec::default()
    };
    let volume = |name: &str| MountSource::Volume(name.into());
    for bad in [
        mount(volume("../../etc"), "/data"),
        mount(volume("db"), "data"),
        mount(volume("db"), "/"),
        mount(volume("db"), "/data/../.."),
        mount(MountSource::Bind("etc".into()), "/data"),
        TaskSpec {
            hostname: Some("a\nb".into()),
            ..TaskSpec::default()
        },
        TaskSpec {
            working_dir: Some("tmp".into()),
            ..TaskSpec::default()
        },
        TaskSpec {
            args: vec!["a\0b".into()],
            ..TaskSpec::default()
        },
    ] {
        assert!(
            matches!(make(bad.clone(), &image()), Err(Error::Invalid(_))),
            "{bad:?}"
        );
    }
}
