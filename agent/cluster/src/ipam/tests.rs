use super::*;
use crate::command::Change;
use crate::testing::World;
use proptest::prelude::*;
use std::collections::BTreeSet;
use swarm_api::model::{Network, Timestamp};

fn record(subnet: &str) -> NetworkRecord {
    NetworkRecord {
        network: Network {
            id: Id::from_u64(1),
            name: "n".into(),
            subnet: subnet.parse().unwrap(),
            vni: 1,
            created_at: Timestamp(0),
        },
        gateways: Default::default(),
        leases: Default::default(),
        cursor: 0,
    }
}

#[test]
fn an_address_rests_as_long_as_possible_before_it_is_used_again() {
    let mut network = record("10.0.0.0/29");
    let id = Id::from_u64(1);
    let first = network.lease(&id).unwrap();
    network.release(first, &id);
    let mut seen = vec![first];
    for _ in 0..5 {
        let next = network.lease(&id).unwrap();
        assert!(!seen.contains(&next));
        network.release(next, &id);
        seen.push(next);
    }
    assert_eq!(network.lease(&id), Some(first));
}

#[test]
fn a_lease_is_ended_by_its_own_task_only() {
    let mut network = record("10.0.0.0/29");
    let (one, two) = (Id::from_u64(1), Id::from_u64(2));
    let address = network.lease(&one).unwrap();
    network.release(address, &two);
    assert_eq!(network.leases.get(&address), Some(&one));
}

#[test]
fn networks_are_cut_from_the_pool_beside_each_other_and_beside_the_nodes() {
    let mut w = World::new(2);
    let mut node = crate::testing::node(3);
    node.address = Some("10.129.0.7:7946".parse().unwrap());
    w.ok(Change::AddNode { node, token: None });
    for name in ["a", "b"] {
        let (name, subnet) = (name.to_owned(), None);
        w.ok(Change::CreateNetwork(NetworkSpec { name, subnet }));
    }
    let networks = w.state.networks.values();
    let subnets: BTreeSet<String> = networks.map(|n| n.network.subnet.to_string()).collect();
    let wanted = ["10.128.0.0/16", "10.130.0.0/16", "10.131.0.0/16"];
    assert_eq!(subnets, wanted.map(str::to_owned).into());
    for bad in ["127.0.0.0/16", "10.0.0.0/30", "224.0.0.0/16", "0.0.0.0/8"] {
        let spec = NetworkSpec {
            name: "bad".into(),
            subnet: Some(bad.parse().unwrap()),
        };
        assert!(choose_subnet(&w.state, &spec).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_address_is_given_twice(steps in prop::collection::vec((any::<bool>(), 0u64..20), 0..200)) {
        let mut network = record("10.1.2.16/28");
        network.gateway_for(NodeId(1));
        let mut held: BTreeSet<(Ipv4Addr, u64)> = BTreeSet::new();
        for (take, n) in steps {
            if take {
                let address = network.lease(&Id::from_u64(n));
                prop_assert_eq!(address.is_none(), held.len() == 13);
                if let Some(address) = address {
                    prop_assert!(held.iter().all(|(a, _)| *a != address));
                    prop_assert!(network.gateways.values().all(|g| *g != address));
                    held.insert((address, n));
                }
            } else if let Some((address, owner)) = held.iter().nth(n as usize).copied() {
                network.release(address, &Id::from_u64(owner));
                held.remove(&(address, owner));
            }
        }
    }
}
