//! How names are resolved inside one task's container. Pure.

use std::net::{IpAddr, SocketAddr};
use swarm_api::model::{NetworkMode, Task};
use swarm_network::NetworkSpec;
use swarm_runtime::host::Dns;

/// The domain of the cluster's names, as a search list has it.
const DOMAIN: &str = "swarm";

/// Whom a task asks: this node's gateway in its network; in the host's own network, whom the host asks (`host`).
pub(in super::super) fn resolver_of(
    task: &Task,
    network: Option<&NetworkSpec>,
    host: &[SocketAddr],
) -> Dns {
    let nameservers = match (&task.spec.network, network) {
        (NetworkMode::Cluster(_), Some(network)) => vec![IpAddr::V4(network.gateway)],
        // A resolv.conf cannot name a port.
        (NetworkMode::Host, _) => {
            let usual = host.iter().filter(|server| server.port() == 53);
            usual.map(SocketAddr::ip).collect()
        }
        _ => Vec::new(),
    };
    let search = if nameservers.is_empty() {
        Vec::new()
    } else {
        vec![DOMAIN.to_owned()]
    };
    Dns {
        nameservers,
        search,
        options: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::task;
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn network() -> NetworkSpec {
        NetworkSpec {
            name: "default".into(),
            vni: 4097,
            subnet: "10.97.0.0/16".parse().unwrap(),
            gateway: "10.97.0.3".parse().unwrap(),
            v6: None,
            mtu: 1450,
        }
    }

    #[test]
    fn a_task_in_a_cluster_network_asks_the_gateway_of_its_node() {
        let dns = resolver_of(&task(1), Some(&network()), &[]);
        assert_eq!(dns.nameservers, [ip("10.97.0.3")]);
        assert_eq!(dns.search, ["swarm"]);
    }

    #[test]
    fn a_task_in_the_host_s_network_asks_whom_the_host_asks() {
        let mut task = task(1);
        task.spec.network = NetworkMode::Host;
        let host = ["127.0.0.1:53", "192.0.2.7:5353"].map(|a| a.parse().unwrap());
        assert_eq!(
            resolver_of(&task, None, &host).nameservers,
            [ip("127.0.0.1")]
        );
    }

    #[test]
    fn a_task_without_a_network_asks_nobody() {
        let mut task = task(1);
        task.spec.network = NetworkMode::None;
        let dns = resolver_of(&task, None, &["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(dns, Dns::default());
    }
}
