//! Several members in one process, on addresses of 127.0.0.0/8 of their own.

use crate::config::Tuning;
use crate::links::Lane;
use crate::token::Token as Secret;
use crate::{Member, MemberConfig, World, tls};
use hyper_util::rt::TokioIo;
use std::collections::BTreeSet;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use swarm_api::model::{Capacity, NodeChange, NodeId, NodeRole, Read, Timestamp};
use swarm_api::{Error, Result};
use swarm_cluster::Change;
use swarm_proto::agent as proto;
use swarm_proto::agent::agent_client::AgentClient;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const LIMIT: Duration = Duration::from_secs(30);
const PORT: u16 = 17946;
const HOUR: Duration = Duration::from_secs(3600);

/// One host: a directory and an address.
struct Host {
    dir: TempDir,
    name: String,
    address: SocketAddr,
    world: World,
    tuning: Tuning,
}

/// Hosts of one test.
struct Loopback {
    net: u32,
    hosts: u32,
    /// Milliseconds by which the hosts' clocks are ahead.
    ahead: Arc<AtomicU64>,
}

static NETS: AtomicU32 = AtomicU32::new(0);

impl Loopback {
    fn new() -> Self {
        let net = (std::process::id() % 200) * 200 + NETS.fetch_add(1, Ordering::SeqCst);
        Self {
            net,
            hosts: 0,
            ahead: Arc::default(),
        }
    }

    fn host(&mut self) -> Host {
        self.hosts += 1;
        let [_, _, high, low] = self.net.to_be_bytes();
        let ip = Ipv4Addr::new(
            127,
            high.saturating_add(1),
            low,
            u8::try_from(self.hosts).unwrap(),
        );
        let ahead = Arc::clone(&self.ahead);
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::system(dir.path());
        let real = world.clock;
        world.clock = Arc::new(move || Timestamp(real().0 + ahead.load(Ordering::SeqCst)));
        Host {
            dir,
            world,
            name: "host".into(),
            address: SocketAddr::new(IpAddr::V4(ip), PORT),
            tuning: Tuning {
                upkeep: Duration::from_millis(100),
                ..Tuning::default()
            },
        }
    }

    /// A cluster of managers that all vote; the first leads.
    async fn managers(&mut self, count: usize) -> Vec<(Host, Member)> {
        let first = self.host();
        let member = first.found().await;
        let token = token(&member, NodeRole::Manager).await;
        let mut all = vec![(first, member)];
        for _ in 1..count {
            let host = self.host();
            let member = host.join(all[0].0.address, &token).await.unwrap();
            all.push((host, member));
        }
        let voters: BTreeSet<NodeId> = all.iter().map(|(_, m)| m.id()).collect();
        within("all vote", all[0].1.change_voters(voters.clone()))
            .await
            .unwrap();
        for (_, member) in &all {
            until("it knows the voters", member, |m| {
                let status = m.status();
                status.has_quorum
                    && status.voters.iter().copied().collect::<BTreeSet<_>>() == voters
            })
            .await;
        }
        all
    }
}

impl Host {
    fn config(&self) -> MemberConfig {
        MemberConfig {
            world: self.world.clone(),
            listen: self.address,
            advertise: self.address,
            name: self.name.clone(),
            version: "1".into(),
            capacity: Capacity::default(),
            routes: tonic::service::Routes::default(),
        }
    }

    async fn found(&self) -> Member {
        within(
            "founding",
            Member::found_with(self.config(), self.tuning.clone()),
        )
        .await
        .unwrap()
    }

    async fn join(&self, at: SocketAddr, token: &str) -> Result<Member> {
        let at = at.to_string();
        let joined = Member::join_with(self.config(), self.tuning.clone(), &at, token);
        within("joining", joined).await
    }

    async fn resume(&self) -> Member {
        within(
            "resuming",
            Member::resume_with(self.config(), self.tuning.clone()),
        )
        .await
        .unwrap()
    }
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {LIMIT:?}"),
    }
}

/// Waits until `holds` for a member; looked at whenever its log, its leader, its part in Raft or gossip changes.
async fn until(what: &str, member: &Member, holds: impl Fn(&Member) -> bool) {
    let mut applied = member.watch_applied();
    let mut leader = member.watch_leader();
    let mut raft = member
        .inner
        .consensus
        .as_ref()
        .map(swarm_consensus::Consensus::watch_status);
    let mut gossip = member.membership().watch();
    let mut beat = tokio::time::interval(Duration::from_millis(100));
    let wait = async {
        while !holds(member) {
            let raft = async {
                match &mut raft {
                    Some(raft) => raft.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = applied.changed() => {}
                _ = leader.changed() => {}
                _ = raft => {}
                _ = gossip.changed() => {}
                // Clocks and certificates have no watch.
                _ = beat.tick() => {}
            }
        }
    };
    if tokio::time::timeout(LIMIT, wait).await.is_err() {
        panic!("{what}: not within {LIMIT:?}; {:?}", member.status());
    }
}

async fn token(member: &Member, role: NodeRole) -> String {
    within("making a token", member.create_token(role, HOUR))
        .await
        .unwrap()
        .secret
        .unwrap()
}

fn label(node: NodeId, value: &str) -> Change {
    let mut change = NodeChange::default();
    change.set_labels.insert("mark".into(), value.into());
    Change::UpdateNode(node, change)
}

fn mark(member: &Member, node: NodeId) -> Option<String> {
    member.state().nodes.get(&node)?.labels.get("mark").cloned()
}

fn names(member: &Member) -> BTreeSet<String> {
    member
        .state()
        .nodes
        .values()
        .map(|n| n.name.clone())
        .collect()
}

/// A connection to a server of the token's cluster that shows no certificate.
async fn stranger(address: SocketAddr, token: &str) -> Channel {
    let pin = Secret::parse(token).unwrap().ca;
    let tls = tls::pinned(pin, &World::system("").clock).unwrap();
    let connector = TlsConnector::from(Arc::new(tls));
    Endpoint::from_static("http://stranger")
        .connect_with_connector(tower::service_fn(move |_: http::Uri| {
            let connector = connector.clone();
            async move {
                let tcp = TcpStream::connect(address).await?;
                connector
                    .connect(tls::name_of(NodeId(0)).unwrap(), tcp)
                    .await
                    .map(TokioIo::new)
            }
        }))
        .await
        .unwrap()
}

fn is_send<T: Send>(_: &T) {}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_form_a_cluster_and_any_of_them_changes_it() {
    let mut world = Loopback::new();
    let (one, two, three) = (world.host(), world.host(), world.host());
    let a = one.found().await;
    assert!(Member::is_member(&one.world));
    let b = one_more(&two, &a, &one, NodeRole::Manager).await;
    // At a node that only observes: it passes the request on, or signs and has the leader agree.
    let c = one_more(&three, &a, &two, NodeRole::Worker).await;
    let wanted: BTreeSet<String> = ["host", "host-2", "host-3"].map(str::to_owned).into();
    for member in [&a, &b, &c] {
        until("all are seen", member, |m| names(m) == wanted).await;
        assert_eq!(member.cluster(), a.cluster());
        until("gossip sees all", member, |m| {
            m.membership().members().len() == 3
        })
        .await;
    }
    assert_eq!((c.name().as_str(), c.role()), ("host-3", NodeRole::Worker));
    for (value, member) in [("1", &a), ("2", &b), ("3", &c)] {
        let proposal = member.propose(label(a.id(), value));
        is_send(&proposal);
        within("proposing", proposal).await.unwrap();
        // Its own replica has it when it is answered.
        assert_eq!(mark(member, a.id()).as_deref(), Some(value));
        for other in [&a, &b, &c] {
            let fresh = within("reading", other.read(Read::Linearizable))
                .await
                .unwrap();
            assert!(!fresh.stale, "{:?}", other.status());
            assert_eq!(mark(other, a.id()).as_deref(), Some(value));
        }
    }
    assert_eq!(c.status().voters, [a.id()]);
    assert_eq!(c.status().leader, Some(a.id()));
    // A worker at the door.
    let four = world.host();
    let d = one_more(&four, &a, &three, NodeRole::Worker).await;
    assert_eq!(d.name(), "host-4");
    // The error of a change that is refused comes as it is.
    let refused = within("proposing", c.propose(label(NodeId(9), "x")))
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::NotFound(_)), "{refused:?}");
    for member in [d, c, b, a] {
        let shutdown = member.shutdown();
        is_send(&shutdown);
        within("stopping", shutdown).await;
    }
    // No port is left open.
    for host in [&one, &two, &three, &four] {
        std::net::TcpListener::bind(host.address).unwrap();
        std::net::UdpSocket::bind(host.address).unwrap();
    }
}

async fn one_more(host: &Host, manager: &Member, at: &Host, role: NodeRole) -> Member {
    let token = token(manager, role).await;
    host.join(at.address, &token).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_s_death_loses_nothing_and_stops_no_writes() {
    let mut world = Loopback::new();
    let mut all = world.managers(3).await;
    let (dead, leader) = all.remove(0);
    let id = leader.id();
    within("proposing", leader.propose(label(id, "before")))
        .await
        .unwrap();
    leader.stop(false).await;
    let (_, other) = &all[0];
    within("writing again", async {
        // One that gives up while there is no leader says so, and is tried again.
        while let Err(e) = other.propose(label(id, "after")).await {
            assert!(matches!(e, Error::Unavailable(_)), "{e:?}");
        }
    })
    .await;
    let back = dead.resume().await;
    until("it has what it missed", &back, |m| {
        mark(m, id).as_deref() == Some("after")
    })
    .await;
    for (_, member) in &all {
        within("stopping", member.shutdown()).await;
    }
    within("stopping", back.stop(false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_stop_at_once_and_nothing_acknowledged_is_lost() {
    let mut world = Loopback::new();
    let mut all = world.managers(3).await;
    let worker = world.host();
    let member = one_more(&worker, &all[0].1, &all[0].0, NodeRole::Worker).await;
    all.push((worker, member));
    let id = all[0].1.id();
    for n in 0..20 {
        within("proposing", all[n % 4].1.propose(label(id, &n.to_string())))
            .await
            .unwrap();
    }
    let hosts: Vec<Host> = {
        let mut hosts = Vec::new();
        for (host, member) in all {
            member.stop(false).await;
            hosts.push(host);
        }
        hosts
    };
    let mut again = Vec::new();
    for host in &hosts {
        again.push(host.resume().await);
    }
    for member in &again {
        until("it is all there", member, |m| {
            mark(m, id).as_deref() == Some("19")
        })
        .await;
        within("a quorum", async {
            while member.read(Read::Linearizable).await.unwrap().stale {}
        })
        .await;
    }
    within("writing", again[3].propose(label(id, "on")))
        .await
        .unwrap();
    for member in &again {
        member.stop(false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_good_token_of_this_cluster_lets_a_host_in() {
    let mut world = Loopback::new();
    let (one, two, foreign) = (world.host(), world.host(), world.host());
    let (a, f) = (one.found().await, foreign.found().await);
    let good = token(&a, NodeRole::Manager).await;
    let nobody = world.host().address;
    let refused = async |at: SocketAddr, token: &str, words: &[&str]| {
        let refusal = two.join(at, token).await.unwrap_err().to_string();
        assert!(
            words.iter().all(|w| refusal.contains(w)),
            "{refusal} lacks one of {words:?}"
        );
        assert!(!Member::is_member(&two.world));
    };
    refused(one.address, "rubbish", &["token", "SWARM-1-"]).await;
    refused(
        foreign.address,
        &good,
        &[&foreign.address.to_string(), "token"],
    )
    .await;
    let mut forged = Secret::parse(&good).unwrap();
    assert!(forged.text() == good);
    forged.id = Secret::generate(b"", a.world()).unwrap().id;
    refused(one.address, &forged.text(), &["token", "expired"]).await;
    // The id of a token that is there, with a secret of one's own.
    let mut other = Secret::generate(&a.inner.identity.load().ca.0, a.world()).unwrap();
    other.id = Secret::parse(&good).unwrap().id;
    refused(one.address, &other.text(), &["token", "secret"]).await;
    refused(nobody, &good, &[&nobody.to_string()]).await;
    let short = within("a token", a.create_token(NodeRole::Worker, HOUR))
        .await
        .unwrap();
    assert_eq!(a.list_tokens().await.unwrap().len(), 2);
    let removed = within("a token", a.create_token(NodeRole::Worker, HOUR * 3))
        .await
        .unwrap();
    within("removing it", a.remove_token(&removed.id))
        .await
        .unwrap();
    refused(
        one.address,
        removed.secret.as_ref().unwrap(),
        &["token", "removed"],
    )
    .await;
    let lasting = within("a token", a.create_token(NodeRole::Manager, HOUR * 9))
        .await
        .unwrap()
        .secret
        .unwrap();
    world.ahead.store(
        u64::try_from((HOUR * 2).as_millis()).unwrap(),
        Ordering::SeqCst,
    );
    refused(one.address, short.secret.as_ref().unwrap(), &["expired"]).await;
    assert_eq!(a.list_tokens().await.unwrap().len(), 1);
    assert_eq!(names(&a).len(), 1, "a refused host is in the cluster");
    assert!(
        a.create_token(NodeRole::Worker, Duration::ZERO)
            .await
            .is_err()
    );

    let b = two.join(one.address, &lasting).await.unwrap();
    let again = two
        .join(one.address, &lasting)
        .await
        .unwrap_err()
        .to_string();
    assert!(again.contains("already"), "{again}");
    for member in [a, b, f] {
        within("stopping", member.stop(false)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_only_the_entrance_answers() {
    let mut world = Loopback::new();
    let one = world.host();
    let a = one.found().await;
    let channel = stranger(one.address, &token(&a, NodeRole::Worker).await).await;
    let observed = AgentClient::new(channel.clone())
        .observe(proto::ObserveRequest { from: 0 })
        .await;
    assert_eq!(observed.err().unwrap().code(), Code::PermissionDenied);
    // Other rooms' services as well, also ones that are not there.
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/swarm.v1.Backend/List");
    let codec =
        tonic_prost::ProstCodec::<proto::ReadIndexRequest, proto::ReadIndexReply>::default();
    let listed = grpc
        .unary(tonic::Request::new(proto::ReadIndexRequest {}), path, codec)
        .await;
    assert_eq!(listed.err().unwrap().code(), Code::PermissionDenied);
    let joined = proto::entrance_client::EntranceClient::new(channel)
        .join(proto::JoinRequest::default())
        .await;
    let refusal = joined.err().unwrap();
    assert!(refusal.message().contains("token"), "{refusal}");
    within("stopping", a.stop(false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_no_part_in_raft_and_decides_nothing() {
    let mut world = Loopback::new();
    let (one, two) = (world.host(), world.host());
    let a = one.found().await;
    let w = one_more(&two, &a, &one, NodeRole::Worker).await;
    let channel = w.inner.links.channel(a.id(), Lane::Control).unwrap();
    let sent = AgentClient::new(channel)
        .raft(proto::RaftMessage::default())
        .await;
    assert_eq!(sent.err().unwrap().code(), Code::PermissionDenied);
    let index = a.status().applied;
    for change in [Change::Plan(Vec::new()), Change::NodeDown(a.id())] {
        let refused = within("proposing", w.propose(change)).await.unwrap_err();
        assert!(matches!(refused, Error::Denied(_)), "{refused:?}");
    }
    let refused = within("a token", w.create_token(NodeRole::Manager, HOUR))
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::Denied(_)), "{refused:?}");
    assert_eq!(a.status().applied, index);
    assert!(w.change_voters(BTreeSet::from([w.id()])).await.is_err());
    assert!(w.inner.identity.load().secrets.ca_key.is_none());
    within("a token", w.create_token(NodeRole::Worker, HOUR))
        .await
        .unwrap();
    for member in [a, w] {
        within("stopping", member.stop(false)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_while_everything_runs() {
    let mut world = Loopback::new();
    let (one, two) = (world.host(), world.host());
    let a = one.found().await;
    let w = one_more(&two, &a, &one, NodeRole::Worker).await;
    let shown = |m: &Member| m.inner.identity.load().certificate.0.clone();
    let before = [shown(&a), shown(&w)];
    let day = 24 * 3600 * 1000;
    for days in [61, 122] {
        // After the second time the first certificates are no good any more.
        let earlier = [shown(&a), shown(&w)];
        world.ahead.store(days * day, Ordering::SeqCst);
        for (member, earlier) in [&a, &w].into_iter().zip(earlier) {
            until("it has a new certificate", member, |m| shown(m) != earlier).await;
        }
    }
    within("proposing", w.propose(label(a.id(), "renewed")))
        .await
        .unwrap();
    within("connecting", a.connect(w.id())).await.unwrap();
    assert!([shown(&a), shown(&w)] != before);
    for member in [a, w] {
        within("stopping", member.stop(false)).await;
    }
    // What is on the disk is the new one.
    let a = one.resume().await;
    let w = two.resume().await;
    within("a quorum", async {
        while w.read(Read::Linearizable).await.unwrap().stale {}
    })
    .await;
    for member in [a, w] {
        within("stopping", member.stop(false)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_leaves_and_is_refused_until_it_joins_again() {
    let mut world = Loopback::new();
    let mut all = world.managers(3).await;
    let (host, gone) = all.remove(2);
    let id = gone.id();
    let leave = gone.leave(false);
    is_send(&leave);
    within("leaving", leave).await.unwrap();
    let (one, a) = &all[0];
    until("it votes no more", a, |m| !m.status().voters.contains(&id)).await;
    assert!(!a.state().nodes.contains_key(&id));
    // Its certificate is still good, but it is a stranger now.
    let channel = gone.inner.links.channel(a.id(), Lane::Control).unwrap();
    let asked = AgentClient::new(channel)
        .read_index(proto::ReadIndexRequest {})
        .await;
    assert_eq!(asked.err().unwrap().code(), Code::PermissionDenied);
    within("stopping", gone.shutdown()).await;
    Member::forget(&host.world).unwrap();
    assert!(!Member::is_member(&host.world));
    let back = host
        .join(one.address, &token(a, NodeRole::Manager).await)
        .await
        .unwrap();
    assert_ne!(back.id(), id);
    within("proposing", back.propose(label(back.id(), "back")))
        .await
        .unwrap();
    within("stopping", back.shutdown()).await;
    for (_, member) in &all {
        within("stopping", member.shutdown()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_voter_leaves_and_its_cluster_goes_on() {
    let mut world = Loopback::new();
    let (one, two) = (world.host(), world.host());
    let a = one.found().await;
    let last = within("leaving", a.leave(false)).await.unwrap_err();
    assert!(last.to_string().contains("--force"), "{last}");
    let b = one_more(&two, &a, &one, NodeRole::Manager).await;
    until("it sees the other", &a, |m| {
        m.membership().members().len() == 2
    })
    .await;
    within("leaving", a.leave(false)).await.unwrap();
    within("stopping", a.shutdown()).await;
    Member::forget(&one.world).unwrap();
    until("the other votes alone", &b, |m| {
        m.status().voters == [m.id()] && m.status().is_leader
    })
    .await;
    within("proposing", b.propose(label(b.id(), "alone")))
        .await
        .unwrap();
    assert_eq!(names(&b).len(), 1);
    within("leaving", b.leave(true)).await.unwrap();
    within("stopping", b.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_reads_are_stale_and_writes_are_refused_until_there_is_one() {
    let mut world = Loopback::new();
    let mut all = world.managers(3).await;
    let id = all[0].1.id();
    within("proposing", all[0].1.propose(label(id, "kept")))
        .await
        .unwrap();
    let (third, c) = all.pop().unwrap();
    let (second, b) = all.pop().unwrap();
    b.stop(false).await;
    c.stop(false).await;
    let (_, a) = &all[0];
    until("it has lost its quorum", a, |m| !m.status().has_quorum).await;
    let refused = within("proposing", a.propose(label(id, "refused")))
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::Unavailable(_)), "{refused:?}");
    assert!(refused.to_string().contains("quorum"), "{refused}");
    assert!(refused.to_string().contains("not made"), "{refused}");
    let stale = within("reading", a.read(Read::Linearizable)).await.unwrap();
    assert!(
        stale.stale && stale.age_ms.is_some() && stale.index > 0,
        "{stale:?}"
    );
    assert_eq!(mark(a, id).as_deref(), Some("kept"));
    assert!(a.read(Read::Stale).await.unwrap().stale);
    let b = second.resume().await;
    within("a quorum", async {
        while a.read(Read::Linearizable).await.unwrap().stale {}
    })
    .await;
    within("proposing", b.propose(label(id, "again")))
        .await
        .unwrap();
    assert!(third.dir.path().exists());
    for member in [a, &b] {
        within("stopping", member.stop(false)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_moves_keeps_its_place() {
    let mut world = Loopback::new();
    let (one, mut two) = (world.host(), world.host());
    let a = one.found().await;
    let w = one_more(&two, &a, &one, NodeRole::Worker).await;
    let id = w.id();
    within("stopping", w.shutdown()).await;
    two.address = world.host().address;
    let w = two.resume().await;
    assert_eq!(w.id(), id);
    until("its record says so", &a, |m| {
        m.state().nodes[&id].address == Some(two.address)
    })
    .await;
    within("connecting", a.connect(id)).await.unwrap();
    let nobody = within("connecting", a.connect(NodeId(5)))
        .await
        .unwrap_err()
        .to_string();
    assert!(nobody.contains(&NodeId(5).to_string()), "{nobody}");
    for member in [a, w] {
        within("stopping", member.stop(false)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_said_and_leaves_nothing_behind() {
    let mut world = Loopback::new();
    let one = world.host();
    let taken = std::net::TcpListener::bind(one.address).unwrap();
    let refused = Member::found_with(one.config(), one.tuning.clone())
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains(&one.address.to_string()), "{refused}");
    assert!(!Member::is_member(&one.world));
    drop(taken);
    let a = one.found().await;
    within("stopping", a.shutdown()).await;
}
