//! Containers of an ordinary user.

use crate::{SOON, swarm_oci};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::Stdio,
};
use swarm_tests::{User, command::Output, images, wait_until};

/// A bundle of a user in its home.
struct Bundle {
    user: User,
    program: PathBuf,
    folder: PathBuf,
}

impl Bundle {
    fn new(subordinate: bool, flags: &[&str], change: impl FnOnce(&mut Value)) -> Result<Self> {
        let user = User::new(subordinate)?;
        let folder = user.home().join("bundle");
        fs::create_dir_all(&folder)?;
        images::busybox_tar(&folder)?;
        fs::rename(folder.join("busybox"), folder.join("rootfs"))?;
        user.give(&folder)?;
        let bundle = Self {
            program: user.program(&swarm_oci()?)?,
            user,
            folder,
        };
        let path = bundle.path();
        bundle.ok(&[&["spec", "--bundle", &path], flags].concat())?;
        let config = bundle.folder.join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&config)?)?;
        spec["root"]["readonly"] = json!(false);
        change(&mut spec);
        fs::write(config, spec.to_string())?;
        Ok(bundle)
    }

    fn path(&self) -> String {
        self.folder.display().to_string()
    }

    fn oci(&self, args: &[&str]) -> Result<Output> {
        self.user.run(&self.program, args, SOON)
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        Ok(self.oci(args)?.ok()?.stdout)
    }
}

fn script(text: &str) -> impl FnOnce(&mut Value) {
    let args = json!(["sh", "-c", text]);
    move |spec| {
        spec["process"]["args"] = args;
        let caps = json!(["CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_KILL"]);
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = caps.clone();
        }
    }
}

#[test]
fn a_user_is_root_in_its_container_and_has_its_subordinate_ids() -> Result<()> {
    let ids = "id -u; cat /proc/self/uid_map; echo here > /file; chown 5:7 /file; ls /sys/class/net; exit 3";
    let bundle = Bundle::new(true, &[], script(ids))?;
    let done = bundle.oci(&["run", "--bundle", &bundle.path(), "one"])?;
    ensure!(done.code == 3, "{done:?}");
    let words: Vec<&str> = done.stdout.split_whitespace().collect();
    let (id, first) = (bundle.user.id.to_string(), bundle.user.first.to_string());
    let wanted = ["0", "0", &id, "1", "1", &first, "65536", "lo"];
    ensure!(words == wanted, "{words:?}");
    let file = fs::metadata(bundle.folder.join("rootfs/file"))?;
    let owners = (bundle.user.first + 4, bundle.user.first + 6);
    ensure!((file.uid(), file.gid()) == owners, "{file:?}");
    ensure!(bundle.ok(&["list", "--quiet"])?.is_empty());
    bundle.user.is_idle()
}

#[test]
fn every_command_works_for_a_user_or_says_why_it_cannot() -> Result<()> {
    let bundle = Bundle::new(true, &["--rootless"], script("echo up; exec sleep 1000"))?;
    let out = File::create(bundle.folder.join("out"))?;
    let created = bundle
        .user
        .command(
            &bundle.program,
            &["create", "--bundle", &bundle.path(), "one"],
        )
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .status()?;
    let said = || fs::read_to_string(bundle.folder.join("out")).unwrap_or_default();
    ensure!(created.success(), "{}", said());
    bundle.ok(&["start", "one"])?;
    wait_until("the program runs", SOON, || {
        ensure!(said() == "up\n", "{}", said());
        Ok(())
    })?;
    let exec = bundle.oci(&[
        "exec",
        "one",
        "sh",
        "-c",
        "id -u; cat /proc/self/gid_map; exit 4",
    ])?;
    let words: Vec<&str> = exec.stdout.split_whitespace().collect();
    ensure!(exec.code == 4 && words == ["0", "0", "0", "1"], "{exec:?}");
    let terminal = bundle.oci(&["exec", "--tty", "one", "sh", "-c", "tty"])?;
    ensure!(terminal.stdout.starts_with("/dev/pts/"), "{terminal:?}");
    let ps: Value = serde_json::from_str(&bundle.ok(&["ps", "--format", "json", "one"])?)?;
    let state: Value = serde_json::from_str(&bundle.ok(&["state", "one"])?)?;
    ensure!(ps == json!([state["pid"]]), "{ps} {state}");
    for args in [
        &["pause", "one"][..],
        &["update", "--memory", "100000000", "one"],
    ] {
        let refused = bundle.oci(args)?.refusal()?;
        ensure!(refused.contains("no cgroup"), "{refused}");
    }
    bundle.ok(&["kill", "--all", "one", "KILL"])?;
    wait_until("it has ended", SOON, || {
        let state: Value = serde_json::from_str(&bundle.ok(&["state", "one"])?)?;
        ensure!(state["status"] == "stopped", "{state}");
        Ok(())
    })?;
    bundle.ok(&["delete", "one"])?;
    bundle.user.is_idle()
}

#[test]
fn a_limit_that_a_user_may_not_set_is_an_error() -> Result<()> {
    let bundle = Bundle::new(true, &[], |spec| {
        spec["linux"]["resources"]["pids"] = json!({"limit": 50});
    })?;
    let refused = bundle
        .oci(&["run", "--bundle", &bundle.path(), "one"])?
        .refusal()?;
    ensure!(
        refused.contains("pids.max") && refused.contains("Delegate"),
        "{refused}"
    );
    ensure!(bundle.ok(&["list", "--quiet"])?.is_empty());
    bundle.user.is_idle()
}

#[test]
fn a_user_without_subordinate_ids_has_containers_with_one_user() -> Result<()> {
    let bundle = Bundle::new(
        false,
        &[],
        script("cat /proc/self/uid_map; cat /proc/self/setgroups"),
    )?;
    let run = ["run", "--bundle", &bundle.path(), "one"];
    let done = bundle.ok(&run)?;
    let words: Vec<&str> = done.split_whitespace().collect();
    let id = bundle.user.id.to_string();
    ensure!(words == ["0", &id, "1", "deny"], "{words:?}");

    // What needs more of them says so.
    let config = bundle.folder.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&config)?)?;
    spec["process"]["user"]["uid"] = json!(1000);
    fs::write(&config, spec.to_string())?;
    let refused = bundle.oci(&run)?.refusal()?;
    ensure!(
        refused.contains("user 1000") && refused.contains("/etc/subuid"),
        "{refused}"
    );
    spec["process"]["user"]["uid"] = json!(0);
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 5}]);
    spec["linux"]["uidMappings"] = map.clone();
    spec["linux"]["gidMappings"] = map;
    spec["linux"]["namespaces"]
        .as_array_mut()
        .context("no namespaces")?
        .push(json!({"type": "user"}));
    fs::write(&config, spec.to_string())?;
    let refused = bundle.oci(&run)?.refusal()?;
    ensure!(refused.contains("100000"), "{refused}");
    bundle.user.is_idle()
}
