//! What a container puts in the way of whoever copies its files.

use super::{Owners, find, pack, unpack};
use crate::{Error, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use swarm_api::backend::FileKind;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

/// A container's root, and what is outside of it.
struct World {
    temp: TempDir,
    root: OwnedFd,
}

impl World {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/passwd"), "inside").unwrap();
        fs::create_dir_all(temp.path().join("etc")).unwrap();
        fs::write(temp.path().join("etc/passwd"), "outside").unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&root, flags, Mode::empty()).unwrap();
        Self { temp, root: fd }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.temp.path().join("root").join(path)
    }

    fn outside(&self) -> PathBuf {
        self.temp.path().to_owned()
    }

    fn archive(&self, path: &str) -> Result<Vec<u8>> {
        let place = find(&self.root, path)?;
        let mut bytes = Vec::new();
        pack(&place, &Owners::default(), &mut |piece| {
            bytes.extend_from_slice(piece);
            true
        })?;
        Ok(bytes)
    }

    /// Name and contents, or where a link leads, of what is in the archive of `path`.
    fn packed(&self, path: &str) -> BTreeMap<String, String> {
        let archive = self.archive(path).unwrap();
        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut text = String::new();
            std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
            if let Some(target) = entry.link_name_bytes() {
                text = format!("-> {}", String::from_utf8_lossy(&target));
            }
            found.insert(name.trim_end_matches('/').to_owned(), text);
        }
        found
    }

    fn unpack(&self, folder: &str, archive: Archive) -> Result<()> {
        let bytes = archive.0.into_inner().unwrap();
        unpack(&self.root, folder, &Owners::default(), &bytes[..])
    }
}

/// An archive, also one that no honest program writes.
struct Archive(Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn with(mut self, kind: EntryType, name: &str, link: &str, contents: &str) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(contents.len() as u64);
        header.set_mode(if kind == EntryType::Directory {
            0o751
        } else {
            0o640
        });
        header.set_mtime(1_000_000_000);
        let me = (rustix::process::geteuid(), rustix::process::getegid());
        header.set_uid(me.0.as_raw().into());
        header.set_gid(me.1.as_raw().into());
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, contents.as_bytes()).unwrap();
        self
    }

    fn file(self, name: &str, contents: &str) -> Self {
        self.with(EntryType::Regular, name, "", contents)
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.with(EntryType::Symlink, name, target, "")
    }

    fn folder(self, name: &str) -> Self {
        self.with(EntryType::Directory, name, "", "")
    }
}

#[test]
fn links_lead_to_places_in_the_root_only() {
    let world = World::new();
    symlink("/etc", world.at("absolute")).unwrap();
    symlink("../../../../../etc", world.at("upward")).unwrap();
    symlink(world.outside().join("etc"), world.at("exact")).unwrap();
    for path in [
        "absolute/passwd",
        "/upward/passwd",
        "../../etc/passwd",
        "/absolute/../etc/passwd",
    ] {
        assert_eq!(world.packed(path)["passwd"], "inside", "{path}");
    }
    assert!(matches!(
        find(&world.root, "exact/passwd"),
        Err(Error::NotFound(_))
    ));
    symlink("/proc/self/root", world.at("magic")).unwrap();
    assert!(find(&world.root, "magic/etc/passwd").is_err());
    symlink("round", world.at("round")).unwrap();
    let why = find(&world.root, "round/x").unwrap_err().to_string();
    assert!(why.contains("circles"), "{why}");
}

#[test]
fn a_link_itself_is_told_and_copied_and_followed_where_its_path_goes_on() {
    let world = World::new();
    symlink("etc/passwd", world.at("link")).unwrap();
    symlink("etc", world.at("folder")).unwrap();
    let stat = find(&world.root, "/link").unwrap().describe();
    assert_eq!(
        (stat.kind, stat.target.as_str()),
        (FileKind::Symlink, "etc/passwd")
    );
    assert_eq!(world.packed("link")["link"], "-> etc/passwd");
    assert_eq!(world.packed("folder/")["folder/passwd"], "inside");
    let contents = world.packed("folder/.");
    assert_eq!(
        contents.values().filter(|v| *v == "inside").count(),
        1,
        "{contents:?}"
    );
    let root = find(&world.root, "/").unwrap().describe();
    assert_eq!((root.kind, root.name.as_str()), (FileKind::Directory, "/"));
    let file = find(&world.root, "etc/passwd").unwrap().describe();
    assert_eq!(
        (file.kind, file.size, file.name.as_str()),
        (FileKind::File, 6, "passwd")
    );
}

#[test]
fn a_folder_is_copied_with_links_pipes_and_long_names_and_nothing_is_followed() {
    let world = World::new();
    let long = "n".repeat(120);
    fs::create_dir(world.at("data")).unwrap();
    fs::write(world.at("data").join(&long), "long").unwrap();
    symlink(world.outside().join("etc"), world.at("data/out")).unwrap();
    symlink(&long, world.at("data/far")).unwrap();
    fs::hard_link(world.at("data").join(&long), world.at("data/twice")).unwrap();
    let pipe = Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(CWD, world.at("data/pipe"), FileType::Fifo, pipe, 0).unwrap();
    let found = world.packed("data");
    assert_eq!(found["data"], "");
    assert_eq!(found[&format!("data/{long}")], "long");
    assert_eq!(found["data/far"], format!("-> {long}"));
    assert_eq!(found["data/twice"], format!("-> data/{long}"));
    assert!(found["data/out"].starts_with("-> /"));
    assert_eq!(found.len(), 6, "{found:?}");
}

#[test]
fn whoever_stops_reading_ends_the_archive_without_an_error() {
    let world = World::new();
    fs::write(world.at("big"), vec![7; 1 << 20]).unwrap();
    let place = find(&world.root, "big").unwrap();
    let mut pieces = 0;
    pack(&place, &Owners::default(), &mut |_| {
        pieces += 1;
        pieces < 3
    })
    .unwrap();
    assert_eq!(pieces, 3);
}

#[test]
fn an_archive_writes_nothing_outside_of_the_root_whatever_links_it_makes() {
    let world = World::new();
    let before = fs::read_dir(world.outside()).unwrap().count();
    let out = world.outside().join("etc");
    let out = out.to_str().unwrap();
    fs::create_dir(world.at("tmp")).unwrap();
    for (link, target) in [
        ("a", out),
        ("b", "../../../../etc"),
        ("c", "/"),
        ("d", "/proc/self/root"),
    ] {
        let through = format!("{link}/new");
        let archive = Archive::new().link(link, target).file(&through, "x");
        // Refused, or put where the link leads in the container.
        let _ = world.unpack("tmp", archive);
        assert_eq!(
            fs::read_link(world.at("tmp").join(link)).unwrap(),
            Path::new(target)
        );
    }
    assert_eq!(fs::read_to_string(world.at("new")).unwrap(), "x", "by c");
    assert_eq!(
        fs::read_to_string(world.at("etc/new")).unwrap(),
        "x",
        "by b"
    );
    assert!(!Path::new(out).join("new").exists());
    for name in ["../up", "a/../../up", "/../up"] {
        let why = world
            .unpack("tmp", Archive::new().file(name, "x"))
            .unwrap_err();
        assert!(why.to_string().contains("leads out"), "{why}");
    }
    // A link in place of the folder itself.
    symlink(out, world.at("gone")).unwrap();
    assert!(world.unpack("gone", Archive::new().file("f", "x")).is_err());
    let hard = Archive::new().with(EntryType::Link, "hard", "a/passwd", "");
    assert!(world.unpack("tmp", hard).is_err());
    assert_eq!(fs::read_dir(world.outside()).unwrap().count(), before);
    assert_eq!(fs::read_dir(out).unwrap().count(), 1);
}

#[test]
fn a_file_replaces_a_link_and_does_not_write_through_it() {
    let world = World::new();
    symlink(world.outside().join("etc/passwd"), world.at("etc/link")).unwrap();
    symlink("passwd", world.at("etc/near")).unwrap();
    let archive = Archive::new().file("link", "new").file("near", "new");
    world.unpack("etc", archive).unwrap();
    assert!(
        fs::symlink_metadata(world.at("etc/link"))
            .unwrap()
            .is_file()
    );
    assert_eq!(fs::read_to_string(world.at("etc/near")).unwrap(), "new");
    assert_eq!(
        fs::read_to_string(world.at("etc/passwd")).unwrap(),
        "inside"
    );
    assert_eq!(
        fs::read_to_string(world.outside().join("etc/passwd")).unwrap(),
        "outside"
    );
}

#[test]
fn a_folder_and_a_file_do_not_replace_each_other() {
    let world = World::new();
    fs::create_dir(world.at("folder")).unwrap();
    let archives = [
        Archive::new().file("folder", "x"),
        Archive::new().link("folder", "x"),
        Archive::new().folder("etc/passwd"),
        Archive::new().file("etc/passwd/x", "x"),
    ];
    for archive in archives {
        let why = world.unpack("/", archive).unwrap_err();
        assert!(matches!(why, Error::Invalid(_)), "{why}");
    }
    let why = world.unpack("nowhere", Archive::new()).unwrap_err();
    assert!(
        matches!(&why, Error::NotFound(w) if w.contains("nowhere")),
        "{why}"
    );
    let why = world.unpack("etc/passwd", Archive::new()).unwrap_err();
    assert!(matches!(&why, Error::Invalid(_)), "{why}");
}

#[test]
fn what_is_unpacked_has_its_mode_and_times_and_what_was_there_keeps_them() {
    let world = World::new();
    let before = fs::metadata(world.at("etc")).unwrap().permissions().mode();
    let archive = Archive::new()
        .folder("./")
        .folder("new")
        .file("new/file", "text")
        .file("made/on/the/way", "text")
        .with(EntryType::Link, "new/twice", "new/file", "")
        .with(EntryType::Fifo, "new/pipe", "", "");
    world.unpack("/etc", archive).unwrap();
    let metadata = |path: &str| fs::symlink_metadata(world.at(path)).unwrap();
    assert_eq!(metadata("etc").permissions().mode(), before);
    assert_eq!(metadata("etc/new").permissions().mode() & 0o7777, 0o751);
    assert_eq!(
        metadata("etc/new/file").permissions().mode() & 0o7777,
        0o640
    );
    for path in ["etc/new", "etc/new/file"] {
        assert_eq!(metadata(path).mtime(), 1_000_000_000, "{path}");
    }
    assert_eq!(
        metadata("etc/new/twice").ino(),
        metadata("etc/new/file").ino()
    );
    assert_eq!(
        metadata("etc/made/on/the").permissions().mode() & 0o7777,
        0o755
    );
    let device = Archive::new().with(EntryType::Char, "null", "", "");
    let why = world.unpack("etc", device).unwrap_err().to_string();
    assert!(why.contains("device"), "{why}");
}

#[test]
fn an_archive_that_is_none_is_said_to_be_none() {
    let world = World::new();
    let rubbish = vec![b'x'; 4096];
    let why = unpack(&world.root, "etc", &Owners::default(), &rubbish[..]).unwrap_err();
    assert!(
        matches!(&why, Error::Invalid(w) if w.contains("archive")),
        "{why}"
    );
}
