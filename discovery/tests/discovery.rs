//! Membership and DNS through real sockets on loopback.

#[path = "discovery/dns.rs"]
mod dns;
#[path = "discovery/membership.rs"]
mod membership;
