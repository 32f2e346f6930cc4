//! What a member sees to from time to time: that its record is true, that its certificate does not run out, that it finds
//! the others after a restart.

use crate::Member;
use crate::authority::{self, due_for_renewal};
use crate::identity::{Blob, Identity};
use crate::links::Lane;
use crate::wire::from_status;
use std::time::Duration;
use swarm_api::model::{NodeId, NodeRole};
use swarm_api::{Error, Result};
use swarm_cluster::Change;
use swarm_proto::agent as proto;
use swarm_proto::agent::agent_client::AgentClient;
use tokio::time::{sleep, timeout};

const RENEWAL: Duration = Duration::from_secs(5);

/// Runs until the member stops.
pub(crate) async fn run(member: Member) {
    let mut leader = member.watch_leader();
    let inner = &member.inner;
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = sleep(inner.tuning.upkeep) => {}
            _ = leader.changed() => {}
        }
        if let Err(e) = inner.book.keep(&inner.config.world) {
            tracing::warn!("{e}");
        }
        inner.links.retain(|node| !inner.machine.is_revoked(node));
        if due_for_renewal(&inner.identity.load().certificate.0, inner.now()) {
            match renew(&member).await {
                Ok(()) => tracing::info!("this node's certificate was renewed"),
                Err(e) => tracing::warn!("cannot renew this node's certificate yet: {e}"),
            }
        }
        if let Some(facts) = untrue_facts(&member)
            && inner.replica.leader().is_some()
            && let Err(e) = member.propose(facts).await
        {
            tracing::debug!("cannot correct this node's record yet: {e}");
        }
    }
}

/// What of this node's record has changed.
fn untrue_facts(member: &Member) -> Option<Change> {
    let config = &member.inner.config;
    let id = member.id();
    let state = member.state();
    let node = state.nodes.get(&id)?;
    let address = (node.address != Some(config.advertise)).then_some(config.advertise);
    let capacity = (node.capacity != config.capacity).then_some(config.capacity);
    let version = (node.version != config.version).then(|| config.version.clone());
    if address.is_none() && capacity.is_none() && version.is_none() {
        return None;
    }
    Some(Change::NodeFacts {
        id,
        address,
        capacity,
        version,
    })
}

async fn renew(member: &Member) -> Result<()> {
    let inner = &member.inner;
    let identity = inner.identity.load_full();
    let csr = authority::request(&authority::open_key(&identity.key)?)?;
    let certificate = match &inner.authority {
        Some(authority) => {
            let life = inner.tuning.certificate_life;
            authority
                .sign(&csr, identity.role, inner.now(), life, &inner.config.world)?
                .1
        }
        None => ask_for_renewal(member, csr).await?,
    };
    let peer = authority::read_peer(&certificate.0, &identity.cluster)
        .map_err(|why| Error::Internal(format!("the new certificate cannot be used: {why}")))?;
    if peer.id != identity.node {
        return Err(Error::Internal(
            "the new certificate is another node's".into(),
        ));
    }
    let renewed = Identity {
        certificate,
        ..(*identity).clone()
    };
    renewed.save(&inner.config.world)?;
    inner.tls.swap(&renewed)?;
    inner.identity.store(std::sync::Arc::new(renewed));
    // Connections made from now on show the new one; what is going on over old ones goes on.
    inner.links.retain(|_| false);
    Ok(())
}

async fn ask_for_renewal(member: &Member, csr: Vec<u8>) -> Result<Blob> {
    let managers: Vec<NodeId> = {
        let state = member.state();
        let managers = state.nodes.values().filter(|n| n.role == NodeRole::Manager);
        managers.map(|n| n.id).collect()
    };
    let mut last = Error::Unavailable("no manager is known here".into());
    for manager in managers {
        let asked = async {
            let channel = member.inner.links.channel(manager, Lane::Control)?;
            let request = proto::RenewRequest {
                csr: csr.clone().into(),
            };
            let reply = AgentClient::new(channel).renew(request).await;
            reply.map_err(|status| from_status(&status))
        };
        match timeout(RENEWAL, asked).await {
            Ok(Ok(reply)) => return Ok(Blob(reply.into_inner().certificate.to_vec())),
            Ok(Err(e)) => last = e,
            Err(_) => {
                let why = format!("node {manager} did not answer within {RENEWAL:?}");
                last = Error::Unavailable(why);
            }
        }
    }
    Err(last)
}

/// Says who leads whenever that changes.
pub(crate) async fn tell_of_leaders(member: Member) {
    let mut leader = member.watch_leader();
    let own = member.id().0;
    loop {
        let now = *leader.borrow_and_update();
        match now {
            Some(id) if id == own => tracing::info!("this node leads the cluster"),
            Some(id) => {
                let id = NodeId(id);
                let name = member.state().nodes.get(&id).map(|n| n.name.clone());
                tracing::info!(leader = %id, name, "another node leads the cluster");
            }
            None => tracing::info!("no leader of the cluster is known"),
        }
        tokio::select! {
            () = member.inner.stop.cancelled() => return,
            changed = leader.changed() => if changed.is_err() { return },
        }
    }
}
