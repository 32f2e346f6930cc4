//! `cp`: files between a host and a container on any other, running or ended.

use crate::{busybox, refused, run};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use swarm_tests::host::{Host, SOON};
use swarm_tests::{wait_until, with_cluster};

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

fn inside(host: &Host, script: &str) -> Result<String> {
    host.ok(&["exec", "box.1", "sh", "-c", script])
}

#[test]
fn files_go_into_and_out_of_a_container_on_another_host_and_back_the_same() {
    with_cluster(3, |c| {
        let (one, two) = (c.host(1), c.host(2));
        busybox(one)?;
        let there = [
            "--constraint",
            "node.name==host3",
            "-v",
            "data:/data",
            "busybox",
            "sh",
            "-c",
            "echo written > /tmp/log; ln -s /data /tmp/link; trap exit TERM; while :; do sleep 0.1; done",
        ];
        run(one, "box", 1, &there)?;
        wait_until("it has written", SOON, || {
            inside(two, "cat /tmp/link/. >/dev/null; test -L /tmp/link").map(drop)
        })?;
        let here = two.scratch()?;
        let folder = here.join("folder");
        fs::create_dir_all(folder.join("deep"))?;
        // Larger than anything that is held on the way.
        let large: Vec<u8> = (0..9_000_000u32).map(|n| (n % 251) as u8).collect();
        fs::write(folder.join("deep/large"), &large)?;
        fs::write(folder.join("run"), "#!/bin/sh\necho ran\n")?;
        fs::set_permissions(folder.join("run"), PermissionsExt::from_mode(0o755))?;
        symlink("deep/large", folder.join("near"))?;

        // To where nothing is, and to where a folder is.
        two.ok(&["cp", text(&folder), "box.1:/data/new"])?;
        ensure!(inside(one, "/data/new/run")? == "ran");
        two.ok(&["cp", text(&folder), "box.1:/tmp/link"])?;
        ensure!(
            inside(
                one,
                "cmp /data/new/near /data/folder/deep/large && echo same"
            )? == "same"
        );
        two.ok(&["cp", &format!("{}/.", text(&folder)), "box.1:/tmp"])?;
        ensure!(
            inside(one, "/tmp/run; id -u; ls -ln /tmp/run | head -c 10")?
                .starts_with("ran\n0\n-rwxr-xr-x")
        );

        // And out again, on a third host.
        let out = one.scratch()?;
        one.ok(&["cp", "box.1:/data/new", text(&out)])?;
        ensure!(fs::read(out.join("new/near"))? == large);
        one.ok(&["cp", "box.1:/data/new", text(&out.join("other"))])?;
        ensure!(fs::read(out.join("other/deep/large"))? == large);
        one.ok(&["cp", "box.1:/tmp/log", text(&out.join("log.txt"))])?;
        ensure!(fs::read_to_string(out.join("log.txt"))? == "written\n");
        one.ok(&["cp", "box.1:tmp/link", text(&out)])?;
        ensure!(fs::read_link(out.join("link"))? == Path::new("/data"));
        one.ok(&["cp", "-L", "box.1:/tmp/link", text(&out.join("followed"))])?;
        ensure!(fs::read(out.join("followed/new/near"))? == large);
        fs::write(out.join("changed"), "changed\n")?;
        one.ok(&["cp", text(&out.join("changed")), "box.1:/tmp/log"])?;
        ensure!(inside(two, "cat /tmp/log")? == "changed");
        let archive = out.join("archive.tar");
        let output = one.ctl(&["cp", "box.1:/tmp/log", "-"])?;
        fs::write(&archive, output.ok()?.stdout)?;
        let mut command = one.ctl_command(&["cp", "-", "box.1:/data"])?;
        command.stdin(fs::File::open(&archive)?);
        let status = one.spawn_inside(&mut command)?.wait()?;
        ensure!(status.success(), "{status}");
        ensure!(inside(two, "cat /data/log")? == "changed");

        for (arguments, words) in [
            (["box.1:/no/such", "."], ["/no/such", "box.1"]),
            (["/no/such", "box.1:/tmp"], ["/no/such", "cannot read"]),
            (["box.1:/tmp/log", "box.1:/data"], ["one container", "pipe"]),
            (["a", "b"], ["TASK:PATH", "neither"]),
            ([text(&folder), "box.1:/tmp/log"], ["directory", "/tmp/log"]),
            (
                [text(&archive), "box.1:/nowhere/"],
                ["no directory", "/nowhere/"],
            ),
            ([text(&archive), "box.1:/nowhere/x"], ["/nowhere", "box.1"]),
            (["ghost.1:/x", "."], ["ghost.1", "no"]),
        ] {
            refused(one, &[&["cp"][..], &arguments].concat(), &words)?;
        }

        // Of what has ended.
        one.ok(&["stop", "box"])?;
        one.ok(&["cp", "box.1:/tmp/log", text(&out.join("late"))])?;
        ensure!(fs::read_to_string(out.join("late"))? == "changed\n");
        one.ok(&["cp", "box.1:/tmp/link/log", text(&out.join("later"))])?;
        ensure!(fs::read_to_string(out.join("later"))? == "changed\n");
        one.ok(&["cp", text(&out.join("late")), "box.1:/tmp/again"])?;
        one.ok(&["cp", "box.1:/tmp/again", text(&out.join("again"))])?;
        ensure!(fs::read_to_string(out.join("again"))? == "changed\n");
        Ok(())
    });
}

#[test]
fn a_hostile_container_leads_nobody_out_of_it() {
    with_cluster(1, |c| {
        let one = c.host(1);
        busybox(one)?;
        let secret = one.scratch()?.join("secret");
        fs::write(&secret, "of the host")?;
        let secret = text(&secret).to_owned();
        let up = ["..", "..", "..", "..", "..", "..", "..", ".."].join("/");
        let script = format!(
            "mkdir -p /trap; ln -s {secret} /trap/absolute; ln -s {up}{secret} /trap/upward; ln -s /proc/1/root /trap/magic; \
             ln -s / /trap/root; touch /tmp/ready; sleep 1000"
        );
        run(
            one,
            "box",
            1,
            &["--restart", "never", "busybox", "sh", "-c", &script],
        )?;
        wait_until("the traps are set", SOON, || {
            inside(one, "test -e /tmp/ready").map(drop)
        })?;
        let new = one.scratch()?.join("new");
        fs::write(&new, "from outside")?;
        let folder = Path::new(&secret).parent().context("no folder")?;
        for running in [true, false] {
            for trap in ["absolute", "upward"] {
                refused(
                    one,
                    &["cp", "-L", &format!("box.1:/trap/{trap}"), "."],
                    &[&secret],
                )?;
                // There it is missing, so that its folder is as well.
                refused(
                    one,
                    &["cp", text(&new), &format!("box.1:/trap/{trap}/x")],
                    &["trap"],
                )?;
            }
            let at = format!("box.1:/trap/magic{secret}");
            refused(one, &["cp", &at, "."], &["container"])?;
            let out = one.scratch()?;
            one.ok(&["cp", "box.1:/trap", text(&out)])?;
            ensure!(fs::read_link(out.join("trap/absolute"))? == Path::new(&secret));
            one.ok(&["cp", text(&new), "box.1:/trap/root/new"])?;
            ensure!(!Path::new("/new").exists());
            ensure!(fs::read_to_string(&secret)? == "of the host");
            ensure!(fs::read_dir(folder)?.count() >= 1);
            if running {
                one.ok(&["stop", "-t", "1s", "box.1"])?;
            }
        }
        Ok(())
    });
}
