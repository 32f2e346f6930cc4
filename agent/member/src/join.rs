//! Becoming a member of a cluster that is there, with a token.

use crate::authority;
use crate::book::{self, Addresses};
use crate::config::Tuning;
use crate::identity::{self, Blob, Identity};
use crate::links::root_cause;
use crate::start::{self, Sockets};
use crate::tls::{self, Mistrust};
use crate::token::{self, Token};
use crate::wire::from_status;
use crate::world::{BoxStream, Network, World};
use crate::{Member, MemberConfig};
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use swarm_api::model::{NodeId, NodeRole};
use swarm_api::{Error, Result};
use swarm_proto::agent as proto;
use swarm_proto::agent::entrance_client::EntranceClient;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

const CONNECT: Duration = Duration::from_secs(5);
const ADMISSION: Duration = Duration::from_secs(20);
const CATCH_UP: Duration = Duration::from_secs(30);

impl Member {
    /// Joins the cluster of the agent at `peer` (`HOST:PORT`, or `HOST` with the port that this host listens on).
    /// Returns when the state here contains this node.
    ///
    /// # Errors
    /// [`Error::Conflict`] when this host is in a cluster already; [`Error::Invalid`] and [`Error::Denied`] for a token
    /// that is malformed, expired or not that cluster's; [`Error::Unavailable`] names the address that does not answer.
    pub async fn join(config: MemberConfig, peer: &str, token: &str) -> Result<Self> {
        Self::join_with(config, Tuning::default(), peer, token).await
    }

    pub(crate) async fn join_with(
        config: MemberConfig,
        tuning: Tuning,
        peer: &str,
        token: &str,
    ) -> Result<Self> {
        let world = config.world.clone();
        start::refuse_a_second(&world)?;
        let token = Token::parse(token)?;
        let sockets = Sockets::bind(&world, config.listen).await?;
        let (key, key_der) = authority::new_key(&world)?;
        let request = proto::JoinRequest {
            secret: token.proof(),
            csr: authority::request(&key)?.into(),
            node: postcard::to_stdvec(&start::describe(
                &config,
                NodeId(0),
                NodeRole::Worker,
                world.now(),
            ))
            .map_err(|e| Error::Internal(format!("cannot describe this node: {e}")))?
            .into(),
        };
        let (address, channel) = reach(&config, peer, token.ca).await?;
        let asked = timeout(ADMISSION, EntranceClient::new(channel).join(request)).await;
        let reply = match asked {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => {
                return Err(from_status(&status).context(format!("cannot join at {address}")));
            }
            Err(_) => {
                return Err(Error::Unavailable(format!(
                    "cannot join at {address}: no answer within {ADMISSION:?}; has the cluster a leader?"
                )));
            }
        };
        let index = reply.index;
        let (identity, known) = accept(reply, key_der, token.ca)?;

        start::clear(&world)?;
        book::save(&world, &known)?;
        identity.save(&world)?;
        let member = start::start(config, tuning, identity, sockets).await?;
        let own = member.id();
        let caught_up = async {
            member.inner.replica.wait_for(index).await;
            let mut applied = member.watch_applied();
            while !member.state().nodes.contains_key(&own) {
                if applied.changed().await.is_err() {
                    return;
                }
            }
        };
        if timeout(CATCH_UP, caught_up).await.is_err() {
            member.shutdown().await;
            return Err(Error::Unavailable(format!(
                "joined the cluster {} as node {own}, but cannot follow its log within {CATCH_UP:?}: can this host and \
                 the others reach each other, on TCP and UDP? it goes on trying when swarmd is started again",
                member.cluster()
            )));
        }
        tracing::info!(cluster = member.cluster(), node = %own, name = member.name(), "joined the cluster");
        Ok(member)
    }
}

/// What a reply says, checked.
fn accept(reply: proto::JoinReply, key: Blob, ca: [u8; 32]) -> Result<(Identity, Addresses)> {
    let nonsense =
        |what: &str| Error::Internal(format!("the cluster's answer cannot be used: {what}"));
    if token::sha256(&reply.ca) != ca {
        return Err(nonsense("its CA is not the one in the token"));
    }
    let peer =
        authority::read_peer(&reply.certificate, &reply.cluster).map_err(|why| nonsense(&why))?;
    let known: Addresses = reply
        .peers
        .iter()
        .filter_map(|text| book::parse_peer(text))
        .collect();
    let identity = Identity {
        cluster: reply.cluster,
        node: peer.id,
        role: peer.role,
        key,
        certificate: Blob(reply.certificate.to_vec()),
        ca: Blob(reply.ca.to_vec()),
        secrets: postcard::from_bytes(&reply.secrets).map_err(|e| nonsense(&e.to_string()))?,
    };
    if identity.role == NodeRole::Manager && identity.secrets.ca_key.is_none() {
        return Err(nonsense("a manager needs the CA's key"));
    }
    Ok((identity, known))
}

/// A channel to a member of the cluster with the CA of that hash, and the address it was found at.
async fn reach(config: &MemberConfig, peer: &str, ca: [u8; 32]) -> Result<(String, Channel)> {
    let address = with_port(peer, config.listen.port());
    let failed = |what: &dyn std::fmt::Display| {
        Error::Unavailable(format!(
            "cannot reach {address}: {what}; is swarmd running there, and in a cluster?"
        ))
    };
    let network = &config.world.network;
    let stream = match timeout(CONNECT, connect(network.as_ref(), &address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return Err(failed(&e)),
        Err(_) => return Err(failed(&format!("no answer within {CONNECT:?}"))),
    };
    let tls = TlsConnector::from(Arc::new(tls::pinned(ca, &config.world.clock)?));
    let shaken = timeout(CONNECT, tls.connect(tls::name_of(NodeId(0))?, stream)).await;
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => {
            return Err(match tls::mistrusted(&e) {
                Some(Mistrust::OtherCa) => Error::Denied(format!(
                    "the agent at {address} belongs to another cluster than the token: {}",
                    Mistrust::OtherCa
                )),
                Some(why) => Error::Denied(format!("the agent at {address} is not trusted: {why}")),
                None => failed(&e),
            });
        }
        Err(_) => return Err(failed(&format!("no TLS within {CONNECT:?}"))),
    };
    let channel = over(stream).await.map_err(|e| failed(&root_cause(&e)))?;
    Ok((address, channel))
}

/// A stream to the first of the host's addresses that takes one.
async fn connect(network: &dyn Network, address: &str) -> io::Result<BoxStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "this host has no address");
    for address in network.resolve(address).await? {
        match network.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// A channel over this one connection.
async fn over(
    stream: TlsStream<BoxStream>,
) -> std::result::Result<Channel, tonic::transport::Error> {
    let once = Arc::new(Mutex::new(Some(stream)));
    Endpoint::from_static("http://entrance.swarm")
        .connect_with_connector(tower::service_fn(move |_: http::Uri| {
            let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move {
                stream
                    .map(TokioIo::new)
                    .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
            }
        }))
        .await
}

fn with_port(peer: &str, port: u16) -> String {
    let peer = peer.trim();
    if peer.parse::<std::net::Ipv6Addr>().is_ok() {
        return format!("[{peer}]:{port}");
    }
    match peer.rsplit_once(':') {
        Some((_, end)) if end.parse::<u16>().is_ok() => peer.to_owned(),
        _ => format!("{peer}:{port}"),
    }
}

/// Removes what a join or a founding that was broken off left behind.
pub(crate) fn leftovers(world: &World) -> Result<()> {
    identity::wipe(world).map_err(|e| {
        Error::Internal(format!(
            "cannot clear what an earlier attempt left behind: {e}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::with_port;

    #[test]
    fn a_host_without_a_port_gets_the_default() {
        for (given, wanted) in [
            ("10.0.0.1", "10.0.0.1:7946"),
            ("10.0.0.1:1", "10.0.0.1:1"),
            ("::1", "[::1]:7946"),
            ("[::1]:5", "[::1]:5"),
            ("host", "host:7946"),
            (" host:80 ", "host:80"),
        ] {
            assert_eq!(with_port(given, 7946), wanted);
        }
    }
}
