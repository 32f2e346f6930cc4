use super::*;
use clap::CommandFactory;
use swarm_api::model::{MountSource, NetworkMode, Restart, ServiceSpec};

fn parsed(line: &[&str]) -> Result<Command, clap::Error> {
    Cli::try_parse_from([&["swarmctl"], line].concat()).map(|c| c.command)
}

fn spec(line: &[&str]) -> ServiceSpec {
    match parsed(line).unwrap() {
        Command::Run(args) => args.into_spec(1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn what_follows_the_image_is_the_command_also_flags() {
    let spec = spec(&[
        "run", "-d", "busybox", "-x", "-d", "--rm", "-o", "json", "--", "a",
    ]);
    assert_eq!(spec.task.image, "busybox");
    assert_eq!(
        spec.task.args,
        ["-x", "-d", "--rm", "-o", "json", "--", "a"]
    );
    assert!(!spec.auto_remove);
    let Command::Exec(exec) = parsed(&["exec", "-it", "box.1", "sh", "-c", "-i"]).unwrap() else {
        panic!("not exec");
    };
    assert_eq!(exec.command, ["sh", "-c", "-i"]);
    assert!(exec.interactive && exec.tty);
}

#[test]
fn the_flags_of_run_reach_the_specification() {
    let spec = spec(&[
        "run",
        "--rm",
        "-it",
        "--name",
        "web",
        "-e",
        "A=b",
        "-p",
        "8080:80",
        "-v",
        "data:/d:ro",
        "--tmpfs",
        "/t",
        "--memory",
        "64m",
        "--cpus",
        "0.5",
        "--pids",
        "9",
        "--constraint",
        "node.name==h",
        "--network",
        "none",
        "--label",
        "x=y",
        "--stop-timeout",
        "3s",
        "--entrypoint",
        "a b",
        "img",
    ]);
    assert_eq!(spec.name, "web");
    assert!(spec.auto_remove && spec.task.tty && spec.task.stdin);
    assert_eq!(spec.task.env, ["A=b"]);
    assert_eq!(spec.ports[0].published, Some(8080));
    assert!(spec.task.mounts[0].read_only);
    assert_eq!(spec.task.mounts[1].source, MountSource::Tmpfs);
    assert_eq!(spec.task.resources.memory, Some(64 << 20));
    assert_eq!(spec.task.network, NetworkMode::None);
    assert_eq!(spec.labels["x"], "y");
    assert_eq!(spec.task.stop_timeout_ms, Some(3000));
    assert_eq!(spec.task.entrypoint.as_deref().unwrap(), ["a", "b"]);
    assert_eq!(spec.restart.condition, Restart::Never);
    spec.validate().unwrap();
}

#[test]
fn only_a_detached_service_is_restarted_by_default() {
    let restart = |line: &[&str]| spec(line).restart.condition;
    assert_eq!(restart(&["run", "-d", "i"]), Restart::OnFailure);
    assert_eq!(restart(&["run", "-d", "--rm", "i"]), Restart::Never);
    assert_eq!(restart(&["run", "i"]), Restart::Never);
    assert_eq!(
        restart(&["run", "--restart", "always", "i"]),
        Restart::Always
    );
}

#[test]
fn a_bad_value_is_named_in_the_error_s_first_line() {
    for (flag, value) in [
        ("--memory", "64q"),
        ("--cpus", "none"),
        ("-p", "80:80:80"),
        ("-v", "a:b"),
        ("--constraint", "host2"),
        ("--restart", "sometimes"),
        ("--replicas", "-1"),
    ] {
        let error = parsed(&["run", "-d", flag, value, "whoami"]).unwrap_err();
        let text = error.to_string();
        assert!(text.lines().next().unwrap().contains(value), "{text}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn global_flags_may_stand_before_and_after_the_command() {
    for line in [
        &["-o", "json", "--host", "local", "ps"][..],
        &["ps", "-o", "json", "--host", "local"],
    ] {
        let cli = Cli::try_parse_from([&["swarmctl"], line].concat()).unwrap();
        assert_eq!(
            (cli.global.output, cli.global.host.as_str()),
            (Format::Json, "local")
        );
    }
}
