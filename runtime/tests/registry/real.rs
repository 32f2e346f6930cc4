//! Against Debian's docker-registry, with images that skopeo puts there.

use crate::image::{Packed, Parts, layer};
use crate::{ARCH, host, pull};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use swarm_api::backend::PullPolicy;
use swarm_runtime::registry::RegistryConfig;
use tempfile::TempDir;

/// A registry on this host; it ends with the test.
pub(crate) struct Registry {
    process: Child,
    pub(crate) port: u16,
    temp: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    pub(crate) fn start(tls: bool) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let dir = temp.path();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {0}/store}}}}\n\
             http:\n  addr: 127.0.0.1:{port}\n",
            dir.display()
        );
        if tls {
            config += &certify(dir);
        }
        std::fs::write(dir.join("config.yml"), config).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed (tests/install-deps.sh)");
        let registry = Self {
            process,
            port,
            temp,
        };
        let patience = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < patience, "the registry does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    pub(crate) fn put(&self, parts: &Parts, name: &str, more: &[&str]) {
        let layout = self.temp.path().join(name.replace(['/', ':'], "-"));
        parts.layout(&layout);
        let output = Command::new("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "--dest-tls-verify=false",
            ])
            .args(more)
            .arg(format!("oci:{}:latest", layout.display()))
            .arg(format!("docker://127.0.0.1:{}/{name}", self.port))
            .output()
            .expect("skopeo is installed (tests/install-deps.sh)");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    pub(crate) fn name(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// Has its authority trusted where it goes by `name`.
    pub(crate) fn trust(&self, ca_dir: &Path, name: &str) {
        let own = ca_dir.join(name);
        std::fs::create_dir_all(&own).unwrap();
        std::fs::copy(self.temp.path().join("ca.crt"), own.join("ca.crt")).unwrap();
    }

    /// Writes its user and password into a credential file.
    pub(crate) fn write_credentials(&self, file: &Path) {
        let auths = format!(
            r#"{{"auths":{{"127.0.0.1:{}":{{"auth":"dTpw"}}}}}}"#,
            self.port
        );
        std::fs::write(file, auths).unwrap();
    }
}

/// A configuration that trusts a registry with TLS, and its credential file, which is not there yet.
pub(crate) fn trusting(registry: &Registry, dir: &Path) -> (RegistryConfig, PathBuf) {
    let (folder, credentials) = (dir.join("certs"), dir.join("config.json"));
    registry.trust(&folder, &format!("127.0.0.1:{}", registry.port));
    let config = RegistryConfig {
        ca_dir: Some(folder),
        credentials: Some(credentials.clone()),
        ..RegistryConfig::default()
    };
    (config, credentials)
}

/// A certificate of an authority of its own, whom nobody trusts yet: `ca.crt`.
fn certify(dir: &Path) -> String {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key).unwrap();
    std::fs::write(dir.join("ca.crt"), certificate.pem()).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "reg.test".to_owned()];
    let own = rcgen::CertificateParams::new(names).unwrap();
    let own = own.signed_by(&key, &issuer).unwrap();
    std::fs::write(dir.join("own.crt"), own.pem()).unwrap();
    std::fs::write(dir.join("own.key"), key.serialize_pem()).unwrap();
    let at = dir.display();
    let made = Command::new("htpasswd").args(["-Bbn", "u", "p"]).output();
    let made = made.expect("htpasswd is installed (tests/install-deps.sh)");
    std::fs::write(dir.join("users"), made.stdout).unwrap();
    format!(
        "  tls: {{certificate: {at}/own.crt, key: {at}/own.key}}\n\
         auth: {{htpasswd: {{realm: r, path: {at}/users}}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_comes_from_a_real_registry_in_every_compression_by_tag_and_by_digest() {
    let registry = Registry::start(false);
    let temp = tempfile::tempdir().unwrap();
    let parts = Parts::new(
        &[
            (layer("one", 400_000), Packed::Gzip),
            (layer("second", 300_000), Packed::Zstd),
            (layer("the-third", 200_000), Packed::Plain),
        ],
        ARCH,
    );
    registry.put(&parts, "team/web:1", &["--preserve-digests"]);
    // The same as Docker's older schema.
    let old = Parts::new(
        &[
            (layer("one", 400_000), Packed::Gzip),
            (layer("old", 1000), Packed::Gzip),
        ],
        ARCH,
    );
    registry.put(&old, "old:1", &["--format", "v2s2"]);
    let host = host(temp.path(), RegistryConfig::default()).await;
    let image = pull(&host, &registry.name("team/web:1"), PullPolicy::Missing)
        .await
        .unwrap();
    assert_eq!(image.layers, parts.diff_ids);
    assert_eq!(image.manifest, Some(parts.digest()));
    let pinned = registry.name(&format!("team/web@{}", parts.digest()));
    assert_eq!(
        pull(&host, &pinned, PullPolicy::Missing)
            .await
            .unwrap()
            .digest,
        image.digest
    );
    let old_image = pull(&host, &registry.name("old:1"), PullPolicy::Missing)
        .await
        .unwrap();
    assert_eq!(old_image.layers, old.diff_ids);
    // Nothing changes for a service that names the digest when the tag moves on.
    registry.put(&old, "team/web:1", &[]);
    let moved = pull(&host, &registry.name("team/web:1"), PullPolicy::Always)
        .await
        .unwrap();
    assert_eq!(moved.layers, old.diff_ids);
    assert_eq!(
        pull(&host, &pinned, PullPolicy::Always)
            .await
            .unwrap()
            .layers,
        parts.diff_ids
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_of_one_s_own_is_trusted_by_its_authority_and_asked_with_a_password() {
    let registry = Registry::start(true);
    let temp = tempfile::tempdir().unwrap();
    let parts = Parts::new(&[(layer("one", 100_000), Packed::Gzip)], ARCH);
    registry.put(&parts, "web:1", &["--dest-creds", "u:p"]);
    let name = registry.name("web:1");
    let folder = temp.path().join("certs");
    let credentials = temp.path().join("config.json");
    let config = RegistryConfig {
        ca_dir: Some(folder.clone()),
        credentials: Some(credentials.clone()),
        ..RegistryConfig::default()
    };
    let host = host(temp.path(), config).await;
    // Not even on this host is somebody believed who shows a certificate that is not to be trusted.
    let why = pull(&host, &name, PullPolicy::Missing)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        why.contains("certificate") && why.contains("ca.crt"),
        "{why}"
    );
    registry.trust(&folder, &format!("127.0.0.1:{}", registry.port));
    let why = pull(&host, &name, PullPolicy::Missing)
        .await
        .unwrap_err()
        .to_string();
    assert!(why.contains("docker login"), "{why}");
    registry.write_credentials(&credentials);
    let image = pull(&host, &name, PullPolicy::Missing).await.unwrap();
    assert_eq!(image.layers, parts.diff_ids);
}
