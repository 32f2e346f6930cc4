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
