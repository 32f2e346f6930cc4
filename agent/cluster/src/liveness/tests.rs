use super::*;
use crate::testing::World;

fn seen(nodes: &[(u64, bool)]) -> BTreeMap<NodeId, bool> {
    nodes
        .iter()
        .map(|(id, alive)| (NodeId(*id), *alive))
        .collect()
}

#[test]
fn a_dead_node_is_fenced_once_and_let_in_again() {
    let mut w = World::new(3);
    let dead = seen(&[(1, true), (2, true), (3, false)]);
    assert_eq!(changes(&w.state, &dead), [Change::NodeDown(NodeId(3))]);
    w.ok(Change::NodeDown(NodeId(3)));
    assert!(changes(&w.state, &dead).is_empty());
    let back = seen(&[(1, true), (2, true), (3, true)]);
    assert_eq!(changes(&w.state, &back), [Change::NodeUp(NodeId(3))]);
}

#[test]
fn a_node_of_which_nothing_is_known_stays_as_it_is() {
    let w = World::new(3);
    assert!(changes(&w.state, &seen(&[(1, true), (2, true), (9, false)])).is_empty());
}

#[test]
fn one_that_hears_none_of_several_others_may_be_cut_off_itself() {
    let w = World::new(3);
    assert!(sees_nobody(
        &w.state,
        &seen(&[(1, true), (2, false), (3, false)])
    ));
    assert!(sees_nobody(&w.state, &seen(&[(1, true), (2, false)])));
    assert!(!sees_nobody(
        &w.state,
        &seen(&[(1, true), (2, true), (3, false)])
    ));
    let two = World::new(2);
    assert!(!sees_nobody(&two.state, &seen(&[(1, true), (2, false)])));
}
