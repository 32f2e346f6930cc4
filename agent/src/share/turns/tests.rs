use super::*;
use proptest::prelude::*;

fn ask(node: u64, holders: &[u64]) -> Ask {
    Ask {
        digest: "sha256:a".into(),
        node: NodeId(node),
        holders: holders.iter().copied().map(NodeId).collect(),
        ..Ask::default()
    }
}

#[test]
fn one_asks_the_registry_and_gives_it_to_two_who_give_it_on() {
    let mut turns = Turns::default();
    let (first, said) = turns.ask(ask(1, &[]));
    assert_eq!(said, [(first, Given::Registry)]);
    let others: Vec<Ticket> = (2..=6).map(|n| turns.ask(ask(n, &[])).0).collect();
    let said = turns.came(first);
    let from = |node| Given::From(NodeId(node));
    assert_eq!(said, [(others[0], from(1)), (others[1], from(1))]);
    // The second has it: it gives to two, and the first can give to one more.
    let said = turns.came(others[0]);
    assert_eq!(said.len(), 3);
    assert!(
        said.iter()
            .all(|(_, given)| [from(1), from(2)].contains(given))
    );
}

#[test]
fn one_who_dies_over_it_is_replaced() {
    let mut turns = Turns::default();
    let (first, _) = turns.ask(ask(1, &[]));
    let (second, said) = turns.ask(ask(2, &[]));
    assert!(said.is_empty());
    assert_eq!(turns.gone(first), [(second, Given::Registry)]);
    // The registry refuses: that is told to each.
    let (third, _) = turns.ask(ask(3, &[]));
    assert_eq!(turns.failed(second), [(third, Given::Registry)]);
}

#[test]
fn the_registry_is_asked_where_no_holder_gives_it() {
    let mut turns = Turns::default();
    let (ticket, said) = turns.ask(ask(1, &[2, 3]));
    assert!(matches!(said[..], [(_, Given::From(_))]));
    assert!(matches!(turns.failed(ticket)[..], [(_, Given::From(_))]));
    assert_eq!(turns.failed(ticket), [(ticket, Given::Registry)]);
}

#[test]
fn those_that_seem_to_be_away_are_asked_last() {
    let mut turns = Turns::default();
    let away = Ask {
        unlikely: vec![NodeId(2)],
        ..ask(1, &[3])
    };
    let (ticket, said) = turns.ask(away);
    assert_eq!(said, [(ticket, Given::From(NodeId(3)))]);
    assert_eq!(turns.failed(ticket), [(ticket, Given::From(NodeId(2)))]);
}

#[test]
fn the_same_node_twice_gets_it_once() {
    let mut turns = Turns::default();
    let (first, _) = turns.ask(ask(1, &[]));
    let (again, said) = turns.ask(ask(1, &[]));
    assert!(said.is_empty());
    assert_eq!(turns.came(first), [(again, Given::Here)]);
}

#[test]
fn every_node_keeps_the_account_of_some_parts_and_all_agree() {
    let nodes: Vec<NodeId> = (1..=10).map(NodeId).collect();
    let mut first = BTreeSet::new();
    for part in 0..200 {
        let digest = format!("sha256:{part}");
        let keepers = super::keepers(&digest, nodes.iter().copied());
        let backwards = super::keepers(&digest, nodes.iter().rev().copied());
        assert_eq!(keepers, backwards);
        first.insert(keepers[0]);
        // Who goes changes nothing for the others.
        let rest = super::keepers(&digest, nodes.iter().copied().filter(|n| *n != keepers[0]));
        assert_eq!(rest, keepers[1..]);
    }
    assert_eq!(first.len(), 10);
}

/// What happens to a node that wants a part.
#[derive(Debug, Clone)]
enum Step {
    Ask {
        node: u64,
        holds: Option<u64>,
    },
    /// The n-th of those that were told a source.
    Came(usize),
    Failed(usize),
    /// The n-th of all.
    Gone(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..8u64, proptest::option::weighted(0.2, 1..8u64))
            .prop_map(|(node, holds)| Step::Ask { node, holds }),
        4 => any::<usize>().prop_map(Step::Came),
        1 => any::<usize>().prop_map(Step::Failed),
        1 => any::<usize>().prop_map(Step::Gone),
    ]
}

fn nth(of: &BTreeMap<Ticket, Option<Given>>, n: usize, told: bool) -> Option<Ticket> {
    let of: Vec<Ticket> = (of.iter())
        .filter(|(_, given)| !told || given.is_some())
        .map(|(ticket, _)| *ticket)
        .collect();
    (!of.is_empty()).then(|| of[n % of.len()])
}

proptest! {
    #[test]
    fn the_registry_is_asked_by_one_at_a_time_and_nobody_waits_for_nothing(
        steps in proptest::collection::vec(step(), 1..120)
    ) {
        let mut turns = Turns::default();
        let mut open: BTreeMap<Ticket, Option<Given>> = BTreeMap::new();
        let mut nodes: BTreeMap<Ticket, NodeId> = BTreeMap::new();
        for step in steps {
            let allowed = match step {
                Step::Ask { node, holds } => {
                    let (ticket, allowed) = turns.ask(ask(node, holds.as_slice()));
                    open.insert(ticket, None);
                    nodes.insert(ticket, NodeId(node));
                    allowed
                }
                Step::Came(n) => match nth(&open, n, true) {
                    Some(ticket) => {
                        open.remove(&ticket);
                        turns.came(ticket)
                    }
                    None => continue,
                },
                Step::Failed(n) => match nth(&open, n, true) {
                    Some(ticket) => {
                        if open[&ticket] == Some(Given::Registry) {
                            open.remove(&ticket);
                        } else {
                            open.insert(ticket, None);
                        }
                        turns.failed(ticket)
                    }
                    None => continue,
                },
                Step::Gone(n) => match nth(&open, n, false) {
                    Some(ticket) => {
                        open.remove(&ticket);
                        turns.gone(ticket)
                    }
                    None => continue,
                },
            };
            for (ticket, given) in allowed {
                prop_assert_eq!(open.insert(ticket, Some(given)), Some(None), "told what had not waited");
                prop_assert_ne!(given, Given::From(nodes[&ticket]), "told to ask itself");
            }
            let asking = open.values().filter(|g| **g == Some(Given::Registry)).count();
            prop_assert!(asking <= 1);
            for node in 1..8 {
                let gives = open.values().filter(|g| **g == Some(Given::From(NodeId(node))));
                prop_assert!(gives.count() <= GIVEN);
            }
            let moves = open.values().any(Option::is_some);
            prop_assert!(open.is_empty() || moves, "all wait, and nothing is under way");
        }
    }

    #[test]
    fn without_losses_the_registry_is_asked_once(
        order in proptest::collection::vec(any::<usize>(), 40),
        count in 1..20u64,
    ) {
        let mut turns = Turns::default();
        let mut open: BTreeMap<Ticket, Option<Given>> = BTreeMap::new();
        let mut asked = 0;
        let mut order = order.into_iter().cycle();
        let mut wanted: Vec<u64> = (1..=count).collect();
        while !wanted.is_empty() || !open.is_empty() {
            let n = order.next().unwrap();
            let ready = nth(&open, n, true);
            let allowed = match (n % 2, wanted.pop(), ready) {
                (1, Some(node), _) | (_, Some(node), None) => {
                    let (ticket, allowed) = turns.ask(ask(node, &[]));
                    open.insert(ticket, None);
                    allowed
                }
                (_, left, Some(ticket)) => {
                    wanted.extend(left);
                    open.remove(&ticket);
                    turns.came(ticket)
                }
                (_, None, None) => panic!("all wait for nothing"),
            };
            for (ticket, given) in allowed {
                asked += usize::from(given == Given::Registry);
                open.insert(ticket, Some(given));
            }
        }
        prop_assert_eq!(asked, 1);
    }
}
