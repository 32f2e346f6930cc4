//! DNS: names answered from the catalogue, everything else forwarded.
//!
//! [`answer`] is the pure core: a query, a catalogue and a viewpoint in, a message out. [`DnsServer`] is the shell: it
//! listens on UDP and TCP sockets that come and go (one pair per bridge gateway, one for the host), and passes names
//! that are not ours to the host's resolvers unchanged. A look-up of ours needs no other node.
//!
//! With the default domain `swarm.`:
//!
//! | name | type | answer |
//! |---|---|---|
//! | `web.swarm.`, `web` | A, AAAA | the addresses of its live tasks, in turning order |
//! | `web.swarm.`, `web` | SRV | every port of every live task |
//! | `_http._tcp.web.swarm.` | SRV | the port of that name (or number) of every live task |
//! | `1.web.swarm.`, `web.1.swarm.`, `web.1` | A, AAAA, SRV | one task |
//! | `a.node.swarm.` | A, AAAA | a node |
//! | `4.3.2.1.in-addr.arpa.`, `….ip6.arpa.` | PTR | the task or node at that address |
//! | `swarm.` | SOA, NS | the zone |

mod server;
mod upstream;
mod wire;
mod zone;

#[cfg(test)]
mod tests;

pub use self::server::{DnsConfig, DnsServer, DnsStats, ListenerId};
pub use self::upstream::{NetUpstream, Upstream, parse_resolv_conf};
pub use self::wire::{MAX_UDP, encode, udp_limit};
pub use self::zone::{Answer, Viewpoint, Zone, answer};
