//! Which known UDP flows the kernel must forget when published ports change. Pure.
//!
//! The kernel translates only a flow's first packet anew, and a UDP client that keeps sending from one port is one flow
//! for ever: without this it would go on talking to a task that is gone. TCP connections are left alone, so that a task
//! that is being replaced can finish with its clients.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ipnet::IpNet;

use crate::model::{HostNetwork, Protocol};

/// What decides about flows: the cluster's subnets and where published UDP ports lead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    subnets: Vec<IpNet>,
    udp: BTreeMap<u16, BTreeSet<SocketAddr>>,
}

/// A UDP flow that the kernel tracks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Where its first packet went to.
    pub(crate) to: SocketAddr,
    /// Who answers, after translation.
    pub(crate) answered_by: SocketAddr,
    /// Whether an answer was seen.
    pub(crate) answered: bool,
}

impl Flows {
    pub(crate) fn of(desired: &HostNetwork) -> Self {
        let v6 = desired
            .networks
            .iter()
            .filter_map(|n| n.v6)
            .map(|v6| IpNet::V6(v6.subnet));
        let mut udp: BTreeMap<u16, BTreeSet<SocketAddr>> = BTreeMap::new();
        for port in desired
            .ports
            .iter()
            .filter(|port| port.protocol == Protocol::Udp)
        {
            udp.entry(port.port).or_default().extend(&port.backends);
        }
        Self {
            subnets: desired
                .networks
                .iter()
                .map(|n| IpNet::V4(n.subnet))
                .chain(v6)
                .collect(),
            udp,
        }
    }

    /// Whether a flow leads to a task that the port does not lead to any more, or waits in vain for an answer because it
    /// began before the port was published.
    pub(crate) fn forget(&self, flow: &Flow) -> bool {
        let translated = flow.to != flow.answered_by;
        let backends = self.udp.get(&flow.to.port());
        if translated {
            let ours = self
                .subnets
                .iter()
                .any(|subnet| subnet.contains(&flow.answered_by.ip()));
            return ours && !backends.is_some_and(|backends| backends.contains(&flow.answered_by));
        }
        let same_version = |backend: &SocketAddr| backend.is_ipv4() == flow.to.is_ipv4();
        !flow.answered && backends.is_some_and(|backends| backends.iter().any(same_version))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_flows_to_former_tasks_and_unanswered_ones_are_forgotten() {
        let flows = Flows {
            subnets: vec!["10.1.0.0/16".parse().unwrap()],
            udp: BTreeMap::from([
                (53, BTreeSet::from(["10.1.0.2:5353".parse().unwrap()])),
                (54, BTreeSet::new()),
            ]),
        };
        let forget = |to: &str, by: &str, answered| {
            let (to, answered_by) = (to.parse().unwrap(), by.parse().unwrap());
            flows.forget(&Flow {
                to,
                answered_by,
                answered,
            })
        };
        assert!(
            !forget("192.0.2.1:53", "10.1.0.2:5353", true),
            "to a task of the port"
        );
        assert!(
            forget("192.0.2.1:53", "10.1.0.3:5353", true),
            "to a former task of the port"
        );
        assert!(
            forget("192.0.2.1:99", "10.1.0.2:5353", false),
            "to a port not published any more"
        );
        assert!(
            !forget("192.0.2.1:99", "172.17.0.2:99", true),
            "translated by others"
        );
        assert!(
            forget("192.0.2.1:53", "192.0.2.1:53", false),
            "began before the port was published"
        );
        assert!(
            !forget("192.0.2.1:53", "192.0.2.1:53", true),
            "answered by the host or another one"
        );
        assert!(
            !forget("192.0.2.1:54", "192.0.2.1:54", false),
            "nobody else could answer"
        );
    }
}
