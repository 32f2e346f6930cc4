//! One host's part of the cluster networks, programmed over netlink only.
//!
//! In: the desired [`HostNetwork`] as plain data, and requests to [`Network::attach`] a container. Out: bridges,
//! VXLAN devices, forwarding and neighbour entries, veth pairs and one nftables table, equal to what is desired.
//! The decisions are in pure functions ([`plan`], [`Ruleset::of`]); [`Network`] is the thin shell around them.
//!
//! This crate must not know what a task or a service is, who hands out addresses, or how nodes find each other.
//!
//! # What is made
//!
//! Per cluster network a bridge `sw-<vni>` with this node's gateway address, and in it a VXLAN device `vx-<vni>`.
//! Nothing is learned and nothing is flooded between hosts: every remote MAC is a static entry in the bridge and in
//! the VXLAN device, ARP and neighbour solicitations are answered by the bridge from permanent neighbour entries
//! (RFC 7432 section 10 style suppression), and broadcast never enters the tunnel. So multicast and broadcast stay on
//! one host, and a container cannot take over another one's MAC.
//!
//! One table `inet swarm` holds all rules, replaced in one transaction when it differs:
//! - traffic of a cluster subnet to elsewhere is masqueraded;
//! - a published port is translated to a random backend, on any local address of any node, 127.0.0.1 included (not
//!   `::1`, for which the kernel has no counterpart of `route_localnet`), and masqueraded so that answers return
//!   through the same node (the backend sees the node's address, not the client's);
//! - networks are islands: what is routed into a bridge is dropped unless it answers a known connection or goes to a
//!   published port;
//! - `127.0.0.0/8` of the host stays out of reach of containers, although `route_localnet` is on;
//! - VXLAN packets with one of our VNIs from an address that is no node of the cluster are dropped.
//!
//! # Limits
//!
//! An `accept` in our chains ends only our chains: another table that drops forwarded packets (Docker sets iptables'
//! FORWARD policy to drop; firewalld has its own table) still does, and has to allow the `sw-*` interfaces itself. UDP
//! port 4789 (or the one configured) must be open between nodes. Forwarding is switched on and left on by teardown,
//! because others may have come to need it.

mod error;
mod flows;
mod model;
mod netlink;
mod plan;
mod rules;
mod shell;
mod state;

pub use error::{Error, Result};
pub use flows::Flows;
pub use model::{
    Attach, Attachment, Gateway6, HostNetwork, Mac, NetworkSpec, Protocol, PublishedPort,
    RemoteEndpoint, VTEP_OVERHEAD, VXLAN_PORT, bridge_name, veth_name, vxlan_name,
};
pub use plan::{Change, plan, teardown_plan};
pub use rules::{Chain, Expr, Hook, Rule, Ruleset, TableState};
pub use shell::{Network, Report};
pub use state::{Bridge, KernelState, Port, PortFlags, Veth, Vxlan};
