//! Images of real programs, from Debian's packages: nginx, redis and postgres, each with a user, an entrypoint, a health check
//! and a volume. The packages are fetched once and kept below the target directory.

use crate::{command, images};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What fetching or unpacking packages takes at most.
const LONG: Duration = Duration::from_secs(180);

/// What Debian's packages depend on for their scripts, or for what is not used here.
const LEFT_OUT: &[&str] = &[
    "adduser",
    "debconf",
    "dpkg",
    "init-system-helpers",
    "iproute2",
    "libbpf",
    "libc-l10n",
    "libelf",
    "libfile-find",
    "libgdbm",
    "libjson-perl",
    "libllvm",
    "libnumber",
    "libpam-modules",
    "libperl",
    "libsemanage",
    "libsepol",
    "libtext-glob",
    "libxtables",
    "libz3",
    "locales",
    "lsb-base",
    "openssl",
    "passwd",
    "perl",
    "postgresql-client-common",
    "postgresql-common",
    "sensible-utils",
    "ssl-cert",
    "sysvinit-utils",
    "tar",
    "ucf",
    "usrmerge",
];

/// One program.
pub struct Workload {
    /// What the image is called.
    pub name: &'static str,
    packages: &'static [&'static str],
    user: u32,
    entrypoint: &'static str,
    health: &'static str,
    /// Its volume; the user's, and private.
    volume: &'static str,
    port: u16,
    files: &'static [(&'static str, &'static str)],
}

/// A web server that shows `/var/www/html`.
pub const NGINX: Workload = Workload {
    name: "nginx",
    packages: &["nginx"],
    user: 101,
    entrypoint: "exec nginx -e /tmp/error.log -c /etc/own.conf -g 'daemon off;'",
    health: "wget -q -O /dev/null http://127.0.0.1/",
    volume: "/var/www/html",
    port: 80,
    files: &[
        (
            "etc/own.conf",
            "pid /tmp/pid; error_log /tmp/error.log; worker_processes 2; events {}\n\
             http { access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f;\n\
             uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; server { listen 80; root /var/www/html; } }\n",
        ),
        ("var/www/html/index.html", "a page of the image\n"),
    ],
};

/// A store of keys that it writes to `/data`.
pub const REDIS: Workload = Workload {
    name: "redis",
    packages: &["redis-server"],
    user: 102,
    entrypoint: "exec redis-server --dir /data --appendonly yes --protected-mode no --save ''",
    health: "redis-cli ping",
    volume: "/data",
    port: 6379,
    files: &[],
};

/// A database in `/var/lib/postgresql/data`, made when it is not there.
pub const POSTGRES: Workload = Workload {
    name: "postgres",
    packages: &["postgresql-15"],
    user: 103,
    entrypoint: "set -e; export PATH=/usr/lib/postgresql/15/bin:$PATH; cd /var/lib/postgresql/data\n\
        if ! [ -e PG_VERSION ]; then initdb -D . --locale=C -A trust --no-sync >/dev/null; echo 'host all all all trust' >> pg_hba.conf; fi\n\
        exec postgres -D . -h 0.0.0.0 -k /tmp",
    health: "/usr/lib/postgresql/15/bin/pg_isready -q -h 127.0.0.1",
    volume: "/var/lib/postgresql/data",
    port: 5432,
    files: &[],
};

impl Workload {
    /// Makes an OCI layout with the tag `latest` in `folder`, by umoci.
    ///
    /// # Errors
    /// Where packages cannot be fetched, or a program that is needed is missing.
    pub fn layout(&self, folder: &Path) -> Result<PathBuf> {
        let root = self.root(folder)?;
        let layout = folder.join(format!("{}-layout", self.name));
        let image = format!("{}:latest", layout.display());
        let run = |args: &[&str]| -> Result<()> {
            let mut umoci = Command::new("umoci");
            command::run(umoci.args(args), LONG)?.ok()?;
            Ok(())
        };
        run(&["init", "--layout", &layout.to_string_lossy()])?;
        run(&["new", "--image", &image])?;
        run(&["insert", "--image", &image, &root.to_string_lossy(), "/"])?;
        let (user, port) = (self.user.to_string(), format!("{}/tcp", self.port));
        run(&[
            "config",
            "--image",
            &image,
            "--config.user",
            &user,
            "--config.volume",
            self.volume,
            "--config.entrypoint",
            "/bin/sh",
            "--config.entrypoint",
            "-c",
            "--config.entrypoint",
            self.entrypoint,
            "--config.exposedports",
            &port,
            "--config.env",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "--config.label",
            "of=debian",
        ])?;
        // The image-spec knows no health checks; Docker's builder writes them there all the same.
        amend(&layout, |config| {
            config["config"]["Healthcheck"] = json!({
                "Test": ["CMD-SHELL", self.health],
                "Interval": 500_000_000, "Timeout": 5_000_000_000_u64, "Retries": 10,
            });
        })?;
        Ok(layout)
    }

    /// Its root file system.
    fn root(&self, folder: &Path) -> Result<PathBuf> {
        let base = folder.join(format!("{}-base", self.name));
        fs::create_dir_all(&base)?;
        images::busybox_tar(&base)?;
        let root = base.join("busybox");
        for package in packages(self.packages)? {
            let mut unpack = Command::new("sh");
            unpack
                .args(["-c", "dpkg-deb --fsys-tarfile \"$1\" | tar -x -C \"$2\""])
                .args([Path::new("sh"), &package, &root]);
            command::run(&mut unpack, LONG)?.ok()?;
        }
        for part in [
            "usr/share/doc",
            "usr/share/man",
            "usr/share/locale",
            "usr/lib/postgresql/15/lib/bitcode",
            "usr/lib/x86_64-linux-gnu/gconv",
            "usr/lib/aarch64-linux-gnu/gconv",
            "usr/share/i18n",
        ] {
            let _ = fs::remove_dir_all(root.join(part));
        }
        let mut users = fs::read_to_string(root.join("etc/passwd"))?;
        users.push_str(&format!(
            "{0}:x:{1}:{1}::/tmp:/bin/sh\n",
            self.name, self.user
        ));
        fs::write(root.join("etc/passwd"), users)?;
        for (path, text) in self.files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().context("a folder")?)?;
            fs::write(path, text)?;
        }
        let volume = root.join(self.volume.trim_start_matches('/'));
        fs::create_dir_all(&volume)?;
        fs::set_permissions(&volume, PermissionsExt::from_mode(0o700))?;
        chown(&volume, Some(self.user), Some(self.user))?;
        Ok(root)
    }
}

/// The files of packages and of all that they need.
fn packages(names: &[&str]) -> Result<Vec<PathBuf>> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    let folder = target.join("workloads");
    fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    let list = folder.join(format!("{}.list", names.join("-")));
    if let Some(known) = listed(&list) {
        return Ok(known);
    }
    // Alone there while it fetches.
    let lock = fs::File::create(folder.join("lock"))?;
    lock.lock()?;
    if let Some(known) = listed(&list) {
        return Ok(known);
    }
    let nothing = folder.join("nothing-installed");
    fs::write(&nothing, "")?;
    let fetch = || -> Result<Vec<PathBuf>> {
        let mut all = Command::new("apt-get");
        all.args([
            "install",
            "--print-uris",
            "-qq",
            "-y",
            "--no-install-recommends",
        ])
        .arg("-o")
        .arg(format!("Dir::State::status={}", nothing.display()))
        .args(names);
        let all = command::run(&mut all, LONG)?.ok()?.stdout;
        let mut files = Vec::new();
        let mut wanted = Vec::new();
        for line in all.lines() {
            let file = line.split(' ').nth(1).context("a line of apt-get")?;
            let name = file.split('_').next().unwrap_or_default();
            if LEFT_OUT.iter().any(|out| name.starts_with(out)) {
                continue;
            }
            files.push(folder.join(file));
            wanted.push(name.to_owned());
        }
        ensure!(!wanted.is_empty(), "apt-get names no packages");
        let mut download = Command::new("apt-get");
        download
            .args(["download", "-qq"])
            .args(&wanted)
            .current_dir(&folder);
        command::run(&mut download, LONG)?.ok()?;
        for file in &files {
            ensure!(file.is_file(), "{} was not fetched", file.display());
        }
        Ok(files)
    };
    let files = match fetch() {
        Ok(files) => files,
        Err(_) => {
            // Lists that are too old name versions that are gone.
            command::run(Command::new("apt-get").args(["update", "-q"]), LONG)?.ok()?;
            fetch()?
        }
    };
    let text: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
    fs::write(&list, text.join("\n"))?;
    Ok(files)
}

fn listed(list: &Path) -> Option<Vec<PathBuf>> {
    let text = fs::read_to_string(list).ok()?;
    let files: Vec<PathBuf> = text.lines().map(PathBuf::from).collect();
    files.iter().all(|f| f.is_file()).then_some(files)
}

/// Changes the configuration of a layout's only image.
fn amend(layout: &Path, change: impl FnOnce(&mut Value)) -> Result<()> {
    let read = |path: &Path| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let blob = |descriptor: &Value| -> Result<PathBuf> {
        let digest = descriptor["digest"].as_str().context("a digest")?;
        Ok(layout.join("blobs").join(digest.replace(':', "/")))
    };
    let write = |value: &Value, descriptor: &mut Value| -> Result<()> {
        let bytes = value.to_string();
        let new = layout.join("blobs/sha256/new");
        fs::write(&new, &bytes)?;
        let summed = command::run(Command::new("sha256sum").arg(&new), LONG)?.ok()?;
        let hex = summed
            .stdout
            .split(' ')
            .next()
            .context("a digest")?
            .to_owned();
        descriptor["digest"] = format!("sha256:{hex}").into();
        descriptor["size"] = bytes.len().into();
        fs::rename(&new, layout.join("blobs/sha256").join(hex))?;
        Ok(())
    };
    let mut index = read(&layout.join("index.json"))?;
    let entry = &mut index["manifests"][0];
    let mut manifest = read(&blob(entry)?)?;
    let mut config = read(&blob(&manifest["config"])?)?;
    change(&mut config);
    write(&config, &mut manifest["config"])?;
    write(&manifest, entry)?;
    fs::write(layout.join("index.json"), index.to_string())?;
    Ok(())
}
