//! Logs of containers.

use crate::site::{Options, with_site};
use bytes::Bytes;
use futures_util::StreamExt;
use swarm_api::backend::{LogOptions, LogStream};

fn texts(lines: Vec<(LogStream, Bytes)>) -> Vec<String> {
    lines
        .into_iter()
        .map(|(_, data)| String::from_utf8(data.to_vec()).unwrap())
        .collect()
}

pub(crate) fn bytes_that_are_no_text_are_kept() {
    with_site(async |site| {
        site.run(
            "one",
            r"printf '\377\376\000x\n\303'; printf '\244\n'",
            Options::default(),
        )
        .await;
        site.wait("one").await;
        let lines = site.logs("one", LogOptions::default()).await;
        let data: Vec<&[u8]> = lines.iter().map(|l| l.1.as_ref()).collect();
        assert_eq!(data, [&b"\xff\xfe\0x\n"[..], "ä\n".as_bytes()]);
        let (out, _, _) = site.attach("one", true).await.finish().await;
        assert_eq!(out, b"\xff\xfe\0x\n\xc3\xa4\n");
        site.delete("one").await;
    });
}

pub(crate) fn a_tail_and_a_time_are_kept_to() {
    with_site(async |site| {
        let options = Options {
            stdin: true,
            ..Options::default()
        };
        site.run("one", "seq 1 10; read line; sleep 0.02; seq 11 20", options)
            .await;
        let mut joined = site.attach("one", true).await;
        joined.expect("10\n").await;
        joined.send_bytes(b"\n");
        joined.finish().await;
        site.wait("one").await;
        let tail = LogOptions {
            tail: Some(3),
            ..LogOptions::default()
        };
        assert_eq!(
            texts(site.logs("one", tail).await),
            ["18\n", "19\n", "20\n"]
        );
        let log = site
            .engine
            .logs("one", LogOptions::default())
            .await
            .unwrap();
        let all: Vec<_> = log.map(Result::unwrap).collect().await;
        let from = all.iter().find(|l| l.2 == "11\n").unwrap().0;
        let since = LogOptions {
            since: Some(from),
            ..LogOptions::default()
        };
        assert_eq!(texts(site.logs("one", since).await)[0], "11\n");
        let both = LogOptions {
            since: Some(from),
            tail: Some(15),
            follow: true,
        };
        assert_eq!(site.logs("one", both).await.len(), 10);
        site.delete("one").await;
    });
}

pub(crate) fn following_ends_with_the_container() {
    with_site(async |site| {
        let options = Options {
            stdin: true,
            ..Options::default()
        };
        site.run(
            "one",
            "echo one; read line; echo two; printf three",
            options,
        )
        .await;
        let follow = LogOptions {
            follow: true,
            ..LogOptions::default()
        };
        let mut log = site.engine.logs("one", follow).await.unwrap();
        assert_eq!(log.next().await.unwrap().unwrap().2, "one\n");
        let joined = site.attach("one", false).await;
        joined.send_bytes(b"\n");
        let rest: Vec<_> = log.map(|l| l.unwrap().2).collect().await;
        assert_eq!(rest, ["two\n", "three"]);
        site.wait("one").await;
        site.delete("one").await;
    });
}

pub(crate) fn following_goes_over_rotations() {
    with_site(async |site| {
        let options = Options {
            stdin: true,
            log_max_bytes: 2000,
            ..Options::default()
        };
        let script = "for i in 1 2 3 4 5 6 7 8; do seq 1 100; read line; done";
        site.create("one", script, options).await;
        let follow = LogOptions {
            follow: true,
            ..LogOptions::default()
        };
        let mut log = site.engine.logs("one", follow).await.unwrap();
        site.engine.start("one").await.unwrap();
        let joined = site.attach("one", false).await;
        for _ in 0..8 {
            for n in 1..=100 {
                assert_eq!(log.next().await.unwrap().unwrap().2, format!("{n}\n"));
            }
            joined.send_bytes(b"\n");
        }
        assert!(log.next().await.is_none());
        site.delete("one").await;
    });
}

pub(crate) fn the_log_is_bounded() {
    with_site(async |site| {
        let options = Options {
            log_max_bytes: 50_000,
            ..Options::default()
        };
        site.run("one", "seq 1 100000", options).await;
        site.wait("one").await;
        let dir = site.config.state_dir.join("one");
        let logs = std::fs::read_dir(&dir)
            .unwrap()
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with("log."));
        let sizes: Vec<u64> = logs.map(|e| e.metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|s| *s <= 50_000), "{sizes:?}");
        let lines = texts(site.logs("one", LogOptions::default()).await);
        assert_eq!(lines.last().unwrap(), "100000\n");
        assert!(lines.len() > 2000, "{} lines", lines.len());
        site.delete("one").await;
    });
}
