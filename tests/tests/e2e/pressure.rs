//! Disks that fill up, and what goes from them by itself.

use crate::registry::{Registry, hosts, version};
use crate::{UP, run};
use anyhow::{Result, ensure};
use swarm_tests::host::Host;
use swarm_tests::{wait_until, with_hosts};

const DISK: u64 = 160 << 20;

/// The images that the host has, those of `names`.
fn has(host: &Host, names: &[&str]) -> Result<Vec<String>> {
    let images = host.local(&["image", "ls"])?.ok()?.stdout;
    let there = names.iter().filter(|n| images.contains(&format!("/{n}")));
    Ok(there.map(|n| (*n).to_owned()).collect())
}

/// Fills the disk until so many percent of it are free.
fn fill_to(host: &Host, percent: u64) -> Result<()> {
    let keep = DISK / 100 * percent;
    let free = host.free_disk()?;
    let bytes = free.checked_sub(keep);
    let bytes = bytes.ok_or_else(|| anyhow::anyhow!("only {free} bytes are free"))?;
    let zeros = vec![0; usize::try_from(bytes)?];
    Ok(std::fs::write(host.data_dir().join("filler"), zeros)?)
}

#[test]
fn a_disk_that_fills_up_loses_the_images_that_nobody_uses_and_no_others() {
    let builder = hosts(3)
        .disk(DISK)
        .argument("--image-gc-age=never")
        .argument("--image-gc-high=65")
        .argument("--image-gc-low=60")
        .argument("--image-gc-interval=300ms");
    with_hosts(builder, |c| {
        c.form()?;
        let (one, two) = (c.host(1), c.host(2));
        let registry = Registry::start(c.host(3))?;
        let all = ["used", "older", "newer"];
        for name in all {
            registry.put_sized(&format!("{name}:1"), name, 1, 20 << 20)?;
        }
        let tasks = run(
            one,
            "web",
            3,
            &["--replicas", "3", &registry.name("used:1")],
        )?;
        for name in ["older:1", "newer:1"] {
            one.ok(&["image", "pull", "--all-nodes", &registry.name(name)])?;
        }
        ensure!(has(one, &all)?.len() == 3 && has(two, &all)?.len() == 3);
        // 48 MiB are free then. Less than 56 are too few, and 64 are enough: the older one's 22 more make that.
        fill_to(two, 30)?;
        wait_until("the one that was not used for longest goes", UP, || {
            let there = has(two, &all)?;
            ensure!(!there.contains(&"older".to_owned()), "{there:?}");
            Ok(())
        })?;
        wait_until("its layers go as well", UP, || {
            let free = two.free_disk()?;
            ensure!(free > DISK / 100 * 40, "{free} bytes are free");
            Ok(())
        })?;
        ensure!(has(two, &all)? == ["used", "newer"]);
        // Other hosts have room.
        ensure!(has(one, &all)?.len() == 3);
        // Without a free page it helps itself as well.
        std::fs::remove_file(two.data_dir().join("filler"))?;
        two.fill_disk()?;
        wait_until("the other one goes", UP, || {
            let there = has(two, &all)?;
            ensure!(there == ["used"], "{there:?}");
            Ok(())
        })?;
        wait_until("there is room again", UP, || {
            ensure!(two.free_disk()? > 16 << 20);
            Ok(())
        })?;
        // What runs has noticed nothing, and it starts anew from what it has.
        for task in &tasks {
            ensure!(version(one, &task.name)? == "used");
        }
        run(
            two,
            "more",
            1,
            &["--constraint", "node.name==host2", &registry.name("used:1")],
        )?;
        ensure!(has(one, &all)?.len() == 3);
        Ok(())
    });
}
