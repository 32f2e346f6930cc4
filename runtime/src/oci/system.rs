//! System containers: a distribution's root file system with its own init and the services below that. What an init expects of its
//! surroundings is as systemd has it in its "Container Interface", which others follow.

use serde_json::{Value, json};

/// Programs that are an init wherever they are: the container is a system container if its program is one of them.
const INITS: [&str; 9] = [
    "/init",
    "/sbin/init",
    "/usr/sbin/init",
    "/usr/local/sbin/init",
    "/bin/systemd",
    "/usr/bin/systemd",
    "/lib/systemd/systemd",
    "/usr/lib/systemd/systemd",
    "/sbin/openrc-init",
];

/// The signal that makes systemd stop all services and then itself; what makes others do so an image says by `STOPSIGNAL`.
pub(super) const STOP_SIGNAL: &str = "SIGRTMIN+3";

/// How an init knows that it is in a container.
pub(super) const ENV: &str = "container=oci";

/// Whether this program is an init.
pub(super) fn is_init(program: &str) -> bool {
    INITS.contains(&program) || ["init", "systemd"].contains(&program)
}

/// What an ordinary container does not have: memory where an init keeps the state of a boot, and control groups of its own
/// that it may part among its services.
pub(super) fn mounts() -> Vec<Value> {
    let memory = |to: &str, options: &[&str]| json!({ "destination": to, "type": "tmpfs", "source": "tmpfs", "options": options });
    vec![
        json!({
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "rw"],
        }),
        memory("/run", &["nosuid", "nodev", "mode=755"]),
        memory("/run/lock", &["nosuid", "nodev", "noexec", "mode=1777"]),
        memory("/tmp", &["nosuid", "nodev", "mode=1777"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_init_is_known_by_its_path() {
        assert!(is_init("/sbin/init") && is_init("/lib/systemd/systemd") && is_init("init"));
        assert!(!is_init("/usr/bin/tini") && !is_init("/app/init") && !is_init(""));
    }
}
