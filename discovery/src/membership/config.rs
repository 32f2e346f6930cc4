//! What membership needs to be told, with defaults for a small cluster on one LAN.

use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use super::seal::{self, KeyRing};
use crate::DiscoveryError;

/// The largest datagram sent or accepted, sealing included: fits an Ethernet frame with room for a tunnel's header.
pub const MAX_DATAGRAM: usize = 1400;
/// The largest soft state that a node may publish, in bytes.
pub const MAX_SOFT_STATE: usize = 1024;
/// What foca itself may use of a datagram: one byte tells its messages from ours.
pub(crate) const MAX_GOSSIP: usize = MAX_DATAGRAM - seal::OVERHEAD - 1;

/// The periods and timeouts. With the defaults a killed host of a three-node cluster is declared down in 2 to 2.5 s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// How often one member is probed; also how long a probe may take with the help of others.
    pub probe_period: Duration,
    /// How long a probed member may take to answer directly. Less than `probe_period`.
    pub probe_rtt: Duration,
    /// How long a suspect has to refute. Grows with log10 of the cluster's size and with the local health score.
    pub suspicion: Duration,
    /// How often news is gossiped, while there is any.
    pub gossip_period: Duration,
    /// How often lost contacts (members that are down, seeds that are not members) are tried again.
    pub heal_period: Duration,
    /// How often one random member is asked for members and soft states that this node lacks.
    pub sync_period: Duration,
    /// How long a member that is down stays in the list.
    pub forget_down_after: Duration,
    /// How far the clocks of two nodes may differ before their datagrams are refused as stale.
    pub max_clock_skew: Duration,
    /// How many members help to probe one that does not answer, and get each round of gossip.
    pub fan_out: NonZeroUsize,
    /// The highest local health score: timeouts stretch up to `1 + max_health_score` times.
    pub max_health_score: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            probe_period: Duration::from_millis(400),
            probe_rtt: Duration::from_millis(200),
            suspicion: Duration::from_millis(1400),
            gossip_period: Duration::from_millis(200),
            heal_period: Duration::from_secs(2),
            sync_period: Duration::from_secs(2),
            forget_down_after: Duration::from_secs(24 * 3600),
            max_clock_skew: Duration::from_secs(600),
            fan_out: NonZeroUsize::MIN.saturating_add(2),
            max_health_score: 8,
        }
    }
}

/// What one node's membership is started with.
#[derive(Debug, Clone)]
pub struct MembershipConfig {
    /// This node's id; not 0.
    pub node: u64,
    /// The address that others send gossip to.
    pub advertise: SocketAddr,
    /// Must be higher than at the node's previous start; [`MembershipConfig::new`] takes the wall clock in milliseconds.
    /// A node whose clock went back is refused at first, and then raises its generation by itself.
    pub generation: u64,
    /// Addresses to join through, tried again for as long as no member is there.
    pub seeds: Vec<SocketAddr>,
    /// The keys that datagrams are sealed and opened with.
    pub keys: KeyRing,
    /// Periods and timeouts.
    pub timing: Timing,
    /// Seed of every random choice (whom to probe, the sealing session). It must never repeat under one key, since
    /// nonces hang on it: `None`, for anything but a simulation, takes it from the system.
    pub seed: Option<u64>,
    /// The soft state to start with.
    pub soft_state: bytes::Bytes,
}

impl MembershipConfig {
    /// The defaults for a node that joins through `seeds`.
    #[must_use]
    pub fn new(node: u64, advertise: SocketAddr, seeds: Vec<SocketAddr>, keys: KeyRing) -> Self {
        Self {
            node,
            advertise,
            generation: super::shell::unix_millis(),
            seeds,
            keys,
            timing: Timing::default(),
            seed: None,
            soft_state: bytes::Bytes::new(),
        }
    }

    /// Says what cannot work.
    pub(crate) fn validate(&self) -> Result<(), DiscoveryError> {
        let refuse = |reason: &str| {
            Err(DiscoveryError::Config {
                part: "membership",
                reason: reason.to_owned(),
            })
        };
        let t = &self.timing;
        if self.node == 0 {
            return refuse("the node id 0 is reserved; give the node another");
        }
        if self.advertise.ip().is_unspecified() || self.advertise.port() == 0 {
            return refuse(&format!(
                "others cannot reach the advertised address {}; advertise an address of this host and a port",
                self.advertise
            ));
        }
        if t.probe_rtt.is_zero() || t.probe_rtt >= t.probe_period {
            return refuse("the probe round trip must be above zero and below the probe period");
        }
        if [t.suspicion, t.gossip_period, t.heal_period, t.sync_period]
            .iter()
            .any(Duration::is_zero)
        {
            return refuse("no period may be zero");
        }
        check_soft_state(&self.soft_state)
    }

    /// foca's own settings for a cluster of `nodes`.
    pub(crate) fn foca(&self, nodes: usize) -> foca::Config {
        let t = &self.timing;
        // 4·log10(n+1), and never so few that one lossy second loses news for good.
        let transmissions = (4.0 * ((nodes + 1) as f64).log10()).clamp(10.0, 60.0) as u8;
        foca::Config {
            probe_period: t.probe_period,
            probe_rtt: t.probe_rtt,
            num_indirect_probes: t.fan_out,
            max_transmissions: NonZeroU8::new(transmissions).unwrap_or(NonZeroU8::MIN),
            suspect_to_down_after: t.suspicion,
            remove_down_after: Some(t.forget_down_after),
            max_packet_size: NonZeroUsize::new(MAX_GOSSIP).unwrap_or(NonZeroUsize::MIN),
            notify_down_members: true,
            periodic_announce: Some(foca::PeriodicParams {
                frequency: Duration::from_secs(15),
                num_members: NonZeroUsize::MIN,
            }),
            // The core announces to lost members itself: foca stops doing so once it is alone.
            periodic_announce_to_down_members: None,
            periodic_gossip: Some(foca::PeriodicParams {
                frequency: t.gossip_period,
                num_members: t.fan_out,
            }),
        }
    }
}

/// Refuses a soft state that would not fit a datagram.
pub(crate) fn check_soft_state(state: &[u8]) -> Result<(), DiscoveryError> {
    if state.len() > MAX_SOFT_STATE {
        return Err(DiscoveryError::SoftStateTooBig {
            size: state.len(),
            max: MAX_SOFT_STATE,
        });
    }
    Ok(())
}
