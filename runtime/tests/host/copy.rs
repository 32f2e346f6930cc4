//! Files out of and into containers that run and that have ended.

use crate::site::{Site, with_site};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::io::Read;
use swarm_api::backend::FileKind;
use swarm_api::model::{Mount, MountSource, Task};
use swarm_api::{Backend, Error};
use tar::{Builder, Header};

/// One file as an archive.
fn file(name: &str, text: &str) -> swarm_api::BoxStream<swarm_api::Result<Bytes>> {
    let mut tar = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    header.set_uid(7);
    header.set_gid(0);
    tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    stream::iter([Ok(tar.into_inner().unwrap().into())]).boxed()
}

/// The text of the one file at `path`, and its owner.
async fn text(site: &Site, task: &str, path: &str) -> swarm_api::Result<(String, u64)> {
    let archive = site.host.copy_out(task.into(), path.into()).await?;
    let pieces: Vec<Bytes> = archive.try_collect().await?;
    let bytes = pieces.concat();
    let mut archive = tar::Archive::new(&bytes[..]);
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    let mut text = String::new();
    entry.read_to_string(&mut text).unwrap();
    let owner = entry.header().uid().unwrap();
    Ok((text, owner))
}

async fn read(site: &Site, task: &str, path: &str) -> String {
    text(site, task, path).await.unwrap().0
}

async fn put(site: &Site, task: &str, folder: &str, name: &str) -> swarm_api::Result<()> {
    let archive = file(name, "from outside");
    site.host.copy_in(task.into(), folder.into(), archive).await
}

async fn ended(site: &Site) {
    let ended = |tasks: &[Task]| tasks.iter().all(|t| t.status.state.is_final());
    site.until("it has ended", ended).await;
}

pub(crate) fn files_are_copied_while_a_container_runs_and_after_its_end() {
    with_site(async |site| {
        let data = site.temp.path().join("data");
        let host = site.temp.path().join("of-host");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::create_dir(&host).unwrap();
        std::fs::write(host.join("file"), "of the host").unwrap();
        let script = "echo written > /tmp/file; echo kept > /vol/file; ln -s /vol /tmp/link; \
                      echo lost > /mem/file; echo up; read wait";
        let mut spec = site.spec("box", script);
        spec.task.stdin = true;
        let mount = |source, target: &str, read_only| Mount {
            source,
            target: target.into(),
            read_only,
        };
        let of_host = MountSource::Bind(host.to_str().unwrap().into());
        spec.task.mounts = vec![
            mount(MountSource::Volume("kept".into()), "/vol", false),
            mount(of_host, "/host", true),
            mount(MountSource::Tmpfs, "/mem", false),
        ];
        site.create(spec).await;
        site.until_running(1).await;
        let up = swarm_api::backend::LogOptions {
            follow: true,
            ..Default::default()
        };
        let mut log = site.host.logs("box".into(), up).await.unwrap();
        log.next().await.unwrap().unwrap();
        drop(log);

        let check = async |mem: Option<&str>| {
            assert_eq!(read(&site, "box", "/tmp/file").await, "written\n");
            assert_eq!(read(&site, "box", "/tmp/link/file").await, "kept\n");
            assert_eq!(read(&site, "box", "/host/file").await, "of the host");
            assert!(read(&site, "box", "/etc/hosts").await.contains("localhost"));
            assert!(read(&site, "box", "/etc/passwd").await.contains("guest"));
            let found = text(&site, "box", "/mem/file").await.map(|(t, _)| t);
            match (mem, found) {
                (Some(text), Ok(found)) => assert_eq!(found, text),
                (None, Err(Error::NotFound(_))) => {}
                (_, found) => panic!("{found:?}"),
            }
            let stat = site.host.stat_path("box".into(), "/tmp/link".into()).await;
            let stat = stat.unwrap();
            assert_eq!(
                (stat.kind, stat.target.as_str()),
                (FileKind::Symlink, "/vol")
            );
            let why = site.host.stat_path("box".into(), "/no/such".into()).await;
            let why = why.unwrap_err();
            assert!(
                matches!(&why, Error::NotFound(w) if w.contains("box.1") && w.contains("/no/such")),
                "{why}"
            );
            put(&site, "box", "/tmp/link", "new").await.unwrap();
            put(&site, "box", "/tmp", "new").await.unwrap();
            put(&site, "box", "/etc", "hosts").await.unwrap();
            assert_eq!(read(&site, "box", "/etc/hosts").await, "from outside");
            let (in_root, owner) = text(&site, "box", "/tmp/new").await.unwrap();
            assert_eq!((in_root.as_str(), owner), ("from outside", 7));
            let in_volume = site.temp.path().join("data/volumes/kept/new");
            assert_eq!(std::fs::read_to_string(&in_volume).unwrap(), "from outside");
            std::fs::remove_file(in_volume).unwrap();
            let why = put(&site, "box", "/host", "new").await.unwrap_err();
            assert!(
                matches!(&why, Error::Conflict(w) if w.contains("read-only")),
                "{why}"
            );
            let folder = text(&site, "box", "/tmp").await.unwrap();
            assert_eq!(folder.0, "");
        };
        check(Some("lost\n")).await;
        let seen = swarm_api::backend::ExecSpec {
            args: vec!["cat".into(), "/tmp/new".into()],
            ..Default::default()
        };
        let (out, ..) = site.exec("box", seen).await.unwrap();
        assert_eq!(out, "from outside");
        site.host.stop("box".into(), None).await.unwrap();
        ended(&site).await;
        // /etc/hosts is the host's file that was mounted there, and was written to above.
        let hosts = std::fs::read_dir(site.temp.path().join("data/host/tasks")).unwrap();
        for task in hosts.flatten() {
            std::fs::write(task.path().join("hosts"), "127.0.0.1 localhost\n").unwrap();
        }
        check(None).await;
        site
    });
}

pub(crate) fn owners_are_the_container_s_own_also_in_a_user_namespace() {
    with_site(async |site| {
        let mut spec = site.spec("box", "touch /tmp/file; echo up; sleep 1000");
        spec.task.user_namespace = true;
        site.create(spec).await;
        site.until_running(1).await;
        put(&site, "box", "/tmp", "new").await.unwrap();
        for _ in 0..2 {
            assert_eq!(text(&site, "box", "/tmp/new").await.unwrap().1, 7);
            assert_eq!(text(&site, "box", "/etc/passwd").await.unwrap().1, 0);
            site.host.stop("box".into(), None).await.unwrap();
            ended(&site).await;
        }
        site
    });
}

pub(crate) fn a_read_only_container_takes_nothing_in() {
    with_site(async |site| {
        let mut spec = site.spec("box", "sleep 1000");
        spec.task.read_only = true;
        site.create(spec).await;
        site.until_running(1).await;
        for _ in 0..2 {
            let why = put(&site, "box", "/tmp", "new").await.unwrap_err();
            assert!(matches!(&why, Error::Conflict(_)), "{why}");
            assert!(read(&site, "box", "/etc/passwd").await.contains("guest"));
            site.host.stop("box".into(), None).await.unwrap();
            ended(&site).await;
        }
        site
    });
}
