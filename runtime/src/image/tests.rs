use super::*;
use futures_util::{StreamExt, stream};
use proptest::prelude::*;
use rustix::fs::{FileType, Mode};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use tar::{EntryType, Header};

/// A tar archive in the making.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, kind: EntryType, path: &str, link: &str, contents: &[u8]) -> Self {
        self.add(kind, path.as_bytes(), link.as_bytes(), contents, 0o755);
        self
    }

    fn add(&mut self, kind: EntryType, path: &[u8], link: &[u8], contents: &[u8], mode: u32) {
        let mut header = Header::new_gnu();
        // Not by the crate's setters: those refuse what a hostile archive says.
        let length = path.len().min(100);
        header.as_mut_bytes()[..length].copy_from_slice(&path[..length]);
        let length = link.len().min(100);
        header.as_mut_bytes()[157..157 + length].copy_from_slice(&link[..length]);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1000);
        header.set_gid(1001);
        header.set_mtime(1_000_000_000);
        header.set_size(contents.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(contents);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn file(self, path: &str, contents: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, "", contents)
    }

    fn dir(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, "", b"")
    }

    fn symlink(self, path: &str, to: &str) -> Self {
        self.entry(EntryType::Symlink, path, to, b"")
    }

    fn link(self, path: &str, to: &str) -> Self {
        self.entry(EntryType::Link, path, to, b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("data")).unwrap();
    (dir, store)
}

fn bytes(data: Vec<u8>) -> BoxStream<swarm_api::Result<Bytes>> {
    let chunks: Vec<_> = data
        .chunks(1000)
        .map(|c| Ok(Bytes::copy_from_slice(c)))
        .collect();
    stream::iter(chunks).boxed()
}

fn reference(text: &str) -> ImageReference {
    text.parse().unwrap()
}

async fn import(store: &Store, name: &str, data: Vec<u8>) -> swarm_api::Result<Image> {
    let config = ImageConfig::default();
    store
        .import(reference(name), config, bytes(data), Timestamp(1))
        .await
}

async fn export(store: &Store, digest: &str) -> swarm_api::Result<Vec<u8>> {
    let mut stream = store.export_layer(digest)?;
    let mut all = Vec::new();
    while let Some(chunk) = stream.next().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

fn tree(store: &Store, image: &Image) -> PathBuf {
    store.layer_dirs(&image.layers).unwrap().remove(0)
}

fn left(store: &Store) -> (usize, usize) {
    (
        entries(&store.inner.layers_dir).unwrap().len(),
        entries(&store.inner.images_dir).unwrap().len(),
    )
}

fn sha(data: &[u8]) -> String {
    archive::digest_of(Sha256::new_with_prefix(data))
}

#[tokio::test]
async fn an_imported_archive_comes_out_again_byte_for_byte() {
    let (_dir, store) = store();
    let data = Tar::default()
        .dir("./")
        .dir("etc/")
        .file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        .file("big", &vec![7; 300_000])
        .symlink("bin/sh", "busybox")
        .link("big-too", "big")
        .entry(EntryType::Fifo, "pipe", "", b"")
        .end();
    let image = import(&store, "a", data.clone()).await.unwrap();
    assert_eq!(image.layers, [sha(&data)]);
    assert_eq!(image.size, data.len() as u64);
    assert!(export(&store, &image.layers[0]).await.unwrap() == data);

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&data).unwrap();
    let same = import(&store, "b", gzip.finish().unwrap()).await.unwrap();
    assert_eq!(same.layers, image.layers);
    assert_eq!(same.digest, image.digest);
    assert_eq!(left(&store), (1, 2));

    let root = tree(&store, &image);
    let file = std::fs::metadata(root.join("big")).unwrap();
    assert_eq!(
        (file.uid(), file.gid(), file.mtime()),
        (1000, 1001, 1_000_000_000)
    );
    assert_eq!(file.nlink(), 2);
    assert_eq!(
        std::fs::read_link(root.join("bin/sh")).unwrap(),
        Path::new("busybox")
    );
    assert!(
        std::fs::metadata(root.join("pipe"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    assert_eq!(
        std::fs::metadata(root.join("etc")).unwrap().mtime(),
        1_000_000_000
    );
}

#[tokio::test]
async fn a_file_that_the_archive_replaces_itself_does_not_spoil_the_export() {
    let (_dir, store) = store();
    let data = Tar::default()
        .file("a/f", b"first")
        .link("a/g", "a/f")
        .file("a/f", b"second")
        .file("a/f", b"third")
        .symlink("b", "a")
        .file("b/h", b"behind a link")
        .file("b", b"a file now")
        .symlink("a/f", "h")
        .file("empty", b"")
        .end();
    let image = import(&store, "a", data.clone()).await.unwrap();
    let root = tree(&store, &image);
    assert_eq!(std::fs::read(root.join("a/f")).unwrap(), b"behind a link");
    assert_eq!(std::fs::read(root.join("a/g")).unwrap(), b"first");
    assert_eq!(std::fs::read(root.join("b")).unwrap(), b"a file now");
    assert!(export(&store, &image.layers[0]).await.unwrap() == data);
}

#[tokio::test]
async fn whiteouts_become_what_overlayfs_understands() {
    let (_dir, store) = store();
    let data = Tar::default()
        .file(".wh.gone", b"")
        .dir("etc")
        .file("etc/.wh..wh..opq", b"")
        .file(".wh.dir", b"")
        .dir("dir")
        .dir("here")
        .file(".wh.here", b"")
        .file(".wh.again", b"")
        .file("again", b"x")
        .file(".wh..wh.plnk", b"")
        .end();
    let image = import(&store, "a", data.clone()).await.unwrap();
    let root = tree(&store, &image);
    let gone = std::fs::symlink_metadata(root.join("gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for opaque in ["etc", "dir", "here"] {
        let mut value = [0; 8];
        let path = root.join(opaque);
        let length = rustix::fs::getxattr(&path, "trusted.overlay.opaque", &mut value).unwrap();
        assert_eq!(&value[..length], b"y", "{opaque}");
    }
    assert_eq!(std::fs::read(root.join("again")).unwrap(), b"x");
    let mut names: Vec<_> = entries(&root).unwrap();
    names.sort();
    let names: Vec<_> = names
        .iter()
        .filter_map(|p| p.file_name()?.to_str())
        .collect();
    assert_eq!(names, ["again", "dir", "etc", "gone", "here"]);
    assert!(export(&store, &image.layers[0]).await.unwrap() == data);
    for bad in [".wh.", ".wh..", ".wh...", "a/.wh.."] {
        let refused = import(&store, "b", Tar::default().file(bad, b"").end()).await;
        assert!(
            matches!(refused, Err(swarm_api::Error::Invalid(_))),
            "{bad}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn attributes_are_kept_but_never_overlayfs_own() {
    let (_dir, store) = store();
    let mut pax = Vec::new();
    for (key, value) in [
        ("SCHILY.xattr.user.note", "a\nb"),
        ("SCHILY.xattr.trusted.overlay.redirect", "/etc"),
        ("SCHILY.xattr.security.selinux", "x"),
        ("mtime", "1234567890.25"),
        ("path", &format!("{}/long", "d".repeat(150))),
    ] {
        let body = format!(" {key}={value}\n");
        let mut length = body.len() + 1;
        while length.to_string().len() + body.len() != length {
            length += 1;
        }
        pax.extend_from_slice(format!("{length}{body}").as_bytes());
    }
    let mut data = Tar::default().entry(EntryType::XHeader, "x", "", &pax);
    data.add(EntryType::Regular, b"short", b"", b"contents", 0o4755);
    let data = data.end();
    let image = import(&store, "a", data.clone()).await.unwrap();
    let path = tree(&store, &image).join("d".repeat(150)).join("long");
    let stat = std::fs::metadata(&path).unwrap();
    assert_eq!(stat.permissions().mode() & 0o7777, 0o4755);
    assert_eq!(
        (stat.mtime(), stat.mtime_nsec()),
        (1_234_567_890, 250_000_000)
    );
    let mut names = [0u8; 256];
    let length = rustix::fs::listxattr(&path, &mut names).unwrap();
    let names = String::from_utf8_lossy(&names[..length]).into_owned();
    assert!(!names.contains("trusted.overlay"), "{names:?}");
    if names.contains("user.note") {
        let mut value = [0u8; 8];
        let length = rustix::fs::getxattr(&path, "user.note", &mut value).unwrap();
        assert_eq!(&value[..length], b"a\nb");
    }
    assert!(export(&store, &image.layers[0]).await.unwrap() == data);
}

#[tokio::test]
async fn a_file_with_holes_is_whole() {
    let (_dir, store) = store();
    let mut header = Header::new_gnu();
    header.set_path("sparse").unwrap();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(8);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(1 << 20);
    gnu.sparse[0].set_offset(4096);
    gnu.sparse[0].set_length(5);
    gnu.sparse[1].set_offset(1_000_000);
    gnu.sparse[1].set_length(3);
    header.set_cksum();
    let mut data = header.as_bytes().to_vec();
    data.extend_from_slice(b"helloend");
    data.resize(1024 + 1024, 0);
    let image = import(&store, "a", data.clone()).await.unwrap();
    let file = std::fs::read(tree(&store, &image).join("sparse")).unwrap();
    assert_eq!(file.len(), 1 << 20);
    assert_eq!(&file[4096..4101], b"hello");
    assert_eq!(&file[1_000_000..1_000_003], b"end");
    assert_eq!(file.iter().filter(|b| **b != 0).count(), 8);
    assert!(export(&store, &image.layers[0]).await.unwrap() == data);
}

#[tokio::test]
async fn what_is_no_archive_is_refused_and_nothing_is_left() {
    let (_dir, store) = store();
    let good = Tar::default().file("a", &[1; 2000]).end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&good).unwrap();
    let gzip = gzip.finish().unwrap();
    let mut broken = good.clone();
    broken[10] ^= 1;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("rubbish", vec![b'x'; 4096], "not a tar archive"),
        ("nothing", Vec::new(), "not a tar archive"),
        ("short", vec![b'x'; 100], "not a tar archive"),
        (
            "gzip of nothing",
            vec![0x1f, 0x8b, 0, 0],
            "not a tar archive",
        ),
        ("cut", good[..1500].to_vec(), "ends within"),
        ("cut gzip", gzip[..gzip.len() / 2].to_vec(), "archive"),
        ("flipped", broken, "not a tar archive"),
        (
            "long header",
            Tar::default()
                .entry(EntryType::XHeader, "x", "", &vec![b'1'; 2 << 20])
                .end(),
            "extension header",
        ),
        (
            "bad pax",
            Tar::default()
                .entry(EntryType::XHeader, "x", "", b"99 a=b\n")
                .file("a", b"")
                .end(),
            "pax",
        ),
        (
            "root as file",
            Tar::default().file("..", b"x").end(),
            "root directory",
        ),
        (
            "link to nothing",
            Tar::default().link("a", "b").end(),
            "hard link",
        ),
        (
            "link to a directory",
            Tar::default().dir("b").link("a", "b").end(),
            "directory",
        ),
        (
            "a full directory replaced",
            Tar::default().file("d/f", b"x").file("d", b"y").end(),
            "in place of a directory",
        ),
        (
            "behind a file",
            Tar::default().file("d", b"x").file("d/f", b"y").end(),
            "cannot be unpacked",
        ),
    ];
    for (name, data, word) in cases {
        let refused = import(&store, "a", data).await;
        match refused {
            Err(swarm_api::Error::Invalid(why)) => assert!(why.contains(word), "{name}: {why}"),
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(left(&store), (0, 0), "{name}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_leaves_nothing() {
    let (_dir, store) = store();
    let data = Tar::default().file("a", &[1; 2000]).end();
    let lost = swarm_api::Error::Unavailable("the client has gone".into());
    let parts = vec![Ok(Bytes::from(data[..512].to_vec())), Err(lost.clone())];
    let config = ImageConfig::default();
    let broken = stream::iter(parts).boxed();
    let refused = store
        .import(reference("a"), config, broken, Timestamp(1))
        .await;
    assert_eq!(refused, Err(lost));
    assert_eq!(left(&store), (0, 0));
}

#[tokio::test]
async fn nothing_an_archive_says_leads_out_of_its_folder() {
    let (dir, store) = store();
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("victim"), "untouched").unwrap();
    let out = outside.to_str().unwrap();
    let up = format!("{}{}", "../".repeat(20), &out[1..]);
    let archives = [
        Tar::default().file(&format!("{up}/victim"), b"evil"),
        Tar::default().file(&format!("{out}/victim"), b"evil"),
        Tar::default().symlink("l", out).file("l/victim", b"evil"),
        Tar::default().symlink("l", &up).file("l/victim", b"evil"),
        Tar::default()
            .symlink("l", out)
            .dir("l")
            .file("l/victim", b"evil"),
        Tar::default()
            .symlink("l", "..")
            .symlink("m", "l/..")
            .file("m/victim", b"evil"),
        Tar::default()
            .symlink("victim", &format!("{out}/victim"))
            .file("victim", b"evil"),
        Tar::default()
            .link("l", &format!("{up}/victim"))
            .file("l", b"evil"),
        Tar::default()
            .symlink("l", out)
            .link("h", "l/victim")
            .file("h", b"evil"),
        Tar::default().symlink("l", out).file("l/.wh.victim", b""),
        Tar::default().symlink("l", out).file("l/.wh..wh..opq", b""),
        Tar::default()
            .symlink("l", "/proc/self/root")
            .file("l/victim", b"evil"),
        Tar::default().symlink("l", "l").file("l/victim", b"evil"),
    ];
    for (n, archive) in archives.into_iter().enumerate() {
        let _ = import(&store, "a", archive.end()).await;
        assert_eq!(
            std::fs::read_to_string(outside.join("victim")).unwrap(),
            "untouched",
            "archive {n}"
        );
        assert_eq!(entries(&outside).unwrap().len(), 1, "archive {n}");
        let mut value = [0; 8];
        assert!(rustix::fs::getxattr(&outside, "trusted.overlay.opaque", &mut value).is_err());
        assert_eq!(entries(dir.path()).unwrap().len(), 2, "archive {n}");
    }
}

#[tokio::test]
async fn what_a_crash_left_is_swept_and_the_rest_is_found_again() {
    let (dir, store) = store();
    let data = Tar::default().file("a", b"x").end();
    let image = import(&store, "a", data.clone()).await.unwrap();
    let half = store.inner.layers_dir.join(format!("{NEW}7"));
    std::fs::create_dir_all(half.join("fs/etc")).unwrap();
    std::fs::write(store.inner.images_dir.join(format!("{NEW}8")), "{").unwrap();
    std::fs::write(store.inner.images_dir.join("torn.json"), "{").unwrap();
    drop(store);
    let store = Store::open(&dir.path().join("data")).unwrap();
    assert_eq!(store.images(), std::slice::from_ref(&image));
    assert_eq!(left(&store), (1, 2));
    assert!(export(&store, &image.layers[0]).await.unwrap() == data);
}

#[tokio::test]
async fn a_layer_goes_with_its_last_user() {
    let (_dir, store) = store();
    let image = import(&store, "a", Tar::default().file("a", b"x").end())
        .await
        .unwrap();
    let layer = image.layers[0].clone();
    import(&store, "b", Tar::default().file("a", b"x").end())
        .await
        .unwrap();
    store.remove_image(&reference("a")).unwrap();
    store.collect(HashSet::new).unwrap();
    assert!(store.missing_layers(&image.layers).is_empty());
    store.remove_image(&reference("b")).unwrap();
    store.collect(|| HashSet::from([layer.clone()])).unwrap();
    assert!(store.missing_layers(&image.layers).is_empty());
    store.collect(HashSet::new).unwrap();
    assert_eq!(store.missing_layers(&image.layers), image.layers);
    assert_eq!(left(&store), (0, 0));
    assert!(matches!(store.put_image(image), Err(Error::NotFound(_))));
    assert!(matches!(
        store.remove_image(&reference("b")),
        Err(Error::NotFound(_))
    ));
    assert!(matches!(
        store.export_layer("sha256:../../etc"),
        Err(Error::Invalid(_))
    ));
}

#[tokio::test]
async fn a_layer_from_a_peer_must_have_its_digest_and_stays_until_its_image_comes() {
    let (_dir, one) = store();
    let (_dir2, two) = store();
    let image = import(&one, "a", Tar::default().file("a", b"x").end())
        .await
        .unwrap();
    let layer = &image.layers[0];
    let wrong = bytes(Tar::default().file("a", b"y").end());
    let refused = two.put_layer(layer, wrong).await;
    assert!(
        matches!(refused, Err(swarm_api::Error::Invalid(_))),
        "{refused:?}"
    );
    assert_eq!(left(&two), (0, 0));
    two.put_layer(layer, one.export_layer(layer).unwrap())
        .await
        .unwrap();
    two.collect(HashSet::new).unwrap();
    assert_eq!(
        two.missing_parts(&image),
        std::slice::from_ref(&image.digest)
    );
    assert!(matches!(
        two.put_image(image.clone()),
        Err(Error::NotFound(_))
    ));
    let forged = two.put_layer(&image.digest, bytes(b"{}".to_vec())).await;
    assert!(matches!(forged, Err(swarm_api::Error::Invalid(_))));
    two.put_layer(&image.digest, one.export_layer(&image.digest).unwrap())
        .await
        .unwrap();
    two.collect(HashSet::new).unwrap();
    two.put_image(image.clone()).unwrap();
    assert_eq!(two.image(&image.reference), Some(image.clone()));
    let mut forged = image;
    forged.config.user = "someone".into();
    assert!(matches!(two.put_image(forged), Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_damaged_layer_is_not_passed_on_as_whole() {
    let (_dir, store) = store();
    let image = import(&store, "a", Tar::default().file("a", b"contents").end())
        .await
        .unwrap();
    std::fs::write(tree(&store, &image).join("a"), "CONTENTS").unwrap();
    let refused = export(&store, &image.layers[0]).await;
    assert!(
        matches!(&refused, Err(swarm_api::Error::Internal(w)) if w.contains("damaged")),
        "{refused:?}"
    );
    // One who takes it from a peer finds out itself.
    let (_dir, other) = self::store();
    let given = store.give_layer(&image.layers[0]).unwrap();
    let taken = other.put_layer(&image.layers[0], given).await;
    assert!(
        matches!(&taken, Err(swarm_api::Error::Invalid(_))),
        "{taken:?}"
    );
    assert_eq!(left(&other), (0, 0));
}

#[test]
fn a_full_disk_is_said_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let data = Tar::default().file("a", &vec![1; 1 << 20]).end();
    // A mount namespace of this thread's own: the small disk goes with it.
    let full = std::thread::spawn(move || {
        use nix::mount::{MsFlags, mount};
        let none = None::<&str>;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let size = Some("size=512k");
        mount(
            Some("tmpfs"),
            dir.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            size,
        )
        .unwrap();
        let store = Store::open(dir.path()).unwrap();
        let why = store.inner.unpack(data.as_slice(), None).unwrap_err();
        (swarm_api::Error::from(why), left(&store))
    });
    let (why, left) = full.join().unwrap();
    assert!(
        matches!(&why, swarm_api::Error::Exhausted(w) if w.contains("no space left")),
        "{why:?}"
    );
    assert_eq!(left, (0, 0));
}

#[test]
fn a_built_in_image_is_the_same_on_every_host() {
    let (_dir, store) = store();
    let config = ImageConfig {
        entrypoint: vec!["/whoami".into()],
        ..ImageConfig::default()
    };
    let files: Vec<(String, u32, &[u8])> = vec![("whoami".into(), 0o755, b"program")];
    let name = reference("whoami");
    store
        .add_builtin(&name, &config, &files, Timestamp(1))
        .unwrap();
    let image = store.image(&name).unwrap();
    assert_eq!(image.digest, sha(&store.document(&image.digest).unwrap()));
    store
        .add_builtin(&name, &config, &files, Timestamp(2))
        .unwrap();
    assert_eq!(store.image(&name), Some(image.clone()));
    let (_dir2, other) = self::store();
    other
        .add_builtin(&name, &config, &files, Timestamp(9))
        .unwrap();
    assert_eq!(other.image(&name).unwrap().digest, image.digest);
    let program = tree(&store, &image).join("whoami");
    assert_eq!(
        std::fs::metadata(program).unwrap().permissions().mode() & 0o7777,
        0o755
    );
    // Another program by the next version.
    let files: Vec<(String, u32, &[u8])> = vec![("whoami".into(), 0o755, b"better")];
    store
        .add_builtin(&name, &config, &files, Timestamp(3))
        .unwrap();
    assert_ne!(store.image(&name).unwrap().digest, image.digest);
}

#[test]
fn a_file_is_read_through_the_layers_as_a_container_would_see_it() {
    let dir = tempfile::tempdir().unwrap();
    let layer = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.join("etc")).unwrap();
        path
    };
    let (low, middle, top) = (layer("low"), layer("middle"), layer("top"));
    std::fs::write(low.join("etc/passwd"), "low").unwrap();
    let layers = [top.clone(), middle.clone(), low];
    let read = || read_file(&layers, "etc", "passwd", 100);
    assert_eq!(read().unwrap(), b"low");
    std::fs::write(middle.join("etc/other"), "other").unwrap();
    std::os::unix::fs::symlink("/etc/other", middle.join("etc/passwd")).unwrap();
    assert_eq!(read().unwrap(), b"other");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        top.join("etc/passwd"),
        FileType::CharacterDevice,
        Mode::empty(),
        0,
    )
    .unwrap();
    assert_eq!(read(), None);
    assert_eq!(read_file(&layers, "etc", "other", 3), None);
    std::os::unix::fs::symlink(dir.path().join("secret"), top.join("etc/link")).unwrap();
    std::fs::write(dir.path().join("secret"), "secret").unwrap();
    assert_eq!(read_file(&layers, "etc", "link", 100), None);
}

fn any_entry() -> impl Strategy<Value = (EntryType, Vec<u8>, Vec<u8>, Vec<u8>, u32)> {
    let kind = prop::sample::select(vec![
        EntryType::Regular,
        EntryType::Regular,
        EntryType::Directory,
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Fifo,
        EntryType::Char,
        EntryType::GNUSparse,
        EntryType::GNULongName,
        EntryType::XHeader,
    ]);
    let part = prop::sample::select(vec![
        "a",
        "b",
        "c",
        "..",
        ".",
        "",
        ".wh.a",
        ".wh..wh..opq",
        "proc",
    ]);
    let path =
        || prop::collection::vec(part.clone(), 0..5).prop_map(|parts| parts.join("/").into_bytes());
    let contents = prop::collection::vec(any::<u8>(), 0..1500);
    (kind, path(), path(), contents, 0u32..0o10000).prop_map(
        |(kind, path, link, contents, mode)| {
            let empty = !matches!(
                kind,
                EntryType::Regular | EntryType::GNULongName | EntryType::XHeader
            );
            (
                kind,
                path,
                link,
                if empty { Vec::new() } else { contents },
                mode,
            )
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_archive_is_refused_cleanly_or_comes_out_byte_for_byte(
        list in prop::collection::vec(any_entry(), 1..12),
        flip in prop::option::of((0usize..20_000, any::<u8>())),
    ) {
        let mut tar = Tar::default();
        for (kind, path, link, contents, mode) in &list {
            tar.add(*kind, path, link, contents, *mode);
        }
        let mut data = tar.end();
        if let Some((at, value)) = flip {
            let length = data.len();
            data[at % length] = value;
        }
        let (dir, store) = store();
        match store.inner.unpack(data.as_slice(), None) {
            Ok(layer) => {
                prop_assert_eq!(&layer.digest, &sha(&data));
                let mut out = Vec::new();
                let folder = store.inner.find(&layer.digest).unwrap();
                record::rebuild(&folder, &layer.digest, |part| { out.extend_from_slice(part); true }).unwrap();
                prop_assert!(out == data);
            }
            Err(Error::Invalid(_)) => prop_assert_eq!(left(&store), (0, 0)),
            Err(other) => prop_assert!(false, "{:?}", other),
        }
        prop_assert_eq!(entries(dir.path()).unwrap().len(), 1);
    }
}
