//! Membership and DNS through real sockets on loopback.

#![allow(clippy::unwrap_used)]

#[path = "discovery/dns.rs"]
mod dns;
#[path = "discovery/membership.rs"]
mod membership;
