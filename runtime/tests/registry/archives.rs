//! Archives of images: ours are read by skopeo, and skopeo's by us, whatever the kind.

use crate::image::{Packed, Parts, layer};
use crate::{ARCH, host};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use swarm_api::model::Image;
use swarm_api::{Backend, Error, Result};
use swarm_runtime::host::Host;
use swarm_runtime::registry::RegistryConfig;

fn skopeo(args: &[&str]) -> String {
    let output = Command::new("skopeo")
        .arg("--insecure-policy")
        .args(args)
        .output();
    let output = output.expect("skopeo is installed (tests/install-deps.sh)");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

async fn load(host: &Host, name: Option<&str>, archive: Vec<u8>) -> Result<Vec<Image>> {
    let pieces: Vec<_> = archive
        .chunks(10_000)
        .map(|p| Ok(Bytes::copy_from_slice(p)))
        .collect();
    host.load_images(name.map(Into::into), stream::iter(pieces).boxed())
        .await
}

async fn save(host: &Host, names: &[&str], file: &Path) {
    let names = names.iter().map(ToString::to_string).collect();
    let archive: Vec<Bytes> = host
        .save_images(names)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    std::fs::write(file, archive.concat()).unwrap();
}

/// Docker's archives know no zstd.
fn parts() -> Parts {
    let (one, second) = (layer("one", 300_000), layer("second", 100_000));
    Parts::new(&[(one, Packed::Gzip), (second, Packed::Plain)], ARCH)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_skopeo_writes_is_taken_in() {
    let temp = tempfile::tempdir().unwrap();
    let at = temp.path().display();
    let parts = parts();
    parts.layout(&temp.path().join("layout"));
    let host = host(temp.path(), RegistryConfig::default()).await;
    for (kind, name) in [
        ("docker-archive", "a.example/team/web:1"),
        ("oci-archive", "b.example/web:2"),
    ] {
        let file = temp.path().join(kind);
        skopeo(&[
            "copy",
            "-q",
            &format!("oci:{at}/layout:latest"),
            &format!("{kind}:{at}/{kind}:{name}"),
        ]);
        let archive = std::fs::read(&file).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&archive).unwrap();
        for archive in [archive, gzip.finish().unwrap()] {
            let loaded = load(&host, None, archive.clone()).await.unwrap();
            assert_eq!(
                (loaded.len(), loaded[0].reference.to_string().as_str()),
                (1, name)
            );
            assert_eq!(loaded[0].layers, parts.diff_ids);
            assert_eq!(loaded[0].config.env, ["A=b"]);
            let loaded = load(&host, Some("other"), archive).await.unwrap();
            assert_eq!(loaded[0].reference.to_string(), "other:latest");
        }
    }
    assert_eq!(host.images().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_saved_is_read_by_skopeo_and_by_another_host() {
    let temp = tempfile::tempdir().unwrap();
    let at = temp.path().display();
    let parts = parts();
    parts.layout(&temp.path().join("layout"));
    let one = host(&temp.path().join("1"), RegistryConfig::default()).await;
    let two = host(&temp.path().join("2"), RegistryConfig::default()).await;
    skopeo(&[
        "copy",
        "-q",
        &format!("oci:{at}/layout:latest"),
        &format!("oci-archive:{at}/in.tar:a.example/web:1"),
    ]);
    let archive = std::fs::read(temp.path().join("in.tar")).unwrap();
    load(&one, None, archive.clone()).await.unwrap();
    load(&one, Some("short"), archive).await.unwrap();
    let file = temp.path().join("out.tar");
    save(&one, &["a.example/web:1", "short"], &file).await;
    for source in ["docker-archive", "oci-archive"] {
        let name = "a.example/web:1";
        let to = format!("{at}/{source}-copy");
        skopeo(&[
            "copy",
            "-q",
            &format!("{source}:{at}/out.tar:{name}"),
            &format!("dir:{to}"),
        ]);
        let told = skopeo(&["inspect", "--config", &format!("dir:{to}")]);
        for diff_id in &parts.diff_ids {
            assert!(told.contains(diff_id), "{source}: {told}");
        }
        assert!(
            told.contains("\"A=b\"") && told.contains("\"1:1\""),
            "{told}"
        );
    }
    let loaded = load(&two, None, std::fs::read(&file).unwrap())
        .await
        .unwrap();
    let of = |images: &[Image]| -> Vec<_> {
        images
            .iter()
            .map(|i| (i.reference.to_string(), i.digest.clone()))
            .collect()
    };
    let mut loaded = of(&loaded);
    loaded.sort();
    assert_eq!(loaded, of(&one.images()));
    let why = one.save_images(vec!["nothing".into()]).await.err().unwrap();
    assert!(matches!(why, Error::NotFound(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_lies_leaves_nothing_behind() {
    let temp = tempfile::tempdir().unwrap();
    let host = host(temp.path(), RegistryConfig::default()).await;
    let parts = parts();
    let archive = |files: &[(&str, &[u8])]| {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            // Past what the library would refuse to write.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            archive.append(&header, *content).unwrap();
        }
        archive.into_inner().unwrap()
    };
    let manifest = br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["x","y"]}]"#;
    let outside = br#"[{"Config":"../../../etc/passwd","RepoTags":["a:1"],"Layers":[]}]"#;
    for (what, archive, word) in [
        ("rubbish", vec![b'x'; 2048], "no archive of images"),
        ("empty", archive(&[]), "manifest.json"),
        (
            "a root file system",
            archive(&[("etc/passwd", b"x")]),
            "image import",
        ),
        (
            "no config",
            archive(&[("manifest.json", manifest)]),
            "lacks c.json",
        ),
        ("outside", archive(&[("manifest.json", outside)]), "lacks"),
        (
            "swapped layers",
            archive(&[
                ("manifest.json", manifest),
                ("c.json", &parts.config),
                ("x", &parts.blobs[1]),
                ("y", &parts.blobs[0]),
            ]),
            "not the layer",
        ),
        (
            "a path that leads out",
            archive(&[("../../escaped", b"x"), ("manifest.json", b"[]")]),
            "no image in it",
        ),
    ] {
        let why = load(&host, None, archive).await.unwrap_err().to_string();
        assert!(why.contains(word) && !why.contains('\n'), "{what}: {why}");
        assert!(host.images().is_empty(), "{what}");
    }
    let left = std::fs::read_dir(temp.path().join("data/layers")).unwrap();
    let left: Vec<_> = left
        .flatten()
        .map(|e| e.file_name())
        .filter(|n| n.to_string_lossy().starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!temp.path().join("escaped").exists());
}
