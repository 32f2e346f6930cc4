//! Images: the built-in one, imported ones, and how they get to where they are needed.

use crate::{UP, busybox, refused, tarballs};
use anyhow::ensure;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::io::Write;
use swarm_tests::host::SOON;
use swarm_tests::with_cluster;

#[test]
fn an_image_imported_on_one_host_runs_on_all() {
    with_cluster(3, |c| {
        busybox(c.host(2))?;
        for host in c.hosts() {
            let images = host.json(&["image", "ls"])?.to_string();
            ensure!(
                images.contains("busybox") && images.contains("whoami"),
                "{images}"
            );
            let constraint = format!("node.name=={}", host.name);
            let name = format!("on-{}", host.name);
            let args = [
                "run",
                "--rm",
                "--name",
                &name,
                "--constraint",
                &constraint,
                "busybox",
                "hostname",
            ];
            ensure!(c.host(1).ok(&args)? == format!("{name}-1"));
        }
        Ok(())
    });
}

#[test]
fn an_image_still_runs_on_a_new_host_when_the_one_that_imported_it_is_gone() {
    with_cluster(3, |c| {
        busybox(c.host(3))?;
        for n in [1, 3] {
            let constraint = format!("node.name==host{n}");
            c.host(1).ok(&[
                "run",
                "--rm",
                "--constraint",
                &constraint,
                "busybox",
                "true",
            ])?;
        }
        c.host(3).power_off()?;
        let out = c.host(1).ctl(&[
            "run",
            "--rm",
            "--constraint",
            "node.name==host2",
            "busybox",
            "echo",
            "hi",
        ])?;
        ensure!(out.code == 0 && out.stdout == "hi\n", "{out:?}");
        Ok(())
    });
}

#[test]
fn an_image_that_is_no_archive_is_refused_and_one_in_use_stays() {
    with_cluster(2, |c| {
        let one = c.host(1);
        let rubbish = one.scratch()?.join("rubbish.tar");
        std::fs::write(&rubbish, vec![b'x'; 4096])?;
        let before = one.json(&["image", "ls"])?;
        refused(
            one,
            &["image", "import", "bad", &rubbish.to_string_lossy()],
            &["tar"],
        )?;
        refused(
            one,
            &["image", "import", "bad", "/no/such/file"],
            &["/no/such/file"],
        )?;
        refused(
            one,
            &["image", "import", "Bad Name", "/etc/passwd"],
            &["Bad Name"],
        )?;
        ensure!(one.json(&["image", "ls"])? == before);
        busybox(one)?;
        crate::run(one, "box", 1, &["busybox", "sleep", "3600"])?;
        refused(c.host(2), &["image", "rm", "busybox"], &["box"])?;
        one.ok(&["service", "rm", "box"])?;
        swarm_tests::wait_until("it can be removed", crate::SOON, || {
            c.host(2).ok(&["image", "rm", "busybox"])?;
            Ok(())
        })?;
        refused(one, &["image", "rm", "nothing"], &["nothing"])
    });
}

#[test]
fn what_takes_long_shows_on_a_terminal_how_far_it_is() {
    with_cluster(1, |c| {
        let host = c.host(1);
        let scratch = host.scratch()?;
        let archive = std::fs::read(tarballs::busybox_tar(&scratch)?)?;
        let fifo = scratch.join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        // For reading too, so that this does not wait for the other side.
        let mut end = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&fifo)?;
        let args = ["image", "import", "slow", &fifo.to_string_lossy()];
        let mut import = host.ctl_terminal(&args, 24, 80)?;
        let (first, rest) = archive.split_at(archive.len() / 2);
        end.write_all(first)?;
        import.expect("KiB", UP)?;
        import.expect("/s", SOON)?;
        end.write_all(rest)?;
        drop(end);
        import.expect("slow:latest", UP)?;
        ensure!(import.end(SOON)? == 0);
        Ok(())
    });
}
