//! Disks that cannot be relied on: what they lost or changed is found, told, and got anew from the others; nothing that was
//! acknowledged is lost over one of them.

use super::{Cluster, LOOK};
use std::time::Duration;
use swarm_member::Member;

impl Cluster {
    /// All three vote again, have the same, and know nothing bad of each other; these changes are there on each.
    fn all_vote_and_have(&mut self, changes: &[String]) {
        self.until("all vote again", |c| {
            (0..3).all(|host| {
                c.look(host, |m| {
                    let (status, state) = (m.status(), m.state());
                    status.voters.len() == 3
                        && !status.voters_change
                        && status.leader.is_some()
                        && status.lost.is_empty()
                        && status.failure.is_none()
                        && changes.iter().all(|id| state.tokens.contains_key(id))
                }) == Some(true)
            })
        });
    }

    /// Starts the host. Whether others come to know that it lost what it had.
    fn is_found(&mut self, host: usize) -> bool {
        let name = format!("host{}", host + 1);
        let known = move |m: &Member| {
            let (status, state) = (m.status(), m.state());
            let lost = |id| state.nodes.get(id).is_some_and(|node| node.name == name);
            status.lost.iter().any(lost)
        };
        self.sim.hosts[host].start().unwrap();
        for _ in 0..100 {
            self.go_on(LOOK);
            if (0..3).any(|other| other != host && self.look(other, &known) == Some(true)) {
                return true;
            }
        }
        false
    }
}

#[test]
fn a_voter_whose_disk_lied_is_found_and_begins_anew() {
    let mut found = 0;
    for (seed, late) in [(1, 0), (2, 7_000), (3, 0), (4, 5_000), (5, 100), (6, 0)] {
        let host = seed % 3;
        let mut cluster = Cluster::new(seed as u64, 3, 3);
        let mut changes = vec![cluster.change(1)];
        cluster.sim.hosts[host].disk.set(|c| c.lies = true);
        for via in 0..3 {
            changes.push(cluster.change(via));
        }
        cluster.go_on(Duration::from_secs(1));
        cluster.sim.hosts[host].lose_power();
        cluster.sim.hosts[host].disk.set(|c| c.lies = false);
        cluster.go_on(Duration::from_millis(late));
        found += usize::from(cluster.is_found(host));
        cluster.all_vote_and_have(&changes);
        changes.push(cluster.change(host));
        cluster.all_vote_and_have(&changes);
    }
    assert!(
        found >= 3,
        "only chance leaves all of it on the disk: {found}"
    );
}

#[test]
fn a_voter_whose_disk_is_honest_loses_power_and_keeps_its_vote() {
    for host in [0, 1] {
        let mut cluster = Cluster::new(host as u64 + 40, 3, 3);
        let id = cluster.look(host, Member::id).unwrap();
        let changes: Vec<String> = (0..3).map(|via| cluster.change(via)).collect();
        cluster.sim.hosts[host].lose_power();
        cluster.go_on(Duration::from_secs(2));
        cluster.sim.hosts[host].start().unwrap();
        cluster.until("it is back", |c| {
            let others = (0..3).filter(|other| *other != host);
            for other in others {
                let kept = c.look(other, |m| m.status().voters.contains(&id));
                assert_eq!(kept, Some(true), "it keeps its vote");
            }
            c.look(host, |m| m.status().leader.is_some()) == Some(true)
        });
        cluster.all_vote_and_have(&changes);
    }
}

#[test]
fn a_voter_whose_disk_writes_to_the_wrong_place_is_found_and_begins_anew() {
    let mut found = 0;
    for seed in 1..=6 {
        let host = seed % 3;
        let mut cluster = Cluster::new(seed as u64 + 60, 3, 3);
        // Until it has written down where the others are: whoever has lost all else needs that.
        cluster.go_on(Duration::from_secs(40));
        let mut changes = vec![cluster.change(1)];
        for via in 0..3 {
            cluster.sim.hosts[host].disk.set(|c| c.misdirects = 1);
            changes.push(cluster.change(via));
        }
        // What goes wrong last is not put right by a later write.
        cluster.sim.hosts[host].disk.set(|c| c.misdirects = 4);
        changes.push(cluster.change(host));
        cluster.sim.hosts[host].lose_power();
        cluster.go_on(Duration::from_secs(1));
        found += usize::from(cluster.is_found(host));
        cluster.all_vote_and_have(&changes);
    }
    assert!(
        found > 0,
        "a write to the wrong place does no harm only by chance"
    );
}

#[test]
fn where_a_majority_of_the_disks_lied_it_is_said_and_nothing_goes_on_as_if_it_were_well() {
    let mut cluster = Cluster::new(9, 3, 3);
    cluster.change(0);
    for host in &cluster.sim.hosts[1..] {
        host.disk.set(|c| c.lies = true);
    }
    cluster.change(0);
    cluster.go_on(Duration::from_secs(1));
    for host in 1..3 {
        cluster.sim.hosts[host].lose_power();
        cluster.sim.hosts[host].disk.set(|c| c.lies = false);
        cluster.sim.hosts[host].start().unwrap();
    }
    cluster.go_on(Duration::from_secs(30));
    for host in 1..3 {
        let failure = cluster.look(host, |m| m.status().failure).flatten();
        let failure = failure.unwrap_or_default();
        assert!(failure.contains("no vote until"), "host {host}: {failure}");
    }
    assert_eq!(cluster.look(0, |m| m.status().has_quorum), Some(false));
}
