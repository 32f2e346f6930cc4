//! The interface that packets to other nodes leave by.

use nix::ifaddrs::getifaddrs;
use std::net::IpAddr;
use swarm_api::{Error, Result};
use swarm_network::Network;

/// Ethernet's (RFC 894).
pub(super) const COMMON_MTU: u32 = 1500;

/// The MTU of the interface that has this address.
///
/// # Errors
/// When no interface has it, or the kernel does not say.
pub(in crate::node) async fn mtu(kernel: &Network, address: IpAddr) -> Result<u32> {
    let interface = interface(address)?;
    let mtu = kernel.mtu(&interface).await;
    mtu.map_err(|why| Error::Internal(why.to_string()))
}

pub(super) fn interface(address: IpAddr) -> Result<String> {
    let all = getifaddrs()
        .map_err(|why| Error::Internal(format!("cannot list this host's addresses: {why}")))?;
    let has = |found: &nix::ifaddrs::InterfaceAddress| {
        let storage = found.address.as_ref()?;
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    let found = all.into_iter().find(|i| has(i) == Some(address));
    found.map(|i| i.interface_name).ok_or_else(|| {
        Error::NotFound(format!(
            "no interface of this host has the address {address}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_found_by_its_address() {
        assert_eq!(interface("127.0.0.1".parse().unwrap()).unwrap(), "lo");
        let why = interface("203.0.113.77".parse().unwrap()).unwrap_err();
        assert!(why.to_string().contains("203.0.113.77"), "{why}");
    }
}
