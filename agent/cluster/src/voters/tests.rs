use super::*;
use crate::testing::{ids, managers};
use proptest::prelude::*;

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
fn a_voter_whose_disk_lost_its_log_gives_its_vote_back_and_no_other_one_does() {
    let all = managers(&[1, 2, 3], &[]);
    let but = |managers: &BTreeMap<NodeId, bool>, current: &[u64], lost: &[u64]| {
        choose_but(managers, &ids(current), &ids(lost))
    };
    assert_eq!(but(&all, &[1, 2, 3], &[3]), ids(&[1, 2]));
    // It has given its vote back, and begun anew.
    assert_eq!(but(&all, &[1, 2], &[]), ids(&[1, 2, 3]));
    let four = managers(&[1, 2, 3, 4], &[]);
    assert_eq!(but(&four, &[1, 2, 3], &[3]), ids(&[1, 2, 4]));
    // Nothing can be agreed on.
    assert_eq!(
        but(&managers(&[1, 3], &[2]), &[1, 2, 3], &[3]),
        ids(&[1, 2, 3])
    );
    assert_eq!(but(&all, &[1, 2, 3], &[2, 3]), ids(&[1, 2, 3]));
}

#[test]
fn a_voter_that_left_takes_its_vote_along() {
    assert_eq!(choose(&managers(&[1, 2], &[]), &ids(&[1, 2, 3])).len(), 1);
}

#[test]
fn a_voter_that_is_about_to_leave_hands_its_vote_on_while_it_still_counts() {
    let all = managers(&[1, 2, 3, 4], &[]);
    let leaving = |current: &[u64], node| choose_without(&all, &ids(current), &ids(&[node]));
    assert_eq!(leaving(&[1, 2, 3], 3), ids(&[1, 2, 4]));
    let two = managers(&[1, 2], &[]);
    assert_eq!(choose_without(&two, &ids(&[1]), &ids(&[1])), ids(&[2]));
    let alone = managers(&[1], &[]);
    assert!(choose_without(&alone, &ids(&[1]), &ids(&[1])).is_empty());
}

#[test]
fn the_dead_are_no_majority_of_those_who_vote_after_others_left() {
    let chosen = choose_without(
        &managers(&[1, 2, 3], &[4, 5]),
        &ids(&[1, 2, 3, 4, 5]),
        &ids(&[1, 2]),
    );
    assert_eq!(chosen, ids(&[3]));
}

#[test]
fn a_leader_does_not_lose_its_vote_for_being_one_too_many() {
    let all = managers(&[1, 2], &[]);
    let keep = |wanted: &[u64], leader, current: &[u64]| {
        keep_leader(ids(wanted), NodeId(leader), &all, &ids(current))
    };
    assert_eq!(keep(&[1], 2, &[1, 2, 3]), ids(&[2]));
    assert_eq!(keep(&[1], 1, &[1, 2, 3]), ids(&[1]));
    // It left, or was made a worker.
    assert_eq!(keep(&[1], 9, &[1, 2, 9]), ids(&[1]));
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
