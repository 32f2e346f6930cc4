//! The few switches under /proc/sys/net. The kernel resolves that path by the calling thread's network namespace.

use std::fs;

use crate::error::{Error, Result};

pub(crate) const FORWARDING4: &str = "/proc/sys/net/ipv4/ip_forward";
pub(crate) const FORWARDING6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// Where an interface's route_localnet is.
pub(crate) fn route_localnet(link: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{link}/route_localnet")
}

/// Whether a switch is on; one that does not exist is off.
pub(crate) fn is_on(path: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|value| value.trim() != "0")
}

/// Switches on.
pub(crate) fn enable(path: &str) -> Result<()> {
    fs::write(path, "1").map_err(|source| Error::Sysctl {
        path: path.to_owned(),
        value: "1",
        source,
    })
}
