//! Hosts that leave at the same moment, or nearly: whoever stays has a quorum, and whoever is told that it left is needed no
//! more. Named by what is promised; `docs/operations.md` has the words for users.

use super::{Cluster, LOOK};
use std::collections::BTreeSet;
use std::time::Duration;
use swarm_api::model::{NodeId, NodeRole};
use swarm_api::{Control, Error};
use swarm_member::Member;
use swarm_simulation::host::Call;
use swarm_simulation::network::Link;

const GAPS: [u64; 6] = [0, 1, 5, 20, 100, 700];

type Left = Call<Result<(), Error>>;

impl Cluster {
    fn leave(&self, host: usize, force: bool) -> Left {
        let leave = |agent: std::sync::Arc<swarm_agent::agent::Agent>| async move {
            agent.leave(force).await
        };
        self.sim.call(host, leave)
    }

    /// Waits for these and for nothing else: an answer, whatever it is.
    fn answers(&mut self, calls: Vec<(usize, Left)>) -> Vec<(usize, Result<(), Error>)> {
        let mut answers = Vec::new();
        for (host, call) in calls {
            let answer = loop {
                if let Some(answer) = call.take() {
                    break answer;
                }
                assert!(
                    self.sim.now() < Duration::from_secs(600),
                    "host {host} is not answered"
                );
                self.go_on(LOOK);
            };
            answers.push((host, answer));
        }
        answers
    }

    /// The hosts that are left have a leader among them, an odd number of voters, and can agree on something.
    fn goes_on_with(&mut self, stay: &[usize]) {
        let ids: BTreeSet<NodeId> = stay
            .iter()
            .filter_map(|h| self.look(*h, Member::id))
            .collect();
        assert_eq!(ids.len(), stay.len(), "all of {stay:?} are in the cluster");
        self.until("the others go on", |c| {
            stay.iter().all(|host| {
                c.look(*host, |m| {
                    let (status, state) = (m.status(), m.state());
                    let there: BTreeSet<NodeId> = state.nodes.keys().copied().collect();
                    let known = status.leader.is_some_and(|l| ids.contains(&l));
                    // Who votes no more may not have heard of it.
                    let vote = !status.is_leader
                        || (status.voters.iter().all(|v| ids.contains(v))
                            && status.voters.len() % 2 == 1
                            && !status.voters_change);
                    there == ids && known && vote
                }) == Some(true)
            })
        });
        for host in stay {
            self.change(*host);
        }
        for host in &self.sim.hosts {
            if !stay.contains(&host.number) && host.agent().is_some() {
                assert!(host.look(|_| ()).is_none(), "{} is out of it", host.name);
            }
        }
    }

    fn cut(&self, from: usize, to: usize, cut: bool) {
        let (from, to) = (self.sim.hosts[from].ip, self.sim.hosts[to].ip);
        let link = Link {
            cut,
            ..Link::default()
        };
        self.sim.fabric.set_link(from, to, link);
        self.sim.fabric.set_link(to, from, link);
    }
}

/// These leave, each `gap` ms after the one before; all others go on. Host 0 leads.
fn these_leave(hosts: usize, managers: usize, leavers: &[usize]) {
    for gap in GAPS {
        let mut cluster = Cluster::new(gap + 1, hosts, managers);
        let mut calls = Vec::new();
        for host in leavers {
            calls.push((*host, cluster.leave(*host, false)));
            cluster.go_on(Duration::from_millis(gap));
        }
        for (host, answer) in cluster.answers(calls) {
            assert_eq!(answer, Ok(()), "host {host}, {gap} ms apart");
        }
        let stay: Vec<usize> = (0..hosts).filter(|h| !leavers.contains(h)).collect();
        cluster.goes_on_with(&stay);
    }
}

#[test]
fn two_of_three_voters_leave_the_leader_among_them() {
    these_leave(3, 3, &[0, 1]);
    these_leave(3, 3, &[2, 0]);
    these_leave(5, 3, &[1, 0]);
}

#[test]
fn two_of_three_voters_leave_the_leader_who_stays() {
    these_leave(3, 3, &[1, 2]);
    these_leave(5, 3, &[2, 1]);
}

#[test]
fn three_of_five_voters_leave() {
    these_leave(5, 5, &[0, 1, 2]);
    these_leave(5, 5, &[4, 2, 1]);
    these_leave(6, 5, &[3, 0, 4]);
}

#[test]
fn all_leave_but_one() {
    these_leave(5, 5, &[0, 1, 2, 3]);
    these_leave(5, 5, &[1, 2, 3, 4]);
    these_leave(5, 5, &[4, 3, 2, 0]);
}

#[test]
fn when_all_leave_at_once_the_last_is_asked_whether_it_means_it() {
    for gap in GAPS {
        let mut cluster = Cluster::new(gap + 1, 3, 3);
        let mut calls = Vec::new();
        for host in 0..3 {
            calls.push((host, cluster.leave(host, false)));
            cluster.go_on(Duration::from_millis(gap));
        }
        let answers = cluster.answers(calls);
        let (left, stay): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(_, a)| a.is_ok());
        assert_eq!((left.len(), stay.len()), (2, 1), "{gap} ms apart: {stay:?}");
        let (host, answer) = &stay[0];
        let why = answer.as_ref().unwrap_err();
        assert!(
            matches!(why, Error::Conflict(_)) && why.to_string().contains("--force"),
            "{why}"
        );
        cluster.goes_on_with(&[*host]);
        let last = cluster.leave(*host, true);
        assert_eq!(cluster.answers(vec![(*host, last)])[0].1, Ok(()));
        assert!(cluster.look(*host, |_| ()).is_none());
    }
}

#[test]
fn all_managers_leave_a_worker_and_the_last_is_asked_whether_it_means_it() {
    let mut cluster = Cluster::new(1, 4, 3);
    let calls = (0..3)
        .map(|host| (host, cluster.leave(host, false)))
        .collect();
    let refused: Vec<usize> = (cluster.answers(calls).into_iter())
        .filter_map(|(host, answer)| answer.is_err().then_some(host))
        .collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    cluster.goes_on_with(&[refused[0], 3]);
}

#[test]
fn a_voter_leaves_while_another_is_dead() {
    for (leaver, dead) in [(1, 2), (0, 1), (0, 2), (1, 0)] {
        for dead_for in [0, 10_000] {
            let mut cluster = Cluster::new(7, 3, 3);
            cluster.sim.hosts[dead].lose_power();
            cluster.go_on(Duration::from_millis(dead_for));
            let left = cluster.leave(leaver, false);
            // It may be refused, where the other is not known to be dead yet: then it is still needed, and tries again.
            let mut answer = cluster.answers(vec![(leaver, left)]);
            if answer[0].1.is_err() {
                let again = cluster.leave(leaver, false);
                answer = cluster.answers(vec![(leaver, again)]);
            }
            assert_eq!(answer[0].1, Ok(()), "{leaver} leaves, {dead} is dead");
            let stays = 3 - leaver - dead;
            cluster.until("the last leads alone", |c| {
                c.look(stays, |m| {
                    m.status().is_leader && m.status().voters == [m.id()]
                }) == Some(true)
            });
            cluster.sim.hosts[dead].start().unwrap();
            let both = [stays.min(dead), stays.max(dead)];
            cluster.until("the dead one is back", |c| c.look(dead, |_| ()).is_some());
            cluster.goes_on_with(&both);
        }
    }
}

#[test]
fn a_voter_that_loses_power_while_it_leaves_costs_the_others_nothing() {
    for after in [0, 5, 20, 60, 150, 400, 1_000] {
        for leaver in [0, 1] {
            let mut cluster = Cluster::new(after + 1, 3, 3);
            let _left = cluster.leave(leaver, false);
            cluster.go_on(Duration::from_millis(after));
            cluster.sim.hosts[leaver].lose_power();
            let others: Vec<usize> = (0..3).filter(|h| *h != leaver).collect();
            let id: Vec<_> = others
                .iter()
                .filter_map(|h| cluster.look(*h, Member::id))
                .collect();
            cluster.until("the others go on", |c| {
                others.iter().all(|h| {
                    c.look(*h, |m| m.status().leader.is_some_and(|l| id.contains(&l))) == Some(true)
                })
            });
            cluster.change(others[0]);
        }
    }
}

#[test]
fn a_voter_that_cannot_reach_the_leader_is_not_let_go_and_loses_nothing() {
    let mut cluster = Cluster::new(3, 3, 3);
    cluster.cut(0, 1, true);
    let left = cluster.leave(1, false);
    cluster.go_on(Duration::from_secs(2));
    cluster.cut(0, 1, false);
    let answer = cluster.answers(vec![(1, left)]);
    assert_eq!(answer[0].1, Ok(()), "it is tried again");
    cluster.goes_on_with(&[0, 2]);
}

#[test]
fn a_host_that_left_joins_again_at_once() {
    for host in [0, 2] {
        let mut cluster = Cluster::new(5, 3, 3);
        let left = cluster.leave(host, false);
        assert_eq!(cluster.answers(vec![(host, left)])[0].1, Ok(()));
        let joined = cluster.sim.join(1, host, NodeRole::Manager).unwrap();
        cluster.sim.finish("joining", &joined).unwrap().unwrap();
        cluster.until("all three vote", |c| {
            (0..3).all(|h| {
                c.look(h, |m| {
                    m.status().voters.len() == 3 && m.status().leader.is_some()
                }) == Some(true)
            })
        });
        cluster.goes_on_with(&[0, 1, 2]);
    }
}

#[test]
fn one_joins_while_others_leave() {
    for gap in GAPS {
        let mut cluster = Cluster::new(gap + 11, 3, 3);
        let new = cluster.sim.add_host().unwrap();
        let joined = cluster.sim.join(2, new, NodeRole::Manager).unwrap();
        cluster.go_on(Duration::from_millis(gap));
        let calls = vec![(0, cluster.leave(0, false)), (1, cluster.leave(1, false))];
        for (host, answer) in cluster.answers(calls) {
            assert_eq!(answer, Ok(()), "host {host}, {gap} ms apart");
        }
        cluster.sim.finish("joining", &joined).unwrap().unwrap();
        cluster.goes_on_with(&[2, new]);
    }
}
