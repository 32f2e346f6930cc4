//! A task's place in its network as a request to the kernel. Pure.

use ipnet::Ipv4Net;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use swarm_api::model::Task;
use swarm_api::{Error, Result};
use swarm_network::{Attach, Mac, NetworkSpec, veth_name};

/// How a task's container is connected to the network `spec`.
pub(super) fn request(task: &Task, spec: &NetworkSpec, netns: OwnedFd) -> Result<Attach> {
    let address = address(task).ok_or_else(|| {
        Error::Internal(format!(
            "task {} has no address in network {}, although it is to run there",
            task.name, spec.name
        ))
    })?;
    let addr = Ipv4Net::new(address, spec.subnet.prefix_len())
        .map_err(|why| Error::Internal(format!("network {}: {why}", spec.name)))?;
    Ok(Attach {
        vni: spec.vni,
        netns,
        host_ifname: veth_name(task.id.as_str()),
        container_ifname: "eth0".into(),
        addr,
        addr6: None,
        mac: Mac::for_address(address),
        gateway: Some(spec.gateway),
        gateway6: None,
        mtu: spec.mtu,
    })
}

/// A task's address in its network.
fn address(task: &Task) -> Option<Ipv4Addr> {
    task.addresses.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::task;
    use super::*;

    fn nothing() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn spec() -> NetworkSpec {
        NetworkSpec {
            name: "default".into(),
            vni: 4097,
            subnet: "10.97.0.0/16".parse().unwrap(),
            gateway: "10.97.0.1".parse().unwrap(),
            v6: None,
            mtu: 1450,
        }
    }

    #[test]
    fn a_task_gets_its_own_address_and_the_node_s_as_its_way_out() {
        let mut task = task(1);
        task.addresses = vec!["10.97.0.9".parse().unwrap()];
        let request = request(&task, &spec(), nothing()).unwrap();
        assert_eq!(request.addr.to_string(), "10.97.0.9/16");
        assert_eq!(request.mac.to_string(), "02:42:0a:61:00:09");
        assert_eq!(request.gateway, Some(spec().gateway));
        assert_eq!(request.host_ifname, veth_name(task.id.as_str()));
    }

    #[test]
    fn a_task_without_an_address_is_refused() {
        let why = request(&task(1), &spec(), nothing()).unwrap_err();
        assert!(why.to_string().contains("no address"), "{why}");
    }
}
