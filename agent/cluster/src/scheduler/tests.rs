use super::*;
use crate::command::Change;
use crate::testing::{MEMORY, World, spec};
use proptest::prelude::*;
use swarm_api::model::{Cpus, NetworkMode, Restart, ServiceSpec};

/// What placing tasks of `spec` one after the other comes to.
fn placed(w: &mut World, spec: ServiceSpec, count: usize) -> Vec<Result<u64, String>> {
    let service = w.create(spec);
    let request = Request {
        service: &service.id,
        spec: &service.spec.task,
        ports: &service.spec.ports,
    };
    let mut view = View::of(&w.state);
    let mut placer = Placer::new(&mut view, request, w.state.tasks.of_service(&service.id));
    (0..count).map(|_| placer.place(&[]).map(|n| n.0)).collect()
}

fn nodes(placed: Vec<Result<u64, String>>) -> Vec<u64> {
    placed.into_iter().map(Result::unwrap).collect()
}

fn why(placed: Vec<Result<u64, String>>) -> String {
    placed.into_iter().find_map(Result::err).unwrap()
}

#[test]
fn tasks_of_a_service_are_spread_before_anything_else() {
    let mut w = World::new(3);
    let busy = w.create(spec("busy", 6, Restart::Always));
    w.settle();
    w.scale(&busy, 1);
    w.settle();
    for node in 1..=3 {
        let image = crate::testing::image("everywhere");
        let node = NodeId(node);
        w.ok(Change::PutImage { image, node });
    }
    let mut web = spec("web", 1, Restart::Always);
    web.task.image = "everywhere".into();
    let first = nodes(placed(&mut w, web, 4));
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(first[0], 2, "the one with the task of busy comes last");
}

#[test]
fn a_node_that_has_the_image_is_taken_where_all_else_is_alike() {
    let mut w = World::new(3);
    let image = crate::testing::image("late");
    let node = NodeId(3);
    w.ok(Change::PutImage { image, node });
    let mut late = spec("late", 1, Restart::Always);
    late.task.image = "late".into();
    assert_eq!(nodes(placed(&mut w, late, 3)), [3, 1, 2]);
}

#[test]
fn a_node_that_has_the_image_is_preferred_while_it_has_one_task_more_and_not_two() {
    let mut w = World::new(2);
    let image = crate::testing::image("late");
    let node = NodeId(1);
    w.ok(Change::PutImage { image, node });
    let mut late = spec("late", 1, Restart::Always);
    late.task.image = "late".into();
    let pinned = |n: u32| {
        let mut busy = spec("busy", n, Restart::Always);
        busy.task.constraints = vec!["node.name==host1".parse().unwrap()];
        busy
    };
    let busy = w.create(pinned(1));
    w.settle();
    assert_eq!(nodes(placed(&mut w, late.clone(), 1)), [1]);
    w.scale(&busy, 3);
    w.settle();
    late.name = "later".into();
    assert_eq!(nodes(placed(&mut w, late, 1)), [2]);
}

proptest! {
    /// Wherever images and other tasks are: replicas spread as evenly as without them, and nobody with the image is left out
    /// for somebody without it who has as many tasks or more.
    #[test]
    fn images_never_stand_against_the_spread_of_replicas(
        with_image in proptest::collection::btree_set(1..=5u64, 1..=5),
        busy in proptest::collection::vec(1..=5u64, 0..8),
        count in 1..12usize,
    ) {
        let mut w = World::new(5);
        for node in &with_image {
            let image = crate::testing::image("late");
            w.ok(Change::PutImage { image, node: NodeId(*node) });
        }
        for (n, node) in busy.iter().enumerate() {
            let mut other = spec(&format!("busy{n}"), 1, Restart::Always);
            other.task.constraints = vec![format!("node.name==host{node}").parse().unwrap()];
            w.create(other);
        }
        w.settle();
        let mut late = spec("late", 1, Restart::Always);
        late.task.image = "late".into();
        let chosen = nodes(placed(&mut w, late, count));
        let on = |node: u64, of: &[u64]| of.iter().filter(|n| **n == node).count();
        let counts: Vec<usize> = (1..=5).map(|n| on(n, &chosen)).collect();
        let (most, least) = (counts.iter().max().unwrap(), counts.iter().min().unwrap());
        prop_assert!(most - least <= 1, "{counts:?}");
        for at in 0..chosen.len() {
            let (before, node) = (&chosen[..at], chosen[at]);
            if with_image.contains(&node) {
                continue;
            }
            for other in &with_image {
                let alike = on(*other, before) == on(node, before);
                let tasks = |n: u64| on(n, &busy) + on(n, before);
                prop_assert!(
                    !alike || tasks(*other) > tasks(node),
                    "{node} was chosen before {other}, which has the image"
                );
            }
        }
    }
}

#[test]
fn a_node_that_rejects_a_slot_again_and_again_is_the_last_choice() {
    let mut w = World::new(2);
    let service = w.create(spec("web", 1, Restart::Always));
    let request = Request {
        service: &service.id,
        spec: &service.spec.task,
        ports: &[],
    };
    let mut view = View::of(&w.state);
    let mut placer = Placer::new(&mut view, request, w.state.tasks.of_service(&service.id));
    assert_eq!(placer.place(&[NodeId(1)]), Ok(NodeId(1)));
    assert_eq!(placer.place(&[NodeId(2), NodeId(2)]), Ok(NodeId(1)));
    assert_eq!(placer.place(&[NodeId(1), NodeId(1)]), Ok(NodeId(2)));
}

#[test]
fn what_is_short_is_said_node_by_node() {
    let mut w = World::new(2);
    let mut big = spec("big", 1, Restart::Always);
    big.task.resources.memory = Some(MEMORY);
    let said = why(placed(&mut w, big.clone(), 3));
    assert!(
        said.contains("host1: has 0 B of memory free of 1 GiB"),
        "{said}"
    );
    big.name = "fast".into();
    big.task.resources.memory = None;
    big.task.resources.cpus = Some(Cpus::whole(3));
    let said = why(placed(&mut w, big.clone(), 3));
    assert!(
        said.contains("host2: has 1 CPUs free of 4, needs 3"),
        "{said}"
    );
    big.name = "near".into();
    big.task.constraints = vec!["node.labels.disk==ssd".parse().unwrap()];
    let said = why(placed(&mut w, big, 1));
    assert!(said.contains("host1: has no label disk"), "{said}");
}

#[test]
fn a_port_of_a_host_is_one_task_s() {
    let mut w = World::new(2);
    let mut web = spec("web", 3, Restart::Always);
    web.task.network = NetworkMode::Host;
    web.ports = vec!["80".parse().unwrap()];
    let said = placed(&mut w, web, 3);
    assert_eq!(nodes(said[..2].to_vec()), [1, 2]);
    assert!(why(said).contains("host1: port 80/tcp is taken by web"));
}

#[test]
fn nodes_that_are_down_get_nothing_and_of_very_many_some_are_named() {
    let mut w = World::new(20);
    for id in 1..=20 {
        w.ok(Change::NodeDown(NodeId(id)));
    }
    let said = why(placed(&mut w, spec("web", 1, Restart::Always), 1));
    assert!(
        said.contains("host1: is down") && said.ends_with("and 4 more nodes"),
        "{said}"
    );
}
