use super::*;
use crate::command::Change;
use crate::testing::{MEMORY, World, spec};
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
    let mut placer = Placer::new(&mut view, request);
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
    let first = nodes(placed(&mut w, spec("web", 1, Restart::Always), 4));
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
fn a_node_that_rejects_a_slot_again_and_again_is_the_last_choice() {
    let mut w = World::new(2);
    let service = w.create(spec("web", 1, Restart::Always));
    let request = Request {
        service: &service.id,
        spec: &service.spec.task,
        ports: &[],
    };
    let mut view = View::of(&w.state);
    let mut placer = Placer::new(&mut view, request);
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
