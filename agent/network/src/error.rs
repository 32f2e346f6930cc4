//! The crate's errors: each says what was attempted, on what, what came back and what to do.

use std::io;

/// What can go wrong when a host's network is programmed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The desired state contradicts itself or asks for what the kernel cannot hold.
    #[error("cannot use {subject}: {reason}")]
    Invalid {
        /// What was refused.
        subject: String,
        /// Why, and what would be accepted.
        reason: String,
    },
    /// The kernel refused one request.
    #[error("cannot {doing}: {source}{}{}", detail.as_ref().map(|d| format!(" ({d})")).unwrap_or_default(), hint(source))]
    Kernel {
        /// What was attempted, and on what.
        doing: String,
        /// The kernel's error number.
        source: io::Error,
        /// The kernel's own words (netlink extended acknowledgement), where it had any.
        detail: Option<String>,
    },
    /// A netlink socket could not be opened, written or read.
    #[error("cannot {doing}: {source}{}", hint(source))]
    Socket {
        /// What was attempted.
        doing: &'static str,
        /// What came back.
        source: io::Error,
    },
    /// The bridge that a container should be attached to is not there.
    #[error(
        "cannot attach {ifname}: bridge {bridge} does not exist; reconcile the host's networks first"
    )]
    NoBridge {
        /// The host's end of the veth pair that was to be made.
        ifname: String,
        /// The bridge that was looked for.
        bridge: String,
    },
    /// A file under /proc/sys could not be read or written.
    #[error("cannot write {value} to {path}: {source}; is /proc mounted read-write?")]
    Sysctl {
        /// The file.
        path: String,
        /// What was to be written.
        value: &'static str,
        /// What came back.
        source: io::Error,
    },
    /// What is needed could not be had at all.
    #[error("cannot program this host's network: {why}")]
    Unsupported {
        /// Why not.
        why: String,
    },
    /// The network thread has ended; only a bug or the process's end causes that.
    #[error("cannot program the network: the network thread has ended; restart the agent")]
    WorkerGone,
}

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "; the agent needs CAP_NET_ADMIN in this network namespace"
        }
        Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => {
            "; the kernel lacks this feature (bridge, vxlan, veth and nf_tables with nat, masq, fib and numgen are needed)"
        }
        _ => "",
    }
}
