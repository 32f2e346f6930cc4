//! The power goes away at each step of a pull, on a real file system: what was acknowledged is there afterwards, and
//! nothing that is there is less than whole.

use crate::fake::Fake;
use crate::image::{Packed, Parts, digest, layer};
use crate::{ARCH, host, pull, serve};
use futures_util::{StreamExt, TryStreamExt};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use swarm_api::Backend;
use swarm_api::backend::{PullEvent, PullOptions, PullPolicy};
use swarm_runtime::host::Host;
use swarm_runtime::registry::RegistryConfig;

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH` (linux/ext4.h): nothing that is not on the disk yet comes there.
const NO_LOG_FLUSH: u32 = 2;

mod ioctl {
    #![allow(unsafe_code)]
    nix::ioctl_read!(shutdown, b'X', 125, u32);

    pub(super) fn lose_power(folder: std::os::fd::BorrowedFd<'_>, mut how: u32) {
        use std::os::fd::AsRawFd;
        // SAFETY: the call reads one u32, which lives as long as the call, and the descriptor is open.
        unsafe { shutdown(folder.as_raw_fd(), &raw mut how) }.unwrap();
    }
}

/// A disk of its own, with a file system that can lose power.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn new(temp: &Path) -> Self {
        let disk = Self {
            image: temp.join("disk"),
            at: temp.join("at"),
        };
        let file = std::fs::File::create(&disk.image).unwrap();
        file.set_len(64 << 20).unwrap();
        std::fs::create_dir(&disk.at).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(&disk.image));
        disk.mount();
        disk
    }

    fn mount(&self) {
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&self.image)
            .arg(&self.at));
    }

    fn lose_power(&self) {
        let folder = std::fs::File::open(&self.at).unwrap();
        ioctl::lose_power(folder.as_fd(), NO_LOG_FLUSH);
    }

    fn unmount(&self) {
        run(Command::new("umount").arg(&self.at));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What the test left mounted when it failed.
        let _ = Command::new("umount").args(["-l"]).arg(&self.at).output();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// Every image that the host has, each of its layers read back and found to be what its digest says.
async fn whole(host: &Host) -> Vec<String> {
    let images = host.images();
    for image in &images {
        assert!(host.has_layers(image).is_empty(), "{}", image.reference);
        for layer in &image.layers {
            let archive = host.export_layer(layer.clone()).await.unwrap();
            let archive: Vec<bytes::Bytes> = archive.try_collect().await.unwrap();
            assert_eq!(&digest(&archive.concat()), layer, "{}", image.reference);
        }
    }
    images.iter().map(|i| i.reference.to_string()).collect()
}

/// Pulls, and has the power lost after so many of the pull's events. Tells whether the image was acknowledged by then.
async fn pull_until(host: &Host, name: &str, events: usize, disk: &Disk) -> bool {
    let options = PullOptions {
        policy: PullPolicy::Always,
        ..PullOptions::default()
    };
    let mut pulled = host.pull_image(name.into(), options).await.unwrap();
    let mut acknowledged = false;
    for _ in 0..events {
        match pulled.next().await {
            Some(Ok(PullEvent::Done(_))) => acknowledged = true,
            Some(Ok(_)) => {}
            other => panic!("before anything happened to the disk: {other:?}"),
        }
        if acknowledged {
            break;
        }
    }
    disk.lose_power();
    // It goes on as far as it can; what it says from here on may be said of a disk that takes nothing any more.
    while pulled.next().await.is_some() {}
    acknowledged
}

/// A life of the host: everything of it has ended, and is closed, when this returns.
fn life<T>(disk: &Disk, work: impl AsyncFnOnce(&Host) -> T) -> T {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let host = host(&disk.at, RegistryConfig::default()).await;
        work(&host).await
    })
}

#[test]
fn power_lost_at_any_step_of_a_pull_takes_nothing_that_was_acknowledged_and_leaves_nothing_half() {
    let temp = tempfile::tempdir().unwrap();
    let disk = Disk::new(temp.path());
    let registry = tokio::runtime::Runtime::new().unwrap();
    let mut kept = Vec::new();
    for step in 0.. {
        let size = 60_000 + 512 * step;
        let parts = Parts::new(
            &[
                (layer("a", size), Packed::Plain),
                (layer("bb", size), Packed::Gzip),
                (layer("ccc", size), Packed::Zstd),
            ],
            ARCH,
        );
        let fake = registry.block_on(Fake::start(move |asked| serve(&parts, asked)));
        let name = format!("{}/team/step{step}:1", fake.address);
        let acknowledged = life(&disk, async |host| {
            pull_until(host, &name, step, &disk).await
        });
        disk.unmount();
        disk.mount();
        life(&disk, async |host| {
            let mut there = whole(host).await;
            if acknowledged {
                assert!(there.contains(&name), "{name} is not among {there:?}");
            }
            there.retain(|n| *n != name);
            assert_eq!(there, kept, "after {step} events");
            pull(host, &name, PullPolicy::Always).await.unwrap();
            kept = whole(host).await;
            assert!(kept.contains(&name));
        });
        if acknowledged {
            assert!(step > 5, "a pull tells of each layer, not in {step} events");
            break;
        }
    }
    disk.unmount();
}
