//! Images from a registry: Debian's docker-registry on one of the hosts, and what skopeo puts there.

use crate::{UP, alone, refused, run};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use swarm_tests::host::Host;
use swarm_tests::{Cluster, images, wait_until, with_hosts};

/// What a registry or skopeo take at most, on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// A registry on a host; it ends with the test.
pub(crate) struct Registry<'a> {
    pub(crate) host: &'a Host,
    process: Child,
}

impl Drop for Registry<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl<'a> Registry<'a> {
    pub(crate) fn start(host: &'a Host) -> Result<Self> {
        let folder = host.scratch()?;
        let file = folder.join("registry.yml");
        std::fs::write(
            &file,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{}:5000\"}}\n",
                folder.join("registry").display(),
                host.address
            ),
        )?;
        let log = std::fs::File::create(folder.join("registry.log"))?;
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null());
        let process = host
            .spawn_inside(&mut command)
            .context("is docker-registry installed? tests/install-deps.sh does that")?;
        let registry = Self { host, process };
        let address = std::net::SocketAddr::from((host.address, 5000));
        wait_until("the registry answers", LONG, || host.http(address, "/v2/"))?;
        Ok(registry)
    }

    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}:5000/{name}", self.host.address)
    }

    /// How often each blob was fetched so far, by its digest.
    pub(crate) fn fetched(&self) -> Result<BTreeMap<String, usize>> {
        let log = std::fs::read_to_string(self.host.scratch()?.join("registry.log"))?;
        let mut fetched = BTreeMap::new();
        for line in log.lines().filter(|line| line.contains("\"GET /v2/")) {
            let digest = line
                .split_once("/blobs/")
                .and_then(|(_, rest)| rest.split(' ').next());
            if let Some(digest) = digest {
                *fetched.entry(digest.to_owned()).or_default() += 1;
            }
        }
        Ok(fetched)
    }

    /// Puts busybox there, with `text` in `/version`.
    pub(crate) fn put(&self, name: &str, text: &str) -> Result<()> {
        self.put_layers(name, text, 0)
    }

    /// As [`Registry::put`], with so many layers more, of which each has a file `/layers/N`.
    pub(crate) fn put_layers(&self, name: &str, text: &str, more: usize) -> Result<()> {
        self.put_sized(name, text, more, 80_000)
    }

    /// As [`Registry::put_layers`], each of their files being of so many bytes.
    pub(crate) fn put_sized(
        &self,
        name: &str,
        text: &str,
        more: usize,
        bytes: usize,
    ) -> Result<()> {
        let folder = self.host.scratch()?.join(format!("image-{text}"));
        let layout = folder.join("layout");
        std::fs::create_dir_all(&folder)?;
        images::busybox_tar(&folder)?;
        let root = folder.join("busybox");
        std::fs::write(root.join("version"), format!("{text}\n"))?;
        let at = layout.display();
        let umoci = |line: String| -> Result<()> {
            let mut command = Command::new("umoci");
            command.args(line.split(' '));
            self.host.run(&mut command, LONG)?.ok()?;
            Ok(())
        };
        umoci(format!("init --layout {at}"))?;
        umoci(format!("new --image {at}:latest"))?;
        umoci(format!("insert --image {at}:latest {} /", root.display()))?;
        for n in 0..more {
            let file = folder.join(format!("layer-{n}"));
            let line = format!("layer {n} of {text}\n");
            std::fs::write(&file, line.repeat(bytes / line.len()))?;
            umoci(format!(
                "insert --image {at}:latest {} /layers/{n}",
                file.display()
            ))?;
        }
        umoci(format!(
            "config --image {at}:latest --config.cmd sleep --config.cmd 3600 --config.env PATH=/bin --config.user guest"
        ))?;
        self.copy(
            &["--dest-tls-verify=false"],
            &format!("oci:{at}:latest"),
            &format!("docker://{}", self.name(name)),
        )
    }

    pub(crate) fn copy(&self, options: &[&str], from: &str, to: &str) -> Result<()> {
        let mut skopeo = Command::new("skopeo");
        skopeo
            .args(["--insecure-policy", "copy", "--quiet"])
            .args(options)
            .args([from, to]);
        self.host.run(&mut skopeo, LONG)?.ok()?;
        Ok(())
    }
}

pub(crate) fn version(host: &Host, task: &str) -> Result<String> {
    host.ok(&["exec", task, "cat", "/version"])
}

/// Hosts that may speak to registries of theirs without TLS.
pub(crate) fn hosts(count: usize) -> swarm_tests::Builder {
    alone(count).argument("--insecure-registries=10.0.0.0/8")
}

pub(crate) fn formed(test: impl FnOnce(&Cluster) -> Result<()>) {
    with_hosts(hosts(3), |c| {
        c.form()?;
        test(c)
    });
}

#[test]
fn an_image_is_pulled_once_and_runs_on_all_hosts_also_when_its_registry_has_gone() {
    formed(|c| {
        let one = c.host(1);
        let registry = Registry::start(c.host(2))?;
        registry.put("team/web:1", "first")?;
        let name = registry.name("team/web:1");
        let tasks = run(one, "web", 3, &["--replicas", "3", &name])?;
        let nodes: std::collections::BTreeSet<_> = tasks.iter().map(|t| &t.node).collect();
        ensure!(nodes.len() == 3, "{tasks:?}");
        for task in &tasks {
            ensure!(version(one, &task.name)? == "first");
            ensure!(one.ok(&["exec", &task.name, "whoami"])? == "guest");
        }
        // The tag moves on. What runs, and what takes its place, does not.
        registry.put("team/web:1", "second")?;
        one.ok(&["image", "pull", &name])?;
        drop(registry);
        one.ok(&["service", "scale", "web=4"])?;
        let tasks = one.wait_running("web", 4, UP)?;
        for task in &tasks {
            ensure!(version(c.host(3), &task.name)? == "first", "{}", task.name);
        }
        // What the cluster knows needs no registry.
        let new = run(c.host(3), "new", 3, &["--replicas", "3", &name])?;
        for task in &new {
            ensure!(version(one, &task.name)? == "second", "{}", task.name);
        }
        refused(one, &["run", "-d", "--pull", "always", &name], &["5000"])?;
        // From any host into a file, and back under another name.
        let file = c.host(3).scratch()?.join("saved.tar");
        let file = file.to_string_lossy();
        c.host(3).ok(&["image", "save", "-f", &file, &name])?;
        ensure!(
            c.host(2)
                .ok(&["image", "load", "--name", "loaded", &file])?
                == "loaded:latest"
        );
        run(one, "loaded", 1, &["loaded"])?;
        ensure!(version(one, "loaded.1")? == "second");
        // What nobody uses goes when one says so, and nothing else.
        one.ok(&["service", "rm", "loaded"])?;
        let before = one.json(&["image", "ls"])?;
        one.ok(&["image", "prune"])?;
        ensure!(one.json(&["image", "ls"])? == before);
        wait_until("only the loaded one goes", UP, || {
            one.ok(&["image", "prune", "--force"])?;
            let images = one.json(&["image", "ls"])?.to_string();
            ensure!(
                !images.contains("loaded") && images.contains("whoami") && images.contains("5000"),
                "{images}"
            );
            Ok(())
        })
    });
}

#[test]
fn what_no_registry_has_is_refused_in_one_line_and_one_host_alone_pulls_as_well() {
    with_hosts(hosts(1), |c| {
        let one = c.host(1);
        let registry = Registry::start(one)?;
        registry.put("web:1", "alone")?;
        let name = registry.name("web:1");
        one.local(&["run", "-d", "--name", "web", "--network", "none", &name])?
            .ok()?;
        wait_until("its task runs", UP, || {
            let out = one.local(&["exec", "web.1", "cat", "/version"])?.ok()?;
            ensure!(out.stdout == "alone\n");
            Ok(())
        })?;
        for (bad, word) in [
            (registry.name("nothing:1"), "nothing"),
            ("nginx".into(), "docker.io/library/nginx"),
            ("127.0.0.1:1/x".into(), "127.0.0.1:1"),
        ] {
            let message = one.local(&["image", "pull", &bad])?.refusal()?;
            ensure!(message.contains(word), "{message}");
        }
        Ok(())
    });
}

#[test]
fn images_that_nobody_has_used_for_long_go_by_themselves_and_no_others() {
    let eager = ["--image-gc-age=3s", "--image-gc-interval=500ms"];
    let builder = eager.iter().fold(hosts(2), |b, a| b.argument(a));
    with_hosts(builder, |c| {
        c.form()?;
        let (one, two) = (c.host(1), c.host(2));
        let registry = Registry::start(one)?;
        registry.put("used:1", "used")?;
        registry.put("idle:1", "idle")?;
        crate::busybox(two)?;
        let (used, idle) = (registry.name("used:1"), registry.name("idle:1"));
        run(two, "web", 2, &["--replicas", "2", &used])?;
        one.ok(&["image", "pull", &idle])?;
        wait_until("the idle one goes", UP, || {
            let names = one.json(&["image", "ls"])?.to_string();
            ensure!(!names.contains("idle"), "{names}");
            Ok(())
        })?;
        wait_until("its layers go as well", UP, || {
            let usage = two.json(&["df"])?.to_string();
            ensure!(!usage.contains("idle"), "{usage}");
            Ok(())
        })?;
        // What a service wants stays, and what no registry has.
        let names = two.json(&["image", "ls"])?.to_string();
        ensure!(
            names.contains("used:1") && names.contains("busybox") && names.contains("whoami"),
            "{names}"
        );
        one.ok(&["service", "scale", "web=3"])?;
        one.wait_running("web", 3, UP)?;
        // And it comes back when it is asked for.
        run(two, "idle", 1, &[&idle])?;
        Ok(())
    });
}
