//! Images into registries: into Debian's docker-registry, and into one that breaks off.

use crate::fake::{Asked, Fake, Reply};
use crate::image::{Packed, Parts, digest, layer};
use crate::real::{Registry, trusting};
use crate::{ARCH, host, pull};
use futures_util::{StreamExt, stream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use swarm_api::backend::{PullPolicy, PushEvent, Pushed};
use swarm_api::{Backend, Result};
use swarm_runtime::host::Host;
use swarm_runtime::registry::{Proxies, RegistryConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn push(host: &Host, name: &str, to: Option<&str>) -> Result<Pushed> {
    let mut events = host.push_image(name.into(), to.map(Into::into)).await?;
    while let Some(event) = events.next().await {
        match event? {
            PushEvent::Layer(layer) => assert!(layer.done <= layer.total),
            PushEvent::Done(pushed) => return Ok(pushed),
        }
    }
    panic!("the push ended without a word")
}

/// The manifest as it stands in the registry.
fn raw(name: &str) -> serde_json::Value {
    let output = Command::new("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false"])
        .arg(format!("docker://{name}"))
        .output()
        .expect("skopeo is installed (tests/install-deps.sh)");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn load(host: &Host, name: &str, layout: &Path) {
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all(".", layout).unwrap();
    let archive = archive.into_inner().unwrap();
    let pieces = stream::iter([Ok(archive.into())]).boxed();
    host.load_images(Some(name.into()), pieces).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_keeps_its_configuration_and_what_is_there_is_not_sent_again() {
    let registry = Registry::start(false);
    let temp = tempfile::tempdir().unwrap();
    let parts = Parts::new(
        &[
            (layer("one", 400_000), Packed::Gzip),
            (layer("second", 300_000), Packed::Zstd),
            (layer("the-third", 200_000), Packed::Plain),
        ],
        ARCH,
    );
    registry.put(&parts, "team/web:1", &["--preserve-digests"]);
    let own = host(&temp.path().join("one"), RegistryConfig::default()).await;
    let name = registry.name("team/web:1");
    let image = pull(&own, &name, PullPolicy::Missing).await.unwrap();
    assert_eq!(image.digest, digest(&parts.config));
    // The registry has all of it in another repository: not a byte is sent, and the manifest is the same.
    let pushed = push(&own, &name, Some(&registry.name("other:2")))
        .await
        .unwrap();
    assert_eq!(pushed.digest, parts.digest());
    assert_eq!(pushed.reference.to_string(), registry.name("other:2"));

    // What came without a registry is compressed anew.
    let fresh = host(&temp.path().join("two"), RegistryConfig::default()).await;
    let layout = temp.path().join("layout");
    parts.layout(&layout);
    let name = registry.name("new/web:1");
    load(&fresh, &name, &layout).await;
    let pushed = push(&fresh, &name, None).await.unwrap();
    let manifest = raw(&name);
    assert_eq!(manifest["config"]["digest"], digest(&parts.config));
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 3);
    let again = push(&fresh, &name, Some(&registry.name("new/web:2")))
        .await
        .unwrap();
    assert_eq!(again.digest, pushed.digest);

    let third = host(&temp.path().join("three"), RegistryConfig::default()).await;
    let back = pull(&third, &name, PullPolicy::Missing).await.unwrap();
    assert_eq!(
        (back.digest, back.layers, back.manifest),
        (
            digest(&parts.config),
            parts.diff_ids.clone(),
            Some(pushed.digest)
        )
    );
    let by_digest = registry.name(&format!("new/web@{}", parts.digest()));
    let why = push(&fresh, &name, Some(&by_digest))
        .await
        .unwrap_err()
        .to_string();
    assert!(why.contains("name a tag"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_asks_who_one_is_takes_an_image_from_whom_it_knows() {
    let registry = Registry::start(true);
    let temp = tempfile::tempdir().unwrap();
    let parts = Parts::new(&[(layer("one", 100_000), Packed::Gzip)], ARCH);
    let (config, credentials) = trusting(&registry, temp.path());
    let host = host(temp.path(), config).await;
    let layout = temp.path().join("layout");
    parts.layout(&layout);
    let name = registry.name("team/web:1");
    load(&host, &name, &layout).await;
    let why = push(&host, &name, None).await.unwrap_err().to_string();
    assert!(why.contains("docker login"), "{why}");
    registry.write_credentials(&credentials);
    let pushed = push(&host, &name, None).await.unwrap();
    let other = registry.name("team/web:1");
    let back = pull(&host, &other, PullPolicy::Always).await.unwrap();
    assert_eq!(back.manifest, Some(pushed.digest));
    assert_eq!(back.digest, digest(&parts.config));
}

/// A blob that comes in pieces.
#[derive(Default)]
struct Store {
    blob: Vec<u8>,
    pieces: usize,
    whole: Vec<String>,
}

fn take(store: &Mutex<Store>, asked: &Asked) -> Reply {
    let mut store = store.lock().unwrap();
    let upload = "/v2/web/blobs/uploads/1";
    match asked.method.as_str() {
        "HEAD" => Reply::status(404),
        "POST" => {
            store.blob.clear();
            Reply::status(202).with("location", format!("{upload}?state=0"))
        }
        "PATCH" => {
            assert_eq!(
                asked.header("content-range").split('-').next().unwrap(),
                store.blob.len().to_string()
            );
            store.pieces += 1;
            if store.pieces == 2 {
                // Half of it comes, and no answer that says so.
                let half = asked.body.len() / 2;
                store.blob.extend_from_slice(&asked.body[..half]);
                return Reply::status(500);
            }
            store.blob.extend_from_slice(&asked.body);
            let pieces = store.pieces;
            Reply::status(202).with("location", format!("{upload}?state={pieces}"))
        }
        // As registries have it, `0-0` is said of nothing too.
        "GET" => Reply::status(204)
            .with("range", format!("0-{}", store.blob.len().saturating_sub(1)))
            .with("location", format!("{upload}?state=again")),
        "PUT" if asked.path.contains("/manifests/") => {
            let manifest: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
            let layer = manifest["layers"][0]["digest"].as_str().unwrap();
            assert!(store.whole.contains(&layer.to_owned()), "{layer}");
            Reply::status(201)
        }
        "PUT" => {
            store.blob.extend_from_slice(&asked.body);
            let wanted = asked
                .path
                .rsplit("digest=")
                .next()
                .unwrap()
                .replace("%3A", ":");
            assert_eq!(wanted, digest(&store.blob));
            store.whole.push(wanted);
            Reply::status(201)
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_goes_on_where_its_sending_broke_off() {
    let temp = tempfile::tempdir().unwrap();
    let parts = Parts::new(&[(layer("big", 17 << 20), Packed::Plain)], ARCH);
    let layout = temp.path().join("layout");
    parts.layout(&layout);
    let store: Arc<Mutex<Store>> = Arc::default();
    let taking = Arc::clone(&store);
    let fake = Fake::start(move |asked| take(&taking, asked)).await;
    let host = host(temp.path(), RegistryConfig::default()).await;
    let name = format!("{}/web:1", fake.address);
    load(&host, &name, &layout).await;
    push(&host, &name, None).await.unwrap();
    let store = store.lock().unwrap();
    assert!(
        store.pieces >= 3 && store.whole.len() == 2,
        "{}",
        store.pieces
    );
}

/// A proxy that leads every name to one port of this host. How often it was asked.
async fn proxy(port: u16) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                log.lock().unwrap().push(String::from_utf8(head).unwrap());
                let mut on = tokio::net::TcpStream::connect(("127.0.0.1", port))
                    .await
                    .unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut on).await;
            });
        }
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_behind_a_proxy_is_reached_on_few_connections() {
    let registry = Registry::start(true);
    let temp = tempfile::tempdir().unwrap();
    let layers: Vec<_> = (1..9)
        .map(|n| (layer(&"n".repeat(n), 20_000), Packed::Gzip))
        .collect();
    let parts = Parts::new(&layers, ARCH);
    registry.put(&parts, "web:1", &["--dest-creds", "u:p"]);
    let (address, asked) = proxy(registry.port).await;
    let (mut config, credentials) = trusting(&registry, temp.path());
    let whole = |name: &str| (name == "https_proxy").then(|| format!("http://me:secret@{address}"));
    config.proxies = Proxies::read(whole).unwrap();
    std::fs::write(&credentials, r#"{"auths":{"reg.test":{"auth":"dTpw"}}}"#).unwrap();
    registry.trust(config.ca_dir.as_deref().unwrap(), "reg.test");
    let host = host(temp.path(), config).await;
    let image = pull(&host, "reg.test/web:1", PullPolicy::Missing)
        .await
        .unwrap();
    assert_eq!(image.layers, parts.diff_ids);
    let asked = asked.lock().unwrap();
    assert!(
        asked[0].starts_with("CONNECT reg.test:443 HTTP/1.1\r\n"),
        "{}",
        asked[0]
    );
    assert!(asked[0].contains("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n"));
    // Eleven requests and more, of which three at once.
    assert!(asked.len() <= 4, "{}", asked.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_without_tls_is_asked_by_its_proxy_with_its_whole_address() {
    let temp = tempfile::tempdir().unwrap();
    let parts = Parts::new(&[(layer("one", 10_000), Packed::Gzip)], ARCH);
    let served = Parts::new(&[(layer("one", 10_000), Packed::Gzip)], ARCH);
    let fake = Fake::start(move |asked| {
        if asked.method == "CONNECT" {
            return Reply::status(403);
        }
        assert!(
            asked.path.starts_with("http://plain.test/v2/web/"),
            "{}",
            asked.path
        );
        crate::serve(&served, asked)
    })
    .await;
    let address = fake.address.to_string();
    let config = RegistryConfig {
        insecure: vec!["plain.test".into()],
        proxies: Proxies::read(|name| (name == "ALL_PROXY").then(|| address.clone())).unwrap(),
        ..RegistryConfig::default()
    };
    let host = host(temp.path(), config).await;
    let image = pull(&host, "plain.test/web:1", PullPolicy::Missing)
        .await
        .unwrap();
    assert_eq!(image.layers, parts.diff_ids);
}
