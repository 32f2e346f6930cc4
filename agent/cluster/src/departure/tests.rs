use super::*;
use crate::testing::{ids, managers};
use proptest::prelude::*;

fn settled(voters: &[u64]) -> Group {
    Group {
        voters: ids(voters),
        members: ids(voters),
        settled: true,
    }
}

/// For node 1, with node 3 for leader.
fn release_of(managers: &BTreeMap<NodeId, bool>, leaving: &[u64], group: &Group) -> Release {
    let recorded = managers.contains_key(&NodeId(1));
    release(
        NodeId(1),
        NodeId(3),
        recorded,
        managers,
        &ids(leaving),
        group,
    )
}

#[test]
fn a_voter_goes_without_its_vote_then_without_its_record_and_then_is_told() {
    let all = managers(&[1, 2, 3], &[]);
    let step = release_of(&all, &[1], &settled(&[1, 2, 3]));
    assert_eq!(step, Release::Voters(ids(&[3])));
    let without = settled(&[3]);
    assert_eq!(release_of(&all, &[1], &without), Release::Record);
    let gone = managers(&[2, 3], &[]);
    assert_eq!(release_of(&gone, &[1], &without), Release::Done);
}

#[test]
fn a_change_that_is_not_agreed_on_is_waited_for() {
    let under_way = Group {
        settled: false,
        ..settled(&[3])
    };
    let gone = managers(&[2, 3], &[]);
    assert_eq!(release_of(&gone, &[1], &under_way), Release::Wait);
}

#[test]
fn all_who_ask_go_at_once() {
    let all = managers(&[1, 2, 3, 4, 5], &[]);
    let step = release_of(&all, &[1, 2, 4, 5], &settled(&[1, 2, 3, 4, 5]));
    assert_eq!(step, Release::Voters(ids(&[3])));
}

#[test]
fn a_spare_manager_takes_the_place_of_one_who_leaves() {
    let all = managers(&[1, 2, 3, 4], &[]);
    let step = release_of(&all, &[1], &settled(&[1, 2, 3]));
    assert_eq!(step, Release::Voters(ids(&[2, 3, 4])));
}

#[test]
fn a_dead_voter_is_not_counted_on_when_another_leaves() {
    let one_dead = managers(&[1, 3], &[2]);
    let step = release_of(&one_dead, &[1], &settled(&[1, 2, 3]));
    assert_eq!(step, Release::Voters(ids(&[3])));
    let two_dead = managers(&[1, 3, 4], &[2, 5]);
    let step = release_of(&two_dead, &[1], &settled(&[1, 2, 3, 4, 5]));
    assert_eq!(step, Release::Voters(ids(&[2, 3, 4])));
    let two_of_three_leave = managers(&[1, 3, 4], &[2, 5]);
    let step = release_of(&two_of_three_leave, &[1, 4], &settled(&[1, 2, 3, 4, 5]));
    assert_eq!(step, Release::Voters(ids(&[3])));
}

#[test]
fn who_was_taken_out_and_votes_still_is_not_told_that_it_may_go() {
    let without = managers(&[2, 3], &[]);
    let step = release_of(&without, &[1], &settled(&[1, 2, 3]));
    assert_eq!(step, Release::Voters(ids(&[3])));
}

#[test]
fn without_a_majority_nobody_is_let_go() {
    let minority = managers(&[1, 3], &[2, 4, 5]);
    let step = release_of(&minority, &[1], &settled(&[1, 2, 3, 4, 5]));
    assert_eq!(step, Release::Keep);
}

#[test]
fn a_leader_that_leaves_hands_over_first_and_the_last_stays() {
    let it = Leaver {
        me: NodeId(1),
        leads: true,
        others: true,
        leader: Some(NodeId(1)),
        voters: ids(&[1, 2, 3]),
        managers: ids(&[2, 3]),
        leaving: ids(&[]),
    };
    assert_eq!(leave(&it), Leave::Resign);
    let alone = Leaver {
        voters: ids(&[1]),
        leaving: ids(&[2]),
        ..it.clone()
    };
    assert_eq!(leave(&alone), Leave::Promote(NodeId(3)));
    let all_leave = Leaver {
        leaving: ids(&[2, 3]),
        ..alone.clone()
    };
    assert_eq!(leave(&all_leave), Leave::Wait);
    let with_workers = Leaver {
        managers: ids(&[]),
        ..alone.clone()
    };
    assert_eq!(leave(&with_workers), Leave::OnlyManager);
    let last = Leaver {
        others: false,
        ..alone
    };
    assert_eq!(leave(&last), Leave::Last);
}

#[test]
fn one_that_does_not_lead_asks_the_leader_and_else_whoever_may_know_it() {
    let it = Leaver {
        me: NodeId(1),
        others: true,
        leader: Some(NodeId(3)),
        managers: ids(&[2, 3]),
        ..Leaver::default()
    };
    assert_eq!(leave(&it), Leave::Ask(vec![NodeId(3), NodeId(2)]));
    let no_leader = Leaver { leader: None, ..it };
    assert_eq!(leave(&no_leader), Leave::Ask(vec![NodeId(2), NodeId(3)]));
}

proptest! {
    /// Any of up to nine managers, some dead, leave at once. The leader goes on step by step, each of which needs a majority
    /// of the voters before it and of those after it; who was told is gone.
    #[test]
    fn whoever_stays_can_always_agree(
        voters in 1u64..=5, spare in 0u64..4, dead in prop::collection::btree_set(2u64..9, 0..3),
        leaving in prop::collection::btree_set(2u64..9, 0..9),
    ) {
        let leader = NodeId(1);
        let voters = voters - u64::from(voters.is_multiple_of(2));
        let mut all: BTreeMap<NodeId, bool> =
            (1..=voters + spare).map(|n| (NodeId(n), !dead.contains(&n))).collect();
        let mut group = settled(&(1..=voters).collect::<Vec<_>>());
        let mut there: BTreeSet<NodeId> = all.iter().filter(|(_, a)| **a).map(|(n, _)| *n).collect();
        let can_agree = |there: &BTreeSet<NodeId>, voters: &BTreeSet<NodeId>| {
            voters.intersection(there).count() * 2 > voters.len()
        };
        prop_assume!(can_agree(&there, &group.voters));
        let mut asking: BTreeSet<NodeId> =
            leaving.into_iter().map(NodeId).filter(|n| there.contains(n)).collect();
        while let Some(node) = asking.first().copied() {
            match release(node, leader, all.contains_key(&node), &all, &asking, &group) {
                Release::Voters(wanted) => {
                    prop_assert!(can_agree(&there, &group.voters) && can_agree(&there, &wanted));
                    prop_assert!(wanted.contains(&leader) && !wanted.contains(&node));
                    prop_assert!(wanted.len() % 2 == 1);
                    group = Group { voters: wanted.clone(), members: wanted, settled: true };
                }
                Release::Record => {
                    all.remove(&node);
                }
                Release::Done => {
                    asking.remove(&node);
                    there.remove(&node);
                }
                step => prop_assert!(false, "{step:?} of {node:?} in {group:?}"),
            }
            prop_assert!(can_agree(&there, &group.voters), "{group:?} with {there:?}");
        }
    }
}
