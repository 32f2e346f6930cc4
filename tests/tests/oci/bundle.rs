//! A bundle with busybox in it and a root for the runtime's state; everything of it goes when it is dropped.

use crate::{SOON, swarm_oci};
use anyhow::{Context, Result, ensure};
use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::Pid,
};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};
use swarm_tests::{
    cgroups,
    command::{self, Output},
    images,
};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A folder below `/tmp` with a name that nobody else has, and that is no longer than a socket's path may be.
pub(crate) fn scratch() -> Result<PathBuf> {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("oci-{}-{number}", std::process::id()));
    fs::create_dir_all(&path)?;
    Ok(path)
}

pub(crate) struct Bundle {
    folder: PathBuf,
    name: String,
}

impl Bundle {
    /// With the spec that `swarm-oci spec` writes, changed by `change`.
    pub(crate) fn new(args: &[&str], change: impl FnOnce(&mut Value)) -> Result<Self> {
        // Containers outlive the command that made them, and are waited for here.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let folder = scratch()?;
        let name = folder
            .file_name()
            .and_then(|name| name.to_str())
            .context("no name")?
            .to_owned();
        let bundle = Self { folder, name };
        images::busybox_tar(&bundle.folder)?;
        fs::rename(bundle.folder.join("busybox"), bundle.folder.join("rootfs"))?;
        bundle.run(&["spec", "--bundle", &bundle.path()])?.ok()?;
        let config = bundle.folder.join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&config)?)?;
        spec["process"]["args"] = json!(args);
        spec["linux"]["cgroupsPath"] = json!(format!("/{}", bundle.name));
        change(&mut spec);
        fs::write(config, spec.to_string())?;
        Ok(bundle)
    }

    pub(crate) fn path(&self) -> String {
        self.folder.display().to_string()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        cgroups::named(&self.name)
    }

    pub(crate) fn state_root(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// The runtime with its state in the bundle's folder.
    pub(crate) fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(swarm_oci()?);
        command.arg("--root").arg(self.state_root()).args(args);
        Ok(command)
    }

    pub(crate) fn run(&self, args: &[&str]) -> Result<Output> {
        command::run(&mut self.command(args)?, SOON)
    }

    pub(crate) fn ok(&self, args: &[&str]) -> Result<String> {
        Ok(self.run(args)?.ok()?.stdout)
    }

    /// `create` with its output in the file `out`: the container has it for longer than the command lives.
    pub(crate) fn create(&self, id: &str, more: &[&str]) -> Result<()> {
        let out = File::create(self.file("out"))?;
        let path = self.path();
        let args = [&["create", "--bundle", &path], more, &[id]].concat();
        let status = self
            .command(&args)?
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .status()?;
        ensure!(status.success(), "create: {status}: {}", self.out()?);
        Ok(())
    }

    pub(crate) fn out(&self) -> Result<String> {
        Ok(fs::read_to_string(self.file("out"))?)
    }

    pub(crate) fn state(&self, id: &str) -> Result<Value> {
        self.run(&["state", id])?.json()
    }

    pub(crate) fn pid(&self, id: &str) -> Result<i32> {
        let state = self.state(id)?;
        let pid = state["pid"].as_i64().context("no pid")?;
        Ok(i32::try_from(pid)?)
    }
}

/// Waits for a container's process as an engine does, which is its parent by then.
pub(crate) fn collect(pid: i32) -> Result<WaitStatus> {
    Ok(waitpid(Pid::from_raw(pid), None)?)
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let ids = self.ok(&["list", "--quiet"]).unwrap_or_default();
        for id in ids.lines() {
            let _ = self.run(&["delete", "--force", id]);
        }
        let _ = fs::remove_dir_all(Path::new(&self.folder));
    }
}
