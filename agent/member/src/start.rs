//! Founding a cluster, taking up one's place again, and putting a running member together.

use crate::admission::EntranceService;
use crate::authority::{self, Authority};
use crate::book::{self, Book};
use crate::config::Tuning;
use crate::departure::Departing;
use crate::fanout;
use crate::guard::GuardLayer;
use crate::identity::{Blob, Identity, RAFT, Secrets};
use crate::links::Links;
use crate::listener::Listener;
use crate::machine::Machine;
use crate::member::{Inner, Running};
use crate::observe::{Dialer, Heard, Transport};
use crate::seldom::Seldom;
use crate::services::AgentService;
use crate::tls::Tls;
use crate::wire::MAX_MESSAGE;
use crate::world::{Datagrams, Gossip, StreamListener, World};
use crate::{Member, MemberConfig, join, read, upkeep};
use arc_swap::ArcSwap;
use rcgen::PublicKeyData;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use swarm_api::model::{Id, Node, NodeId, NodeRole, Timestamp};
use swarm_api::{Error, Result};
use swarm_cluster::Change;
use swarm_consensus::{
    Consensus, ConsensusConfig, Observer, ObserverConfig, Replica, ReplicaConfig, StateMachine,
};
use swarm_discovery::membership::{KeyRing, Membership, MembershipConfig};
use swarm_proto::agent::agent_server::AgentServer;
use swarm_proto::agent::entrance_server::EntranceServer;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Where the cluster's networks are cut from.
const POOL: &str = "10.128.0.0/9";

/// The sockets that a member needs, bound before anything is changed.
pub(crate) struct Sockets {
    streams: Box<dyn StreamListener>,
    datagrams: Arc<dyn Datagrams>,
}

impl Sockets {
    pub(crate) async fn bind(world: &World, listen: SocketAddr) -> Result<Self> {
        let failed = |what, e| {
            Error::Unavailable(format!(
                "cannot listen on {listen} ({what}): {e}; free the port or use another with --port"
            ))
        };
        Ok(Self {
            streams: (world.network.listen(listen).await).map_err(|e| failed("TCP", e))?,
            datagrams: (world.network.bind(listen).await).map_err(|e| failed("UDP", e))?,
        })
    }
}

impl Member {
    /// Makes a cluster of this one host.
    ///
    /// # Errors
    /// [`Error::Conflict`] when this host is in a cluster already; [`Error::Unavailable`] when the port is in use; what the
    /// disk says.
    pub async fn found(config: MemberConfig) -> Result<Self> {
        Self::found_with(config, Tuning::default()).await
    }

    pub(crate) async fn found_with(config: MemberConfig, tuning: Tuning) -> Result<Self> {
        let world = config.world.clone();
        refuse_a_second(&world)?;
        let sockets = Sockets::bind(&world, config.listen).await?;
        clear(&world)?;
        let now = world.now();
        let cluster = Id::from_u64(u64::from_be_bytes(world.random()?)).to_string();
        let (ca, ca_key) = Authority::found(&cluster, now, &world)?;
        let (key, key_der) = authority::new_key(&world)?;
        let signed = Authority::open(&cluster, &ca, &ca_key)?.sign(
            &authority::request(&key)?,
            NodeRole::Manager,
            now,
            tuning.certificate_life,
            &world,
        )?;
        let identity = Identity {
            cluster: cluster.clone(),
            node: authority::node_id(&key.subject_public_key_info()),
            role: NodeRole::Manager,
            key: key_der,
            certificate: signed.1,
            ca,
            secrets: Secrets {
                ca_key: Some(ca_key),
                gossip: BTreeMap::from([(1, Blob(world.random::<32>()?.to_vec()))]),
                sealing: 1,
            },
        };
        let node = describe(&config, identity.node, NodeRole::Manager, now);
        let member = start(config, tuning, identity.clone(), sockets).await?;
        let founded = async {
            let consensus = member.consensus()?;
            consensus
                .initialize()
                .await
                .map_err(|e| Error::Internal(format!("cannot found a cluster: {e}")))?;
            let pool = POOL
                .parse()
                .map_err(|e| Error::Internal(format!("{POOL}: {e}")))?;
            let init = Change::Init {
                cluster,
                node,
                pool,
                sealed: Vec::new(),
            };
            member.propose(init).await?;
            // Only now is this host a member: what was broken off before is cleared by the next attempt.
            identity.save(&world)
        };
        if let Err(e) = founded.await {
            member.shutdown().await;
            let _ = Self::forget(&world);
            return Err(e);
        }
        tracing::info!(cluster = member.cluster(), node = %member.id(), "founded a cluster");
        Ok(member)
    }

    /// Takes up this host's place in its cluster again, after a restart. Needs no other node.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the port is in use; [`Error::Internal`] when what is on the disk is damaged.
    pub async fn resume(config: MemberConfig) -> Result<Self> {
        Self::resume_with(config, Tuning::default()).await
    }

    pub(crate) async fn resume_with(config: MemberConfig, tuning: Tuning) -> Result<Self> {
        let identity = Identity::load(&config.world)?;
        let sockets = Sockets::bind(&config.world, config.listen).await?;
        let member = start(config, tuning, identity, sockets).await?;
        tracing::info!(cluster = member.cluster(), node = %member.id(), name = member.name(), "is in its cluster again");
        Ok(member)
    }
}

pub(crate) fn refuse_a_second(world: &World) -> Result<()> {
    if !Identity::exists(world) {
        return Ok(());
    }
    let cluster = Identity::load(world).map(|i| i.cluster).unwrap_or_default();
    Err(Error::Conflict(format!(
        "this host is already in a cluster ({cluster}); leave that first with `swarmctl leave`"
    )))
}

pub(crate) fn clear(world: &World) -> Result<()> {
    join::leftovers(world)
}

/// This node's record, as it says itself.
pub(crate) fn describe(config: &MemberConfig, id: NodeId, role: NodeRole, now: Timestamp) -> Node {
    Node {
        id,
        name: config.name.clone(),
        role,
        address: Some(config.advertise),
        capacity: config.capacity,
        version: config.version.clone(),
        arch: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .to_owned(),
        os: std::env::consts::OS.to_owned(),
        joined_at: now,
        ..Node::default()
    }
}

/// Puts a member together and sets it going.
pub(crate) async fn start(
    config: MemberConfig,
    tuning: Tuning,
    identity: Identity,
    sockets: Sockets,
) -> Result<Member> {
    let own = identity.node;
    let world = config.world.clone();
    let tls = Tls::new(&identity, &world.clock)?;
    let authority = match (&identity.secrets.ca_key, identity.role) {
        (Some(key), NodeRole::Manager) => {
            Some(Authority::open(&identity.cluster, &identity.ca, key)?)
        }
        _ => None,
    };
    let machine = Arc::new(Machine::new(world.shared.clone()));
    let replica = Replica::new(
        Arc::clone(&machine) as Arc<dyn StateMachine>,
        ReplicaConfig::default(),
    );

    let known = book::load(&world);
    let membership = gossip(
        &config,
        &identity,
        fanout::seeds(own, &known),
        sockets.datagrams,
    )?;
    let book = Arc::new(Book::new(own, Arc::clone(&machine), known));
    book.gossip(Arc::clone(&membership));
    let links = Arc::new(Links::new(
        tls.clone(),
        Arc::clone(&world.network),
        Arc::clone(&book),
    ));
    let heard = Arc::new(Heard::default());

    let disk = (world.storage.folder(RAFT))
        .map_err(|e| Error::Internal(format!("cannot use the directory of the log: {e}")))?;
    let opened = |e: swarm_consensus::Error| {
        Error::Internal(format!(
            "cannot open the cluster's log in {}: {e}",
            world.storage.describe(RAFT)
        ))
    };
    let consensus = match identity.role {
        NodeRole::Worker => None,
        NodeRole::Manager => {
            let transport = Arc::new(Transport(Arc::clone(&links), Arc::clone(&book)));
            let config = ConsensusConfig {
                seed: u64::from_be_bytes(world.random()?),
                ..ConsensusConfig::new(own.0)
            };
            let started =
                Consensus::start(config, Arc::clone(&disk), transport, replica.clone()).await;
            Some(started.map_err(opened)?)
        }
    };
    let roles = Arc::clone(&machine);
    let dialer = Dialer {
        own,
        links: Arc::clone(&links),
        book: Arc::clone(&book),
        heard: Arc::clone(&heard),
        roles: Box::new(move |node| roles.read().nodes.get(&node).map(|n| n.role)),
    };
    let observer = Observer::start(
        replica.clone(),
        disk,
        Arc::new(dialer),
        ObserverConfig::default(),
    )
    .await
    .map_err(opened)?;
    // The replica may know more seeds than the address book did.
    let _ = membership.join(fanout::seeds(own, &book.others()));

    let cluster = identity.cluster.clone();
    let routes = config.routes.clone();
    let (reads, waiting_reads) = mpsc::unbounded_channel();
    let inner = Arc::new(Inner {
        config,
        tuning,
        identity: ArcSwap::from_pointee(identity),
        authority,
        tls,
        machine,
        replica,
        consensus,
        links,
        book,
        membership,
        heard,
        reads,
        voting: tokio::sync::Mutex::default(),
        departing: Departing::default(),
        stop: CancellationToken::new(),
        running: tokio::sync::Mutex::new(None),
    });
    let member = Member {
        inner: Arc::clone(&inner),
    };
    let agent = AgentServer::new(AgentService(member.clone()))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let entrance = EntranceServer::new(EntranceService {
        member: member.clone(),
        refused: Seldom::default(),
    })
    .max_decoding_message_size(64 * 1024);
    let guard = GuardLayer::new(Arc::clone(&inner.machine));
    let routes = routes.add_service(agent).add_service(entrance);
    let running = Running {
        listener: Listener::start(sockets.streams, &inner.tls, &cluster, guard, routes),
        observer,
        tasks: vec![
            tokio::spawn(read::confirm(Arc::downgrade(&inner), waiting_reads)),
            tokio::spawn(upkeep::run(member.clone())),
            tokio::spawn(upkeep::tell_of_leaders(member.clone())),
        ],
    };
    *inner.running.lock().await = Some(running);
    Ok(member)
}

fn gossip(
    config: &MemberConfig,
    identity: &Identity,
    seeds: Vec<SocketAddr>,
    socket: Arc<dyn Datagrams>,
) -> Result<Arc<Membership>> {
    let failed = |e: &dyn std::fmt::Display| Error::Internal(format!("cannot start gossip: {e}"));
    let mut keys = BTreeMap::new();
    for (id, key) in &identity.secrets.gossip {
        let key: [u8; 32] = key
            .0
            .as_slice()
            .try_into()
            .map_err(|_| failed(&"a key is not 32 bytes long"))?;
        keys.insert(*id, key);
    }
    let keys = KeyRing::new(keys, identity.secrets.sealing).map_err(|e| failed(&e))?;
    let mut settings = MembershipConfig::new(identity.node.0, config.advertise, seeds, keys);
    let world = &config.world;
    settings.generation = world.now().0;
    settings.seed = Some(u64::from_be_bytes(world.random()?));
    let clock = Arc::clone(&world.clock);
    let millis = Arc::new(move || clock().0);
    Membership::start_with_clock(settings, Gossip(socket), millis)
        .map(Arc::new)
        .map_err(|e| failed(&e))
}
