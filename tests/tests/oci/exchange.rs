//! Images from Debian's Docker to swarm and back, by `docker save`, `docker load` and what `swarmctl image` has of them.

use crate::SOON;
use crate::docker::Docker;
use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};
use swarm_tests::command::{self, Output};
use swarm_tests::host::Host;
use swarm_tests::{wait_until, with_cluster};

const NAME: &str = "shop/tool:2";
const CHANGED: &str = "shop/tool:3";
/// What the image's entrypoint runs: it tells which files of the lower layers are there.
const ENTRYPOINT: &str =
    r#"ENTRYPOINT ["sh","-c","cat /etc/kept; ls /folder; ls /etc/gone 2>/dev/null; echo $COLOUR"]"#;
const TOLD: &str = "kept\nnew\nblue\n";

/// `from | to`; what the latter says.
fn pipe(from: &mut Command, to: &mut Command) -> Result<Output> {
    let mut writer = from
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start the one that writes")?;
    let out = writer.stdout.take().context("it has no output")?;
    to.stdin(out).stdout(Stdio::piped()).stderr(Stdio::piped());
    let read = to.spawn()?.wait_with_output()?;
    let wrote = command::wait(&mut writer, SOON)?;
    ensure!(
        wrote.is_some_and(|status| status.success()),
        "{from:?} ended with {wrote:?}"
    );
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Output {
        command: format!("{from:?} | {to:?}"),
        code: read.status.code().unwrap_or(-1),
        stdout: text(&read.stdout),
        stderr: text(&read.stderr),
    }
    .ok()
}

/// Makes an image of what `script` changes in another one.
fn step(docker: &Docker, from: &str, script: &str, to: &str, changes: &[&str]) -> Result<()> {
    let make = ["--name=step", "--entrypoint=sh", from, "-c", script];
    docker.container(&make)?.ok()?;
    let mut commit = vec!["commit"];
    for change in changes {
        commit.extend(["--change", change]);
    }
    commit.extend(["step", to]);
    docker.ok(&commit)?;
    docker.ok(&["rm", "step"])?;
    Ok(())
}

/// Its id, names and entrypoint, as Docker tells them.
fn in_docker(docker: &Docker, name: &str) -> Result<[String; 3]> {
    let of = |what: &str| docker.ok(&["image", "inspect", "--format", what, name]);
    Ok([
        of("{{.Id}}")?.trim().to_owned(),
        of("{{json .RepoTags}}")?.trim().to_owned(),
        of("{{json .Config.Entrypoint}}")?,
    ])
}

fn digest(host: &Host, name: &str) -> Result<String> {
    let images = host.json(&["image", "ls"])?;
    let of = |image: &&serde_json::Value| image["reference"] == name;
    let image = images.as_array().into_iter().flatten().find(of);
    let image = image.with_context(|| format!("no {name} in {images}"))?;
    Ok(image["digest"].as_str().unwrap_or_default().to_owned())
}

/// An image of Docker's with whiteouts runs in swarm, is changed there, and both go back.
pub(crate) fn both_ways(docker: &Docker) -> Result<()> {
    let (base, first) = ("shop/base", "shop/first");
    docker.ok(&["tag", "busybox", base])?;
    let script = "echo kept >/etc/kept; echo gone >/etc/gone; mkdir /folder; echo old >/folder/old";
    step(docker, base, script, first, &[])?;
    // One file goes, and a folder is made anew with others.
    let script = "rm -r /etc/gone /folder; mkdir /folder; echo new >/folder/new";
    step(
        docker,
        first,
        script,
        NAME,
        &[ENTRYPOINT, "CMD []", "ENV COLOUR=blue"],
    )?;
    let made = in_docker(docker, NAME)?;
    ensure!(docker.container(&["--rm", NAME])?.ok()?.stdout == TOLD);
    with_cluster(1, |c| {
        let host = c.host(1);
        let loaded = pipe(
            &mut docker.client(&["save", NAME]),
            &mut host.ctl_command(&["image", "load"])?,
        )?;
        ensure!(loaded.stdout.trim() == NAME, "{loaded:?}");
        ensure!(digest(host, NAME)? == made[0]);
        let ran = host.ctl(&["run", "--rm", NAME])?.ok()?;
        ensure!(ran.stdout == TOLD, "{ran:?}");

        let script = "rm /etc/kept; echo more >/folder/more; echo done; exec sleep 1000";
        host.ok(&[
            "run",
            "-d",
            "--name",
            "tool",
            "--entrypoint",
            "sh",
            NAME,
            "-c",
            script,
        ])?;
        wait_until("its files are changed", SOON, || {
            ensure!(host.ok(&["logs", "tool"])? == "done");
            Ok(())
        })?;
        let change =
            r#"ENTRYPOINT ["sh","-c","ls /etc/kept 2>/dev/null; ls /folder; echo $COLOUR"]"#;
        host.ok(&["commit", "tool.1", CHANGED, "-c", change])?;
        docker.ok(&["rmi", NAME, first])?;
        pipe(
            &mut host.ctl_command(&["image", "save", NAME, CHANGED])?,
            &mut docker.client(&["load"]),
        )?;
        ensure!(in_docker(docker, NAME)? == made);
        ensure!(docker.container(&["--rm", NAME])?.ok()?.stdout == TOLD);
        let changed = in_docker(docker, CHANGED)?;
        ensure!(changed[0] == digest(host, CHANGED)?, "{changed:?}");
        ensure!(changed[1].contains(CHANGED) && changed[2].contains("ls /folder"));
        let ran = docker.container(&["--rm", CHANGED])?.ok()?;
        ensure!(ran.stdout == "more\nnew\nblue\n", "{ran:?}");
        Ok(())
    });
    Ok(())
}
