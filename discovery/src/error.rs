//! The errors of this crate: what was attempted, on what, and what to do.

/// What can go wrong when membership or DNS is set up or told to do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// A configuration that cannot work.
    #[error("cannot start {part}: {reason}")]
    Config {
        /// The part that was to start.
        part: &'static str,
        /// What is wrong with its configuration.
        reason: String,
    },
    /// The soft state does not fit into one gossip datagram.
    #[error(
        "cannot gossip a soft state of {size} bytes: at most {max} fit into one datagram; publish less"
    )]
    SoftStateTooBig {
        /// Size of what was to be published, in bytes.
        size: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// The loop that serves this handle has ended.
    #[error("cannot {attempted}: {part} has been shut down")]
    Stopped {
        /// What was asked for.
        attempted: &'static str,
        /// The part that is gone.
        part: &'static str,
    },
    /// A key ring without the key that it is to seal with, or with none at all.
    #[error("cannot use the gossip key ring: {0}")]
    Keys(String),
    /// A socket could not be used.
    #[error("cannot {attempted}: {source}")]
    Io {
        /// What was attempted, with the address.
        attempted: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A domain that is not a DNS name.
    #[error("cannot serve the domain {domain:?}: {reason}; use a name such as \"swarm.\"")]
    Domain {
        /// The domain as configured.
        domain: String,
        /// Why it was refused.
        reason: String,
    },
}
