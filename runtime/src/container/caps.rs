//! Capabilities as bit sets (OCI config, "capabilities"). The numbers are the kernel's (linux/capability.h).

use super::sys;
use crate::{Error, Result};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// The five sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sets {
    pub(super) bounding: u64,
    pub(super) effective: u64,
    pub(super) permitted: u64,
    pub(super) inheritable: u64,
    pub(super) ambient: u64,
}

/// The sets of a spec; without any, the process has no capability at all.
pub(super) fn sets(spec: Option<&LinuxCapabilities>) -> Result<Sets> {
    let Some(spec) = spec else {
        return Ok(Sets::default());
    };
    let sets = Sets {
        bounding: bits(spec.bounding().as_ref()),
        effective: bits(spec.effective().as_ref()),
        permitted: bits(spec.permitted().as_ref()),
        inheritable: bits(spec.inheritable().as_ref()),
        ambient: bits(spec.ambient().as_ref()),
    };
    let demand = |fine: bool, rule: &str| {
        if fine {
            Ok(())
        } else {
            Err(Error::Invalid(format!(
                "the process's capabilities do not fit together: {rule}"
            )))
        }
    };
    demand(
        sets.effective & !sets.permitted == 0,
        "every effective one must be permitted",
    )?;
    demand(
        sets.ambient & !(sets.permitted & sets.inheritable) == 0,
        "every ambient one must be permitted and inheritable",
    )?;
    Ok(sets)
}

/// Drops what is not in the bounding set. Needs CAP_SETPCAP.
pub(super) fn bound(sets: &Sets) -> Result<()> {
    for number in 0..64u64 {
        if sets.bounding & (1 << number) != 0 {
            continue;
        }
        match sys::prctl(libc::PR_CAPBSET_DROP, number, 0) {
            Ok(()) => {}
            // The kernel's last capability was the one before.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
            Err(e) => {
                return Err(Error::io(
                    format!("drop capability {number} from the bounding set"),
                    e,
                ));
            }
        }
    }
    Ok(())
}

/// Sets the other four. After the change of user.
pub(super) fn apply(sets: &Sets) -> Result<()> {
    sys::capset(sets.effective, sets.permitted, sets.inheritable).map_err(|e| {
        Error::io(
            "set the process's capabilities (one that the runtime itself does not have cannot be given)",
            e,
        )
    })?;
    for number in 0..64u64 {
        if sets.ambient & (1 << number) != 0 {
            sys::prctl(libc::PR_CAP_AMBIENT, 2, number)
                .map_err(|e| Error::io(format!("raise ambient capability {number}"), e))?;
        }
    }
    Ok(())
}

fn bits(names: Option<&Capabilities>) -> u64 {
    names
        .into_iter()
        .flatten()
        .fold(0, |bits, &name| bits | 1 << number(name))
}

/// A capability's number.
pub(super) fn number(name: Capability) -> u32 {
    match name {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_capabilities_in_the_spec_means_none_at_all() {
        assert_eq!(sets(None).unwrap(), Sets::default());
    }

    #[test]
    fn an_ambient_capability_must_be_permitted_and_inheritable() {
        let mut spec = LinuxCapabilities::default();
        let set: Capabilities = [Capability::NetRaw].into();
        spec.set_ambient(Some(set.clone()))
            .set_permitted(Some(set.clone()))
            .set_inheritable(Some(Capabilities::new()))
            .set_effective(Some(Capabilities::new()));
        assert!(
            sets(Some(&spec))
                .unwrap_err()
                .to_string()
                .contains("ambient")
        );
        spec.set_inheritable(Some(set));
        assert_eq!(sets(Some(&spec)).unwrap().ambient, 1 << 13);
    }
}
