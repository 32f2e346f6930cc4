use super::*;
use proptest::prelude::*;

fn ids(numbers: &[u64]) -> BTreeSet<NodeId> {
    numbers.iter().map(|n| NodeId(*n)).collect()
}

fn managers(alive: &[u64], dead: &[u64]) -> BTreeMap<NodeId, bool> {
    (alive.iter().map(|n| (NodeId(*n), true)))
        .chain(dead.iter().map(|n| (NodeId(*n), false)))
        .collect()
}

#[test]
fn a_cluster_grows_from_one_voter_to_five() {
    let mut voters = ids(&[1]);
    for (count, expected) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (9, 5)] {
        let alive: Vec<u64> = (1..=count).collect();
        voters = choose(&managers(&alive, &[]), &voters);
        assert_eq!(voters.len(), expected, "{count} managers");
    }
}

#[test]
fn a_dead_voter_makes_way_for_a_manager_that_is_alive() {
    assert_eq!(
        choose(&managers(&[1, 2, 4], &[3]), &ids(&[1, 2, 3])),
        ids(&[1, 2, 4])
    );
}

#[test]
fn a_dead_voter_that_nobody_can_replace_keeps_its_vote() {
    assert_eq!(
        choose(&managers(&[1, 2], &[3]), &ids(&[1, 2, 3])),
        ids(&[1, 2, 3])
    );
}

#[test]
fn a_voter_that_left_takes_its_vote_along() {
    assert_eq!(choose(&managers(&[1, 2], &[]), &ids(&[1, 2, 3])).len(), 1);
}

#[test]
fn a_voter_that_is_about_to_leave_hands_its_vote_on_while_it_still_counts() {
    let all = managers(&[1, 2, 3, 4], &[]);
    let leaving = |current: &[u64], node| choose_without(&all, &ids(current), Some(NodeId(node)));
    assert_eq!(leaving(&[1, 2, 3], 3), ids(&[1, 2, 4]));
    let two = managers(&[1, 2], &[]);
    assert_eq!(choose_without(&two, &ids(&[1]), Some(NodeId(1))), ids(&[2]));
    let alone = managers(&[1], &[]);
    assert!(choose_without(&alone, &ids(&[1]), Some(NodeId(1))).is_empty());
}

#[test]
fn without_a_majority_nothing_changes() {
    let current = ids(&[1, 2, 3]);
    assert_eq!(choose(&managers(&[1, 4, 5], &[2, 3]), &current), current);
}

proptest! {
    #[test]
    fn the_choice_is_odd_stable_and_keeps_a_majority(
        alive in prop::collection::btree_map(0u64..12, any::<bool>(), 1..12),
        current in prop::collection::btree_set(0u64..12, 1..6),
    ) {
        let managers: BTreeMap<_, _> = alive.into_iter().map(|(n, a)| (NodeId(n), a)).collect();
        let current: BTreeSet<_> = current.into_iter().map(NodeId).collect();
        let chosen = choose(&managers, &current);
        let living = |set: &BTreeSet<NodeId>| {
            set.iter().filter(|id| managers.get(id).copied().unwrap_or(false)).count()
        };
        prop_assert_eq!(&choose(&managers, &chosen), &chosen, "a second choice changes nothing");
        if living(&current) * 2 <= current.len() {
            prop_assert_eq!(&chosen, &current);
        } else {
            prop_assert!(matches!(chosen.len(), 1 | 3 | 5));
            prop_assert!(chosen.iter().all(|id| managers.contains_key(id)));
            prop_assert!(living(&chosen) * 2 > chosen.len(), "what is chosen can elect");
            let staying: BTreeSet<_> =
                current.iter().filter(|id| managers.get(id) == Some(&true)).collect();
            let kept = staying.iter().filter(|id| chosen.contains(id)).count();
            prop_assert_eq!(kept, staying.len().min(chosen.len()), "voters alive stay first");
        }
    }
}
