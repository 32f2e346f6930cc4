//! What the operator says: flags, `SWARMD_…` variables and a TOML file, in this order of precedence.
//! Knows nothing of what the settings are used for.

use crate::rootless;
use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use swarm_api::model::parse_duration;
use swarm_runtime::host::GcPolicy;
use swarm_runtime::registry::{Proxies, RegistryConfig};

/// The agent of a small container cluster.
#[derive(Debug, Parser)]
#[command(
    name = "swarmd",
    version,
    about,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// What to do; `run` if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings of `run`.
    #[command(flatten)]
    pub settings: Settings,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)] // One is made in a program's life.
pub enum Command {
    /// Run the agent until SIGTERM or SIGINT; containers keep running.
    Run(Settings),
    /// Run a program as root of an ordinary user's containers: files that belong to their other users can be seen to and removed.
    #[command(
        after_help = "Example, to remove everything that this user's agent has kept:\n  swarmd unshare rm -rf ~/.local/share/swarmd"
    )]
    Unshare {
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<std::ffi::OsString>,
    },
    /// Hold one container (started by the agent itself).
    #[command(hide = true)]
    Shim {
        /// The container's directory.
        #[arg(long)]
        dir: PathBuf,
    },
}

/// Settings as they are given; what is `None` has a default or comes from the file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Settings {
    /// Read further settings from this TOML file; its keys are these flags' names
    #[arg(long, env = "SWARMD_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Keep everything that must outlive a reboot here [default: /var/lib/swarmd; of an ordinary user ~/.local/share/swarmd]
    #[arg(long, env = "SWARMD_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Make sockets here: cluster.sock for the cluster, host.sock for this host alone [default: /run/swarmd; of an ordinary user $XDG_RUNTIME_DIR/swarmd]
    #[arg(long, env = "SWARMD_RUN_DIR", value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Call this host so in the cluster [default: its host name]
    #[arg(long, env = "SWARMD_NAME")]
    pub name: Option<String>,
    /// Tell others to reach this host at this address [default: that of the default route's interface]
    #[arg(long, env = "SWARMD_ADVERTISE_ADDR", value_name = "IP")]
    pub advertise_addr: Option<IpAddr>,
    /// Listen for other agents here [default: all addresses]
    #[arg(long, env = "SWARMD_LISTEN_ADDR", value_name = "IP")]
    pub listen_addr: Option<IpAddr>,
    /// The port between agents: TLS over TCP, gossip over UDP [default: 7946]
    #[arg(long, env = "SWARMD_PORT")]
    pub port: Option<u16>,
    /// Answer DNS for programs outside of containers here [default: 127.0.0.1:53]
    #[arg(long, env = "SWARMD_DNS_LISTEN", value_name = "IP:PORT")]
    pub dns_listen: Option<SocketAddr>,
    /// Make containers' control groups below this one [default: swarmd]
    #[arg(long, env = "SWARMD_CGROUP_PARENT", value_name = "NAME")]
    pub cgroup_parent: Option<String>,
    /// Speak to these registries without TLS where they know none: HOST, HOST:PORT or an IP network [default: none; this host's own addresses always may]
    #[arg(
        long,
        env = "SWARMD_INSECURE_REGISTRIES",
        value_name = "REGISTRY",
        value_delimiter = ','
    )]
    pub insecure_registries: Vec<String>,
    /// Trust, beside the system's, the certificates in DIR/HOST[:PORT]/*.crt for that registry [default: /etc/swarmd/certs.d]
    #[arg(long, env = "SWARMD_REGISTRY_CA_DIR", value_name = "DIR")]
    pub registry_ca_dir: Option<PathBuf>,
    /// Take credentials for registries from this file of Docker's [default: ~/.docker/config.json]
    #[arg(long, env = "SWARMD_REGISTRY_CREDENTIALS", value_name = "FILE")]
    pub registry_credentials: Option<PathBuf>,
    /// Ask a mirror before a registry, such as docker.io=mirror.example:5000
    #[arg(
        long,
        env = "SWARMD_REGISTRY_MIRRORS",
        value_name = "REGISTRY=MIRROR",
        value_delimiter = ','
    )]
    pub registry_mirrors: Vec<String>,
    /// Pull names without a registry from this one, such as docker.io [default: such names are not pulled]
    #[arg(long, env = "SWARMD_DEFAULT_REGISTRY", value_name = "REGISTRY")]
    pub default_registry: Option<String>,
    /// Remove images that nothing has used for so long, if they can be had again: from a registry or another host; never, or such as 12h or 7d [default: 30d]
    #[arg(long, env = "SWARMD_IMAGE_GC_AGE", value_name = "DURATION")]
    pub image_gc_age: Option<String>,
    /// Remove unused images, the longest unused first, while the data directory's disk is fuller than so many percent; 100 turns it off [default: 85]
    #[arg(long, env = "SWARMD_IMAGE_GC_HIGH", value_name = "PERCENT")]
    pub image_gc_high: Option<u8>,
    /// Until it is no fuller than so many [default: 75]
    #[arg(long, env = "SWARMD_IMAGE_GC_LOW", value_name = "PERCENT")]
    pub image_gc_low: Option<u8>,
    /// Look for such images so often [default: 5m]
    #[arg(long, env = "SWARMD_IMAGE_GC_INTERVAL", value_name = "DURATION")]
    pub image_gc_interval: Option<String>,
    /// Give images to other agents, and take them from these, at no more than so much a second each, such as 20MiB [default: as fast as it goes]
    #[arg(long, env = "SWARMD_IMAGE_RATE", value_name = "BYTES")]
    pub image_rate: Option<String>,
    /// Log this: error, warn, info, debug, trace, or a filter such as info,swarm_consensus=debug [default: info]
    #[arg(long, env = "SWARMD_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

/// Settings, complete and checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// See [`Settings::data_dir`].
    pub data_dir: PathBuf,
    /// See [`Settings::run_dir`].
    pub run_dir: PathBuf,
    /// See [`Settings::name`].
    pub name: String,
    /// See [`Settings::advertise_addr`].
    pub advertise: Option<IpAddr>,
    /// See [`Settings::listen_addr`] and [`Settings::port`].
    pub listen: SocketAddr,
    /// See [`Settings::dns_listen`]; whether it was asked for, so that a failure to bind is an error.
    pub dns_listen: (SocketAddr, bool),
    /// See [`Settings::cgroup_parent`].
    pub cgroup_parent: String,
    /// Where images are pulled from.
    pub registry: RegistryConfig,
    /// When images go by themselves.
    pub gc: GcPolicy,
    /// See [`Settings::image_rate`]; bytes a second.
    pub image_rate: Option<u64>,
    /// Whether this is an ordinary user's agent: one host alone.
    pub rootless: bool,
    /// See [`Settings::log`].
    pub log: String,
}

impl Settings {
    /// Completes the settings from the file and the defaults.
    ///
    /// # Errors
    /// When the file cannot be read or understood, or a value cannot be used.
    pub fn complete(self) -> Result<Config> {
        let file = match &self.config {
            Some(path) => read(path)?,
            None => Self::default(),
        };
        let host = || -> Result<String> {
            let name = rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .to_lowercase();
            Ok(name.split('.').next().unwrap_or("node").to_owned())
        };
        let registry = self.registry(&file)?;
        let gc = self.gc(&file)?;
        let name = match self.name.or(file.name) {
            Some(name) => name,
            None => host()?,
        };
        swarm_api::model::validate_name("node", &name)
            .context("the node cannot be called so; give another name with --name")?;
        let port = self.port.or(file.port).unwrap_or(7946);
        if port == 0 {
            bail!("port 0 cannot be used between agents; give a port from 1 to 65535");
        }
        let advertise = self.advertise_addr.or(file.advertise_addr);
        if let Some(ip) = advertise
            && (ip.is_unspecified() || ip.is_multicast())
        {
            bail!("others cannot reach {ip}; give an address of this host with --advertise-addr");
        }
        let dns = self.dns_listen.or(file.dns_listen);
        let cgroup_parent = self.cgroup_parent.or(file.cgroup_parent);
        let cgroup_parent = cgroup_parent.unwrap_or_else(|| "swarmd".into());
        if cgroup_parent.is_empty()
            || cgroup_parent.contains("..")
            || cgroup_parent.starts_with('/')
        {
            bail!("\"{cgroup_parent}\" is not a control group's name; give one such as swarmd");
        }
        let image_rate = match self.image_rate.as_ref().or(file.image_rate.as_ref()) {
            None => None,
            Some(text) => Some(rate(text)?),
        };
        let absolute = |path: PathBuf| {
            std::path::absolute(&path).with_context(|| format!("cannot use {}", path.display()))
        };
        let rootless = rootless::is();
        let data_dir = match self.data_dir.or(file.data_dir) {
            Some(dir) => dir,
            None if rootless => rootless::data_dir()?,
            None => "/var/lib/swarmd".into(),
        };
        let run_dir = match self.run_dir.or(file.run_dir) {
            Some(dir) => dir,
            None if rootless => rootless::run_dir()?,
            None => "/run/swarmd".into(),
        };
        Ok(Config {
            data_dir: absolute(data_dir)?,
            run_dir: absolute(run_dir)?,
            rootless,
            name,
            advertise,
            listen: SocketAddr::new(
                self.listen_addr
                    .or(file.listen_addr)
                    .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                port,
            ),
            dns_listen: (
                dns.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 53))),
                dns.is_some(),
            ),
            cgroup_parent,
            registry,
            image_rate,
            gc,
            log: self
                .log
                .or(file.log)
                .unwrap_or_else(|| "info,openraft=warn".into()),
        })
    }
}

impl Settings {
    fn gc(&self, file: &Self) -> Result<GcPolicy> {
        let standard = GcPolicy::default();
        let high = self.image_gc_high.or(file.image_gc_high);
        let low = self.image_gc_low.or(file.image_gc_low);
        let high = high.unwrap_or(standard.high);
        // One that is given alone takes the other with it.
        let low = low.unwrap_or_else(|| standard.low.min(high));
        if high > 100 || low > high {
            bail!(
                "images cannot go from {high} % of the disk until {low} %: give percents with --image-gc-low no higher than --image-gc-high"
            );
        }
        let age = self.image_gc_age.as_ref().or(file.image_gc_age.as_ref());
        let age = match age.map(String::as_str) {
            None => standard.age,
            Some("never") => None,
            Some(text) => Some(parse_duration(text).context("--image-gc-age")?),
        };
        let interval = self.image_gc_interval.as_ref();
        let interval = match interval.or(file.image_gc_interval.as_ref()) {
            None => standard.interval,
            Some(text) => Some(parse_duration(text).context("--image-gc-interval")?),
        };
        if interval.is_some_and(|i| i.is_zero()) {
            bail!("--image-gc-interval cannot be 0; give a duration such as 5m");
        }
        Ok(GcPolicy {
            age,
            high,
            low,
            interval,
        })
    }

    fn registry(&self, file: &Self) -> Result<RegistryConfig> {
        let given =
            |own: &[String], other: &[String]| if own.is_empty() { other } else { own }.to_vec();
        let mirror = |text: String| match text.split_once('=') {
            Some((registry, mirror)) if !registry.is_empty() && !mirror.is_empty() => {
                Ok((registry.to_owned(), mirror.to_owned()))
            }
            _ => bail!(
                "\"{text}\" is not a mirror; give one as REGISTRY=MIRROR, such as docker.io=mirror.example:5000"
            ),
        };
        let mirrors = given(&self.registry_mirrors, &file.registry_mirrors);
        Ok(RegistryConfig {
            insecure: given(&self.insecure_registries, &file.insecure_registries),
            ca_dir: Some(
                (self.registry_ca_dir.clone())
                    .or(file.registry_ca_dir.clone())
                    .unwrap_or_else(|| "/etc/swarmd/certs.d".into()),
            ),
            credentials: Some(
                (self.registry_credentials.clone())
                    .or(file.registry_credentials.clone())
                    .unwrap_or_else(docker_s),
            ),
            mirrors: mirrors.into_iter().map(mirror).collect::<Result<_>>()?,
            proxies: Proxies::of_environment()
                .context("the environment's proxies cannot be used")?,
            default: self
                .default_registry
                .clone()
                .or(file.default_registry.clone()),
        })
    }
}

/// Bytes a second: a size as limits have it, with or without `/s`.
fn rate(text: &str) -> Result<u64> {
    let size = text.strip_suffix("/s").unwrap_or(text);
    match swarm_api::model::parse_bytes(size) {
        Ok(rate) if rate > 0 => Ok(rate),
        _ => bail!("\"{text}\" is not a rate; give --image-rate bytes a second, such as 20MiB"),
    }
}

/// Where Docker's programs keep credentials.
fn docker_s() -> PathBuf {
    let own = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    own.unwrap_or_else(|| home().join(".docker"))
        .join("config.json")
}

fn read(path: &Path) -> Result<Settings> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
    toml::from_str(&text).with_context(|| {
        format!(
            "cannot understand the configuration file {}",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("swarmd.toml");
        std::fs::write(&path, "name = \"from-file\"\nport = 1234\n").unwrap();
        let settings = Settings {
            config: Some(path),
            name: Some("from-flag".into()),
            ..Settings::default()
        };
        let config = settings.complete().unwrap();
        assert_eq!(
            (config.name.as_str(), config.listen.port()),
            ("from-flag", 1234)
        );
        assert_eq!(config.data_dir, PathBuf::from("/var/lib/swarmd"));
    }

    #[test]
    fn registries_come_from_flags_and_from_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("swarmd.toml");
        let text = "insecure-registries = [\"a:1\"]\ndefault-registry = \"docker.io\"\nregistry-mirrors = [\"docker.io=b:2\"]\n";
        std::fs::write(&path, text).unwrap();
        let settings = |insecure: &[&str], mirrors: &[&str]| Settings {
            config: Some(path.clone()),
            name: Some("a".into()),
            insecure_registries: insecure.iter().map(ToString::to_string).collect(),
            registry_mirrors: mirrors.iter().map(ToString::to_string).collect(),
            ..Settings::default()
        };
        let registry = settings(&[], &[]).complete().unwrap().registry;
        assert_eq!(registry.insecure, ["a:1"]);
        assert_eq!(registry.mirrors, [("docker.io".into(), "b:2".into())]);
        assert_eq!(registry.default.as_deref(), Some("docker.io"));
        assert_eq!(
            settings(&["c"], &[]).complete().unwrap().registry.insecure,
            ["c"]
        );
        let error = settings(&[], &["nonsense"]).complete().unwrap_err();
        assert!(error.to_string().contains("nonsense"));
    }

    #[test]
    fn when_images_go_is_checked() {
        let settings = |age: Option<&str>, high, low| Settings {
            name: Some("a".into()),
            image_gc_age: age.map(Into::into),
            image_gc_high: high,
            image_gc_low: low,
            ..Settings::default()
        };
        let gc = |age, high, low| settings(age, high, low).complete().map(|c| c.gc);
        assert_eq!(gc(None, None, None).unwrap(), GcPolicy::default());
        assert_eq!(gc(Some("never"), None, None).unwrap().age, None);
        let low = gc(Some("2d"), Some(50), None).unwrap();
        assert_eq!(
            (low.age.unwrap().as_secs(), low.high, low.low),
            (172_800, 50, 50)
        );
        for (age, high, low) in [
            (Some("soon"), None, None),
            (None, Some(101), None),
            (None, Some(50), Some(60)),
        ] {
            assert!(gc(age, high, low).is_err());
        }
    }

    #[test]
    fn a_rate_is_a_size_a_second() {
        let settings = |text: &str| Settings {
            name: Some("a".into()),
            image_rate: Some(text.into()),
            ..Settings::default()
        };
        let rate = |text| settings(text).complete().map(|config| config.image_rate);
        assert_eq!(rate("20MiB").unwrap(), Some(20 << 20));
        assert_eq!(rate("1MiB/s").unwrap(), Some(1 << 20));
        for wrong in ["0", "fast", "-1"] {
            assert!(rate(wrong).unwrap_err().to_string().contains(wrong));
        }
    }

    #[test]
    fn an_unknown_key_in_the_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("swarmd.toml");
        std::fs::write(&path, "prot = 1\n").unwrap();
        let settings = Settings {
            config: Some(path),
            ..Settings::default()
        };
        assert!(format!("{:#}", settings.complete().unwrap_err()).contains("prot"));
    }
}
