//! Which address of this host others are told to reach it at, where the operator does not say.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use swarm_api::{Error, Result};

/// An address that is nobody's (RFC 5737): only the way to it is asked for, nothing is sent.
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), 9);

/// The address that this host's packets to elsewhere come from.
///
/// # Errors
/// Where there is no way to elsewhere.
pub fn of_default_route() -> Result<IpAddr> {
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| {
            socket.connect(ELSEWHERE)?;
            socket.local_addr()
        })
        .map_err(|e| {
            Error::Invalid(format!(
                "cannot tell which address others reach this host at ({e}); give it with --advertise-addr"
            ))
        })?;
    Ok(found.ip())
}
