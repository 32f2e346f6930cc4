//! A cluster that grows works, and what it costs is measured: the run behind docs/benchmarks.md, small.

use swarm_simulation::scale::{Scale, run};

#[test]
fn a_cluster_of_thirty_hosts_joins_deploys_and_survives_a_rack_and_its_leader() {
    let scale = Scale {
        hosts: 30,
        tasks_per_host: 5,
        heap: || 0,
    };
    let rows = run(scale, &mut |_| Ok(()));
    let rows = rows.unwrap_or_else(|why| panic!("{why:#}"));
    let parts: Vec<&str> = rows.iter().map(|row| row.part.as_str()).collect();
    assert_eq!(parts, ["join", "idle", "deploy", "rack", "leader"]);
    let (idle, deploy) = (&rows[1], &rows[2]);
    assert_eq!(idle.entries, 0, "an idle cluster writes nothing");
    // Every node is told of everything, but not by the leader: it tells the other voters and as many observers as one serves.
    let share = deploy.bytes as f64 / deploy.all_bytes as f64;
    assert!(share < 0.6, "the leader sent {share} of all bytes");
}
