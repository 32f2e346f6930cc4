//! A world of network namespaces: hosts joined by a bridge, with containers in them. Namespaces are held by descriptors
//! only, so they vanish with the test, panicking or not.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use swarm_network::{
    Attach, Attachment, Gateway6, HostNetwork, Mac, Network, NetworkSpec, RemoteEndpoint, Report,
    VXLAN_PORT, veth_name,
};

/// How long to wait for what should happen at once, or for what should never happen.
pub const PATIENCE: Duration = Duration::from_secs(5);
pub const REFUSAL: Duration = Duration::from_millis(400);

/// A network namespace.
pub struct Ns(pub OwnedFd);

impl Ns {
    pub fn new() -> Self {
        let ns = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            Self(File::open("/proc/thread-self/ns/net").unwrap().into())
        });
        let ns = ns.join().unwrap();
        ns.ip("link set lo up");
        ns
    }

    /// Runs something on a thread inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    /// Runs a program inside; returns what it wrote.
    pub fn command(&self, program: &str, args: &[&str]) -> String {
        let out = self.run(|| Command::new(program).args(args).output().unwrap());
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{program} {args:?}: {error}");
        String::from_utf8(out.stdout).unwrap()
    }

    pub fn ip(&self, args: &str) -> String {
        self.command("ip", &args.split(' ').collect::<Vec<_>>())
    }

    pub fn nft(&self, script: &str) -> String {
        self.command("nft", &[script])
    }

    pub fn bridge(&self, args: &str) -> String {
        self.command("bridge", &args.split(' ').collect::<Vec<_>>())
    }

    /// A path that names the namespace for `ip link … netns`.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Answers each connection with a name and the client's address, until the process ends.
    pub fn serve(&self, addr: impl Into<SocketAddr>, name: &'static str) {
        let addr = addr.into();
        let listener = self.run(|| TcpListener::bind(addr).unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip();
                let _ = stream.write_all(format!("{name} {peer}").as_bytes());
            }
        });
    }

    /// Answers each datagram with a name.
    pub fn serve_udp(&self, addr: (Ipv4Addr, u16), name: &'static str) {
        let socket = self.run(|| UdpSocket::bind(addr).unwrap());
        thread::spawn(move || {
            let mut buffer = [0; 100];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), peer);
            }
        });
    }

    /// What a server says, and whom it sees.
    #[track_caller]
    pub fn ask(&self, addr: impl Into<SocketAddr>) -> (String, IpAddr) {
        let addr = addr.into();
        let text = self
            .ask_within(addr, PATIENCE)
            .unwrap_or_else(|error| panic!("{addr}: {error}"));
        let (name, peer) = text.split_once(' ').unwrap();
        (name.to_owned(), peer.parse().unwrap())
    }

    pub fn ask_within(
        &self,
        addr: impl Into<SocketAddr>,
        patience: Duration,
    ) -> std::io::Result<String> {
        let addr = addr.into();
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&addr, patience)?;
            stream.set_read_timeout(Some(patience))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }

    pub fn sysctl(&self, path: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap());
    }
}

/// A node: its namespace, its networks, and what it should be.
pub struct Host {
    pub ns: Ns,
    pub addr: Ipv4Addr,
    pub network: Network,
    pub desired: HostNetwork,
    pub containers: BTreeMap<Ipv4Addr, Ns>,
}

impl Host {
    pub async fn reconcile(&self) -> Report {
        let report = self.network.reconcile(self.desired.clone()).await.unwrap();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        report
    }

    pub fn container(&self, addr: Ipv4Addr) -> &Ns {
        &self.containers[&addr]
    }
}

/// Hosts 192.0.2.1, .2, … and a client that is no node, 192.0.2.100, on one wire.
pub struct World {
    _wire: Ns,
    pub client: Ns,
    pub hosts: Vec<Host>,
}

pub const VNI: u32 = 4097;

/// The address of a container (or, with 1, the gateway) of a host in the test network.
pub fn inside(host: u8, number: u8) -> Ipv4Addr {
    [10, 97, host, number].into()
}

pub fn network(host: u8) -> NetworkSpec {
    NetworkSpec {
        name: "web".into(),
        vni: VNI,
        subnet: "10.97.0.0/16".parse().unwrap(),
        gateway: inside(host, 1),
        v6: Some(Gateway6 {
            subnet: "fd97::/64".parse().unwrap(),
            gateway: inside6(host, 1),
        }),
        mtu: 1450,
    }
}

pub fn inside6(host: u8, number: u8) -> std::net::Ipv6Addr {
    format!("fd97::{host:x}:{number:x}").parse().unwrap()
}

impl World {
    /// Hosts without any network.
    pub fn bare(hosts: u8) -> Self {
        let wire = Ns::new();
        wire.ip("link add wire type bridge");
        wire.ip("link set wire up");
        let plug = |ns: &Ns, number: u8| {
            wire.ip(&format!(
                "link add p{number} type veth peer name eth0 netns {}",
                ns.path()
            ));
            wire.ip(&format!("link set p{number} master wire up"));
            ns.ip(&format!("addr add 192.0.2.{number}/24 dev eth0"));
            ns.ip("link set eth0 up");
        };
        let client = Ns::new();
        plug(&client, 100);
        let host = |number| {
            let ns = Ns::new();
            plug(&ns, number);
            let addr = [192, 0, 2, number].into();
            let network = ns.run(|| Network::new().unwrap());
            let desired = HostNetwork {
                vxlan_port: VXLAN_PORT,
                ..HostNetwork::empty(IpAddr::V4(addr))
            };
            Host {
                ns,
                addr,
                network,
                desired,
                containers: BTreeMap::new(),
            }
        };
        let hosts = (1..=hosts).map(host).collect();
        Self {
            _wire: wire,
            client,
            hosts,
        }
    }

    /// Hosts in one network, each with containers at .10 and .11 of its part of the subnet, all knowing one another.
    pub async fn of(hosts: u8, containers: u8) -> Self {
        let mut world = Self::bare(hosts);
        let mut endpoints = Vec::new();
        for number in 1..=hosts {
            let vtep = world.hosts[usize::from(number) - 1].addr.into();
            for last in std::iter::once(1).chain(10..10 + containers) {
                let mac = Mac::for_address(inside(number, last));
                let ips = [inside(number, last).into(), inside6(number, last).into()];
                endpoints.extend(ips.map(|ip| RemoteEndpoint {
                    vni: VNI,
                    ip,
                    mac,
                    vtep,
                }));
            }
        }
        for (host, number) in world.hosts.iter_mut().zip(1..) {
            host.desired.networks.push(network(number));
            host.desired.endpoints = endpoints
                .iter()
                .filter(|e| e.vtep != host.addr)
                .cloned()
                .collect();
            host.reconcile().await;
            for last in 10..10 + containers {
                let ns = Ns::new();
                host.network
                    .attach(attach(&ns, number, last))
                    .await
                    .unwrap();
                host.containers.insert(inside(number, last), ns);
                host.desired.attachments.push(attachment(number, last));
            }
            host.reconcile().await;
        }
        world
    }
}

pub fn attachment(host: u8, last: u8) -> Attachment {
    let addr = inside(host, last);
    Attachment {
        vni: VNI,
        host_ifname: veth_name(&addr.to_string()),
        addr,
        mac: Mac::for_address(addr),
    }
}

pub fn attach(ns: &Ns, host: u8, last: u8) -> Attach {
    let addr = inside(host, last);
    Attach {
        vni: VNI,
        netns: ns.0.try_clone().unwrap(),
        host_ifname: veth_name(&addr.to_string()),
        container_ifname: "eth0".into(),
        addr: format!("{addr}/16").parse().unwrap(),
        addr6: Some(format!("{}/64", inside6(host, last)).parse().unwrap()),
        mac: Mac::for_address(addr),
        gateway: Some(inside(host, 1)),
        gateway6: Some(inside6(host, 1)),
        mtu: 1450,
    }
}
