//! What the replica says, in real kernels' networks: two nodes and their tasks in network namespaces. Needs root and
//! `ip`. Namespaces are held by descriptors only, so nothing stays.

use super::super::tests::{place, state};
use super::attach::request;
use super::desired::of;
use super::underlay;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::thread;
use std::time::Duration;
use swarm_api::model::{NodeId, Task, TaskState};
use swarm_cluster::State;
use swarm_network::{Network, VTEP_OVERHEAD};

const PATIENCE: Duration = Duration::from_secs(5);

struct Ns(OwnedFd);

impl Ns {
    fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            Self(File::open("/proc/thread-self/ns/net").unwrap().into())
        });
        made.join().unwrap()
    }

    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    fn ip(&self, args: &str) {
        let out = self.run(|| Command::new("ip").args(args.split(' ')).output().unwrap());
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "ip {args}: {error}");
    }

    /// Answers each connection with `answer`.
    fn serve(&self, addr: IpAddr, answer: &'static str) {
        let listener = self.run(|| TcpListener::bind((addr, 80)).unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.and_then(|mut s| s.write_all(answer.as_bytes()));
            }
        });
    }

    fn ask(&self, addr: impl Into<SocketAddr>) -> String {
        let addr = addr.into();
        let answer = self.run(|| -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        });
        answer.unwrap_or_else(|why| panic!("{addr}: {why}"))
    }
}

/// Node N at 192.0.2.N, on a wire to the other.
struct Host {
    ns: Ns,
    number: u8,
    network: Network,
}

fn hosts() -> [Host; 2] {
    let namespaces = [Ns::new(), Ns::new()];
    let path = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        namespaces[1].0.as_raw_fd()
    );
    namespaces[0].ip(&format!(
        "link add eth0 mtu 1400 type veth peer name eth0 mtu 1400 netns {path}"
    ));
    let mut number = 0;
    namespaces.map(|ns| {
        number += 1;
        ns.ip("link set lo up");
        ns.ip(&format!("addr add 192.0.2.{number}/24 dev eth0"));
        ns.ip("link set eth0 up");
        let network = ns.run(|| Network::new().unwrap());
        Host {
            ns,
            number,
            network,
        }
    })
}

impl Host {
    async fn follow(&self, state: &State) {
        let underlay = [192, 0, 2, self.number].into();
        let mtu = self.mtu().await - VTEP_OVERHEAD;
        let desired = of(state, NodeId(self.number.into()), underlay, mtu);
        let report = self.network.reconcile(desired).await.unwrap();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
    }

    async fn mtu(&self) -> u32 {
        let address = [192, 0, 2, self.number].into();
        let name = self.ns.run(|| underlay::interface(address).unwrap());
        self.network.mtu(&name).await.unwrap()
    }

    async fn connect(&self, state: &State, task: &Task) -> Ns {
        let desired = of(
            state,
            NodeId(self.number.into()),
            [192, 0, 2, self.number].into(),
            1350,
        );
        let container = Ns::new();
        let netns = container.0.try_clone().unwrap();
        let wanted = request(task, &desired.networks[0], netns).unwrap();
        self.network.attach(wanted).await.unwrap();
        container
    }
}

#[tokio::test]
async fn tasks_reach_each_other_across_nodes_and_a_published_port_leads_to_them() {
    let [one, two] = hosts();
    assert_eq!(one.mtu().await, 1400);
    let mut state = state();
    // The tasks' bridges are there before the tasks are.
    one.follow(&state).await;
    two.follow(&state).await;
    let (a, b) = (
        place(&mut state, 1, 1, TaskState::Running),
        place(&mut state, 2, 2, TaskState::Running),
    );
    let (at_one, at_two) = (one.connect(&state, &a).await, two.connect(&state, &b).await);
    one.follow(&state).await;
    two.follow(&state).await;
    at_one.serve(a.addresses[0], "a");
    at_two.serve(b.addresses[0], "b");

    assert_eq!(at_one.ask((b.addresses[0], 80)), "b");
    assert_eq!(one.ns.ask((b.addresses[0], 80)), "b");
    state.tasks.remove(&a.id);
    one.follow(&state).await;
    two.follow(&state).await;
    for number in 1..=2 {
        // From the other node: only the task that is left is behind the port.
        let at = SocketAddr::from(([192, 0, 2, number], 8080));
        assert_eq!(one.ns.ask(at), "b");
        assert_eq!(two.ns.ask(at), "b");
    }
    for host in [&one, &two] {
        host.network.teardown().await.unwrap();
        let left = host.network.observe().await.unwrap();
        assert!(left.bridges.is_empty() && left.vxlans.is_empty() && left.table.is_none());
    }
}
