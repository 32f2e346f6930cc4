//! An ordinary user with subordinate ids, for the time of a test. The system's files stay as they are: the user stands in files that are
//! mounted over them in a mount namespace of its programs.

use crate::command::{self, Output};
use crate::processes;
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How many subordinate ids a user has.
pub const SUBORDINATE: u32 = 65_536;

/// Mounts the user's files, and becomes the user.
const BECOME: &str = r#"
folder=$1 user=$2; shift 2
for file in passwd subuid subgid; do mount --bind "$folder/etc/$file" "/etc/$file" || exit 1; done
cd "$folder/home" || exit 1
exec setpriv --reuid="$user" --regid="$user" --clear-groups --reset-env \
    env HOME="$folder/home" XDG_RUNTIME_DIR="$folder/run" "$@"
"#;

/// One user, with a home, a folder for sockets, and the programs that it is to run.
#[derive(Debug)]
pub struct User {
    /// Its number, and its group's.
    pub id: u32,
    /// Its first subordinate id.
    pub first: u32,
    folder: PathBuf,
}

impl User {
    /// Makes it. `subordinate`: whether it has ids beside its own.
    ///
    /// # Errors
    /// Where the files cannot be made; not as root.
    pub fn new(subordinate: bool) -> Result<Self> {
        let number = std::process::id() % 20_000;
        let user = Self {
            id: 700_000 + number,
            first: 1_000_000_000 + number * SUBORDINATE,
            folder: std::env::temp_dir().join(format!("swu{number}")),
        };
        let etc = user.folder.join("etc");
        std::fs::create_dir_all(&etc)?;
        std::fs::set_permissions(&user.folder, PermissionsExt::from_mode(0o755))?;
        for (name, mode) in [("home", 0o755), ("run", 0o700), ("bin", 0o755)] {
            let path = user.folder.join(name);
            std::fs::create_dir_all(&path)?;
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode))?;
            chown(&path, Some(user.id), Some(user.id))?;
        }
        let id = user.id;
        let users = std::fs::read_to_string("/etc/passwd")?;
        let line = format!(
            "rootless{number}:x:{id}:{id}::{}:/bin/sh\n",
            user.home().display()
        );
        std::fs::write(etc.join("passwd"), users + &line)?;
        for name in ["subuid", "subgid"] {
            let line = format!("rootless{number}:{}:{SUBORDINATE}\n", user.first);
            std::fs::write(etc.join(name), if subordinate { &line } else { "" })?;
        }
        Ok(user)
    }

    /// Its home.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.folder.join("home")
    }

    /// Copies a program to where the user can run it, and returns its path.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn program(&self, path: &Path) -> Result<PathBuf> {
        let name = path.file_name().context("a program has a name")?;
        let to = self.folder.join("bin").join(name);
        if !to.exists() {
            std::fs::copy(path, &to).with_context(|| format!("cannot copy {}", path.display()))?;
        }
        Ok(to)
    }

    /// Gives a file or folder, with all that is in it, to the user.
    ///
    /// # Errors
    /// Where that cannot be done.
    pub fn give(&self, path: &Path) -> Result<()> {
        let mut chown = Command::new("chown");
        chown.args(["-R", &format!("{0}:{0}", self.id)]).arg(path);
        command::run(&mut chown, Duration::from_secs(30))?.ok()?;
        Ok(())
    }

    /// A command that the user runs; its process is the program's.
    #[must_use]
    pub fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                BECOME,
                "sh",
            ])
            .arg(&self.folder)
            .arg(self.id.to_string())
            .arg(program)
            .args(args);
        command
    }

    /// Runs one to its end.
    ///
    /// # Errors
    /// Where it cannot be started or does not end in time.
    pub fn run(&self, program: &Path, args: &[&str], limit: Duration) -> Result<Output> {
        command::run(&mut self.command(program, args), limit)
    }

    /// The user's processes, those under its subordinate ids included.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let own = |id: u32| id == self.id || (id >= self.first && id - self.first < SUBORDINATE);
        let of = |pid: i32| -> Option<u32> {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
            line.split_whitespace().next()?.parse().ok()
        };
        processes::matching(|pid| of(pid).is_some_and(own))
    }

    /// Makes sure that nothing runs any more.
    ///
    /// # Errors
    /// What does.
    pub fn is_idle(&self) -> Result<()> {
        let left = self.processes();
        ensure!(left.is_empty(), "processes of the user are left: {left:?}");
        Ok(())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = processes::signal_all(self.processes(), Signal::KILL);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
