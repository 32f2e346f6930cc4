//! Root file systems to import: busybox, as Debian has it.

use crate::command;
use anyhow::{Context, Result};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The commands that the image has.
const APPLETS: &[&str] = &[
    "cat", "chmod", "chown", "date", "dd", "df", "echo", "env", "false", "free", "grep", "head",
    "hostname", "httpd", "id", "ifconfig", "ip", "kill", "ln", "ls", "mkdir", "mount", "nc",
    "nproc", "nslookup", "ping", "ps", "pwd", "rm", "sed", "seq", "sh", "sleep", "sort", "stty",
    "sync", "tail", "test", "top", "touch", "true", "tty", "umount", "uname", "vi", "wc", "wget",
    "whoami", "yes",
];

/// Makes `busybox.tar` in `folder`: a root file system with a shell and what one needs in it.
///
/// # Errors
/// Where this machine has no static busybox.
pub fn busybox_tar(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("busybox");
    for part in ["bin", "etc", "tmp", "root", "www"] {
        std::fs::create_dir_all(root.join(part))?;
    }
    std::fs::set_permissions(root.join("tmp"), PermissionsExt::from_mode(0o1777))?;
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))
        .context("there is no /bin/busybox; tests/install-deps.sh installs what is needed")?;
    for applet in APPLETS {
        let link = root.join("bin").join(applet);
        if !link.is_symlink() {
            symlink("busybox", link)?;
        }
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000::/tmp:/bin/sh\n",
    )?;
    std::fs::write(root.join("etc/group"), "root:x:0:\nguest:x:1000:\n")?;
    std::fs::write(root.join("www/index.html"), "busybox here\n")?;
    let archive = folder.join("busybox.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".");
    command::run(&mut tar, Duration::from_secs(30))?.ok()?;
    Ok(archive)
}

/// The services that `debian_tar` adds to what Debian has: each writes when it was started and stopped.
pub const SERVICES: [&str; 2] = ["one", "two"];

/// Debian with systemd, as its `debootstrap` makes it, with two services of its own ([`SERVICES`]) that write to `/shared`: an archive
/// that is made once and kept in `folder`.
///
/// # Errors
/// Where it cannot be made: without debootstrap, or without Debian's packages.
pub fn debian_tar(folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let archive = folder.join("debian-bookworm.tar");
    // Others may want it at the same time.
    let lock = std::fs::File::create(folder.join("debian-bookworm.lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    if archive.exists() {
        return Ok(archive);
    }
    let root = folder.join("debian-bookworm");
    remove(&root)?;
    let mut debootstrap = Command::new("debootstrap");
    debootstrap
        .args([
            "--variant=minbase",
            "--include=systemd-sysv,dbus",
            "bookworm",
        ])
        .arg(&root);
    command::run(&mut debootstrap, Duration::from_secs(400))?.ok()?;
    for waste in [
        "var/cache/apt",
        "var/lib/apt/lists",
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
    ] {
        remove(&root.join(waste))?;
    }
    let system = root.join("etc/systemd/system");
    let wants = system.join("multi-user.target.wants");
    std::fs::create_dir_all(&wants)?;
    std::fs::create_dir_all(root.join("shared"))?;
    for name in SERVICES {
        let unit = format!(
            "[Service]\nExecStartPre=/bin/sh -c 'echo started > /shared/{name}'\nExecStart=/bin/sleep infinity\n\
             ExecStop=/bin/sh -c 'echo stopped > /shared/{name}'\n\n[Install]\nWantedBy=multi-user.target\n"
        );
        let file = format!("{name}.service");
        std::fs::write(system.join(&file), unit)?;
        symlink(
            system
                .join(&file)
                .strip_prefix(&root)
                .map(|p| Path::new("/").join(p))?,
            wants.join(&file),
        )?;
    }
    let new = folder.join("debian-bookworm.tar.new");
    let mut tar = Command::new("tar");
    tar.arg("-C")
        .arg(&root)
        .args(["--numeric-owner", "-cf"])
        .arg(&new)
        .arg(".");
    command::run(&mut tar, Duration::from_secs(60))?.ok()?;
    std::fs::rename(&new, &archive)?;
    remove(&root)?;
    Ok(archive)
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
