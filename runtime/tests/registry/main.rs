//! Images come whole from registries: from Debian's docker-registry, and from some that break off, lie or ask who one
//! is.

#![allow(clippy::unwrap_used, missing_docs)]

mod archives;
mod fake;
mod image;
mod power;
mod push;
mod real;

use fake::{Asked, Fake, Reply};
use futures_util::StreamExt;
use image::{Packed, Parts, digest, layer};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use swarm_api::backend::{PullEvent, PullOptions, PullPolicy};
use swarm_api::model::Image;
use swarm_api::{Backend, Error, Result};
use swarm_runtime::host::{Host, HostConfig};
use swarm_runtime::registry::RegistryConfig;

const ARCH: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

async fn host(dir: &Path, registry: RegistryConfig) -> Arc<Host> {
    Host::open(HostConfig {
        data_dir: dir.join("data"),
        run_dir: dir.join("run"),
        cgroup_parent: "/swarm-registry-test".into(),
        node_name: "host1".into(),
        // No container is made.
        shim: Vec::new(),
        version: "1".into(),
        builtin: Vec::new(),
        registry,
        gc: swarm_runtime::host::GcPolicy::OFF,
    })
    .await
    .unwrap()
}

async fn pull(host: &Host, name: &str, policy: PullPolicy) -> Result<Image> {
    let mut events = host
        .pull_image(
            name.into(),
            PullOptions {
                policy,
                ..PullOptions::default()
            },
        )
        .await?;
    let mut ready = 0;
    while let Some(event) = events.next().await {
        match event? {
            PullEvent::Layer(layer) => {
                assert!(layer.done <= layer.total);
                ready += usize::from(layer.ready);
            }
            PullEvent::Resolved(digest) => assert!(digest.starts_with("sha256:")),
            PullEvent::Node(node) => panic!("a host alone knows no node {}", node.name),
            PullEvent::Done(image) => {
                assert!(ready <= image.layers.len());
                assert!(host.has_layers(&image).is_empty());
                return Ok(image);
            }
        }
    }
    panic!("the pull ended without an image");
}

/// Serves `parts` under every name and tag.
fn serve(parts: &Parts, asked: &Asked) -> Reply {
    let last = asked.path.rsplit('/').next().unwrap_or_default();
    if asked.path.contains("/manifests/") && !last.starts_with("sha256:") {
        return Reply::ok(parts.manifest.clone());
    }
    match parts.blob(last) {
        Some(blob) => Reply::ok(blob),
        None => Reply::status(404),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_breaks_off_goes_on_where_it_broke() {
    let temp = tempfile::tempdir().unwrap();
    let parts = Parts::new(
        &[
            (layer("a", 300_000), Packed::Plain),
            (layer("bb", 200_000), Packed::Gzip),
        ],
        ARCH,
    );
    let (big, whole) = (digest(&parts.blobs[0]), parts.blobs[0].clone());
    let (config, count) = (parts.config.clone(), AtomicUsize::new(0));
    let diff_ids = parts.diff_ids.clone();
    let fake = Fake::start(move |asked| {
        if !asked.path.ends_with(&big) {
            return serve(&parts, asked);
        }
        // The second answer does not know of ranges, the third does.
        match count.fetch_add(1, Ordering::Relaxed) {
            0 => Reply {
                cut: Some(100_000),
                ..Reply::ok(whole.clone())
            },
            1 => Reply {
                cut: Some(200_000),
                ..Reply::ok(whole.clone())
            },
            _ => {
                let from = asked
                    .header("range")
                    .strip_prefix("bytes=")
                    .and_then(|r| r.strip_suffix('-'));
                let from: usize = from.unwrap().parse().unwrap();
                assert!(from > 0);
                Reply {
                    status: 206,
                    ..Reply::ok(&whole[from..])
                }
                .with(
                    "content-range",
                    format!("bytes {from}-{}/{}", whole.len() - 1, whole.len()),
                )
            }
        }
    })
    .await;
    let host = host(temp.path(), RegistryConfig::default()).await;
    let image = pull(
        &host,
        &format!("{}/team/web:1", fake.address),
        PullPolicy::Missing,
    )
    .await
    .unwrap();
    assert_eq!(image.layers, diff_ids);
    assert_eq!(
        (
            image.config.user.as_str(),
            image.config.working_dir.as_str()
        ),
        ("1:1", "/tmp")
    );
    assert!(digest(&config).starts_with("sha256:") && image.size > 500_000);
    assert_eq!(image.created_at.0, 1_767_323_045_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_kept_that_has_not_its_digest() {
    let temp = tempfile::tempdir().unwrap();
    let good = Parts::new(&[(layer("a", 50_000), Packed::Plain)], ARCH);
    let other = Parts::new(&[(layer("b!", 50_000), Packed::Plain)], ARCH);
    let (blob, wrong) = (digest(&good.blobs[0]), other.blobs[0].clone());
    let (manifest, config) = (good.digest(), digest(&good.config));
    let fake = Fake::start(move |asked| {
        let repository = asked.path.split('/').nth(2).unwrap_or_default();
        match repository {
            "blob" if asked.path.ends_with(&blob) => Reply::ok(wrong.clone()),
            "short" if asked.path.ends_with(&blob) => Reply::ok(&wrong[..1000]),
            "config" if asked.path.ends_with(&config) => Reply::ok(other.config.clone()),
            "manifest" if asked.path.contains("/manifests/") => Reply::ok(other.manifest.clone()),
            "large" if asked.path.contains("/manifests/") => Reply::ok(vec![b' '; 5 << 20]),
            _ => serve(&good, asked),
        }
    })
    .await;
    let host = host(temp.path(), RegistryConfig::default()).await;
    for (name, word) in [
        ("blob:1".to_owned(), "digest"),
        ("short:1".into(), "broke off"),
        ("config:1".into(), "digest"),
        (format!("manifest@{manifest}"), "digest"),
        ("large:1".into(), "larger"),
    ] {
        let why = pull(
            &host,
            &format!("{}/{name}", fake.address),
            PullPolicy::Missing,
        )
        .await
        .unwrap_err();
        assert!(why.to_string().contains(word), "{name}: {why}");
        assert!(host.images().is_empty());
    }
    let good = pull(
        &host,
        &format!("{}/good@{manifest}", fake.address),
        PullPolicy::Missing,
    )
    .await
    .unwrap();
    assert_eq!(good.manifest.as_deref(), Some(manifest.as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_fetched_and_shown_to_nobody_else() {
    let temp = tempfile::tempdir().unwrap();
    let parts = Parts::new(&[(layer("a", 1000), Packed::Zstd)], ARCH);
    let blob = digest(&parts.blobs[0]);
    let content = parts.blobs[0].clone();
    let store = Fake::start(move |_| Reply::ok(content.clone())).await;
    let elsewhere = format!("http://{}/somewhere", store.address);
    let realm = Arc::new(std::sync::OnceLock::<String>::new());
    let told = Arc::clone(&realm);
    let fake = Fake::start(move |asked| {
        if asked.path.starts_with("/token?") {
            assert_eq!(asked.header("authorization"), "Basic dTpw");
            assert!(
                asked.path.contains("scope=repository%3Ateam%2Fweb%3Apull"),
                "{}",
                asked.path
            );
            return Reply::ok(r#"{"token":"abc"}"#);
        }
        if asked.header("authorization") != "Bearer abc" {
            let realm = told.get().cloned().unwrap_or_default();
            return Reply::status(401).with(
                "www-authenticate",
                format!(
                    "Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:team/web:pull\""
                ),
            );
        }
        if asked.path.ends_with(&blob) {
            return Reply::status(307).with("location", elsewhere.clone());
        }
        serve(&parts, asked)
    })
    .await;
    realm.set(format!("http://{}/token", fake.address)).unwrap();
    let file = temp.path().join("config.json");
    let auths = format!(r#"{{"auths":{{"{}":{{"auth":"dTpw"}}}}}}"#, fake.address);
    std::fs::write(&file, auths).unwrap();
    let config = RegistryConfig {
        credentials: Some(file),
        ..RegistryConfig::default()
    };
    let host = host(temp.path(), config).await;
    let name = format!("{}/team/web", fake.address);
    pull(&host, &name, PullPolicy::Missing).await.unwrap();
    assert!(
        store
            .asked()
            .iter()
            .all(|a| a.header("authorization").is_empty())
    );
    assert!(!store.asked().is_empty());
    // It is here now; only `always` asks again, and fetches nothing that is here.
    let before = fake.asked().len();
    pull(&host, &name, PullPolicy::Missing).await.unwrap();
    assert_eq!(fake.asked().len(), before);
    pull(&host, &name, PullPolicy::Always).await.unwrap();
    assert_eq!(fake.asked().len(), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_is_asked_first_and_done_without_where_it_fails() {
    let temp = tempfile::tempdir().unwrap();
    let parts = Arc::new(Parts::new(&[(layer("a", 1000), Packed::Gzip)], ARCH));
    let (at_mirror, at_own) = (Arc::clone(&parts), Arc::clone(&parts));
    let blob = digest(&parts.blobs[0]);
    let mirror = Fake::start(move |asked| {
        if asked.path.ends_with(&blob) {
            Reply::status(500)
        } else {
            serve(&at_mirror, asked)
        }
    })
    .await;
    let own = Fake::start(move |asked| serve(&at_own, asked)).await;
    let config = RegistryConfig {
        mirrors: vec![(own.address.to_string(), mirror.address.to_string())],
        default: Some(own.address.to_string()),
        ..RegistryConfig::default()
    };
    let host = host(temp.path(), config).await;
    // A short name, from the default registry.
    let image = pull(&host, "web:1", PullPolicy::Missing).await.unwrap();
    assert_eq!(image.reference.to_string(), "web:1");
    let paths: Vec<String> = own.asked().into_iter().map(|a| a.path).collect();
    assert!(
        paths.len() == 1 && paths[0].contains("/blobs/"),
        "{paths:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_had_is_said_in_one_line() {
    let temp = tempfile::tempdir().unwrap();
    let foreign = Parts::new(&[(layer("a", 100), Packed::Plain)], "mips64");
    let fake = Fake::start(move |asked| match asked.path.split('/').nth(2) {
        Some("foreign") => serve(&foreign, asked),
        Some("secret") => Reply::status(401).with("www-authenticate", "Basic realm=\"x\""),
        _ => Reply {
            status: 404,
            ..Reply::ok(r#"{"errors":[{"message":"manifest unknown"}]}"#)
        },
    })
    .await;
    let host = host(temp.path(), RegistryConfig::default()).await;
    let at = fake.address;
    for (name, word) in [
        (format!("{at}/nothing:1"), "manifest unknown"),
        (format!("{at}/foreign"), "mips64"),
        (format!("{at}/secret"), "user and a password"),
        ("127.0.0.1:1/a".into(), "127.0.0.1:1"),
        ("nginx".into(), "docker.io/library/nginx"),
    ] {
        let why = pull(&host, &name, PullPolicy::Missing).await.unwrap_err();
        let text = why.to_string();
        assert!(
            text.contains(word) && !text.contains('\n'),
            "{name}: {text}"
        );
        assert!(!matches!(why, Error::Internal(_)), "{name}: {why:?}");
    }
}
