use super::*;
use openraft::{CommittedLeaderId, EmptyNode, Membership};

const ME: u64 = 3;

fn log(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

fn group(index: u64, members: &[u64]) -> Agreed {
    Agreed {
        at: Some(log(1, index)),
        voters: members.iter().copied().collect(),
        members: members.iter().copied().collect(),
    }
}

fn own(last: LogId, term: u64) -> Own {
    Own {
        node_id: ME,
        last: Some(last),
        vote: Vote::new(term, 1),
        group: group(1, &[1, 2, 3]),
        voters: BTreeSet::from([1, 2, 3]),
        has_others: true,
    }
}

fn says(last: LogId, acked: Option<Acked>) -> Testimony {
    Testimony {
        acked,
        vote: Vote::new_committed(last.leader_id.term, 1),
        last: Some(last),
        group: group(1, &[1, 2, 3]),
    }
}

fn acked(term: u64, last: LogId, agreed: Option<LogId>) -> Option<Acked> {
    Some(Acked {
        leader: Vote::new_committed(term, 1),
        last,
        agreed,
    })
}

#[test]
fn a_log_that_is_shorter_than_its_own_word_is_lost() {
    let said = BTreeMap::from([(1, says(log(2, 9), acked(2, log(2, 9), None)))]);
    let shorter = judge(&own(log(2, 8), 2), &said, false);
    assert!(matches!(shorter, Verdict::Lost(_)), "{shorter:?}");
    assert_eq!(judge(&own(log(2, 9), 2), &said, false), Verdict::Wait);
}

#[test]
fn what_a_later_leader_took_back_is_not_lost_but_what_was_agreed_on_is() {
    let kept = |agreed| BTreeMap::from([(1, says(log(3, 9), acked(2, log(2, 9), agreed)))]);
    let later = own(log(1, 5), 3);
    assert_eq!(judge(&later, &kept(Some(log(1, 5))), false), Verdict::Wait);
    let lost = judge(&later, &kept(Some(log(2, 6))), false);
    assert!(matches!(lost, Verdict::Lost(_)), "{lost:?}");
}

#[test]
fn all_voters_are_heard_or_after_a_while_a_majority() {
    let mine = own(log(2, 8), 2);
    let mut said = BTreeMap::from([(1, says(log(2, 9), None))]);
    assert_eq!(judge(&mine, &BTreeMap::new(), true), Verdict::Wait);
    assert_eq!(judge(&mine, &said, false), Verdict::Wait);
    let good = Verdict::Good {
        vote: Vote::new_committed(2, 1),
        floor: Some((2, 9)),
    };
    assert_eq!(judge(&mine, &said, true), good);
    said.insert(2, says(log(2, 7), None));
    assert_eq!(judge(&mine, &said, false), good);
}

#[test]
fn who_others_say_votes_counts_where_they_know_better() {
    let mine = own(log(2, 8), 2);
    let mut newer = says(log(2, 9), None);
    newer.group = group(4, &[1, 3, 4]);
    let mut said = BTreeMap::from([(1, newer.clone()), (2, says(log(2, 9), None))]);
    assert_eq!(judge(&mine, &said, false), Verdict::Wait);
    said.insert(4, newer);
    assert!(matches!(judge(&mine, &said, false), Verdict::Good { .. }));
}

#[test]
fn the_only_voter_asks_nobody_and_an_empty_log_asks_whom_it_can() {
    let alone = Own {
        voters: BTreeSet::from([ME]),
        has_others: false,
        ..own(log(1, 1), 1)
    };
    assert!(matches!(
        judge(&alone, &BTreeMap::new(), false),
        Verdict::Good { .. }
    ));
    let empty = Own {
        node_id: ME,
        has_others: true,
        ..Own::default()
    };
    assert_eq!(judge(&empty, &BTreeMap::new(), true), Verdict::Wait);
}

#[test]
fn a_new_log_is_begun_once_the_group_is_without_the_old_one() {
    let mine = own(log(1, 1), 1);
    let mut told = says(log(2, 9), acked(2, log(2, 9), None));
    let said = |said: &Testimony| BTreeMap::from([(1, said.clone())]);
    assert!(!may_begin_anew(&mine, &said(&told)));
    told.group = group(8, &[1, 2]);
    // It was taken out and is counted on still by one that has not heard of it.
    assert!(!may_begin_anew(&mine, &said(&told)));
    told.acked = None;
    assert!(may_begin_anew(&mine, &said(&told)));
    // It is being prepared for a new vote.
    told.group.members.insert(ME);
    assert!(may_begin_anew(&mine, &said(&told)));
    told.group.voters.insert(ME);
    assert!(!may_begin_anew(&mine, &said(&told)));
    assert!(!may_begin_anew(&mine, &BTreeMap::new()));
}

#[test]
fn what_was_told_is_kept_until_the_group_is_without_the_node() {
    let witness = Witness::default();
    let leader = Vote::new_committed(2, 1);
    witness.told(ME, leader, Some(log(2, 5)), Some(log(2, 4)));
    witness.told(ME, leader, Some(log(2, 3)), Some(log(2, 4)));
    let told = |w: &Witness| w.testify(ME, leader, None).acked;
    assert_eq!(told(&witness), acked(2, log(2, 5), Some(log(2, 4))));
    assert!(witness.went_back(ME, leader, Some(log(2, 5))));
    assert_eq!(witness.lost(), BTreeSet::from([ME]));
    assert!(!witness.went_back(ME, leader, Some(log(2, 6))));
    assert!(!witness.went_back(ME, Vote::new_committed(3, 1), Some(log(2, 5))));
    let again = Witness::default();
    again.kept(&witness.to_keep().unwrap());
    assert_eq!(told(&again), told(&witness));
    assert_eq!(witness.to_keep(), None);
    let without = Membership::<u64, EmptyNode>::new(vec![BTreeSet::from([1, 2])], None);
    witness.agreed(&StoredMembership::new(Some(log(2, 7)), without));
    assert_eq!(told(&witness), None);
    assert!(witness.lost().is_empty());
}
