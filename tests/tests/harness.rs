//! The harness itself, without agents: its hosts reach each other, its faults are faults, and it cleans up.

use anyhow::{Result, ensure};
use std::process::Command;
use std::time::Duration;
use swarm_tests::host::SOON;
use swarm_tests::wait_until;
use swarm_tests::{Cluster, clean, with_hosts};

fn bare(hosts: usize) -> swarm_tests::Builder {
    Cluster::builder().hosts(hosts).without_agents()
}

#[test]
fn hosts_reach_each_other_until_a_link_is_cut() {
    with_hosts(bare(3), |c| {
        let (a, b, d) = (c.host(1), c.host(2), c.host(3));
        ensure!(a.reaches(b)? && b.reaches(d)? && d.reaches(a)?);
        b.cut()?;
        ensure!(!a.reaches(b)? && !b.reaches(a)? && a.reaches(d)?);
        b.heal()?;
        // The kernel remembers for a moment that nobody answered its ARP requests.
        wait_until("the healed host is reached", SOON, || {
            ensure!(a.reaches(b)? && b.reaches(a)?);
            Ok(())
        })
    });
}

#[test]
fn two_hosts_can_be_cut_from_each_other_only() {
    with_hosts(bare(3), |c| {
        let (a, b, d) = (c.host(1), c.host(2), c.host(3));
        a.cut_from(b)?;
        ensure!(!a.reaches(b)? && !b.reaches(a)?);
        ensure!(a.reaches(d)? && b.reaches(d)?);
        a.heal()?;
        b.heal()?;
        ensure!(a.reaches(b)?);
        Ok(())
    });
}

#[test]
fn a_lossy_host_loses_some_packets_and_all_at_a_hundred_percent() {
    with_hosts(bare(2), |c| {
        c.host(1).lose(100)?;
        ensure!(!c.host(2).reaches(c.host(1))?);
        c.host(1).heal()?;
        ensure!(c.host(2).reaches(c.host(1))?);
        Ok(())
    });
}

#[test]
fn killing_a_host_kills_all_that_runs_in_it() {
    with_hosts(bare(2), |c| {
        let mut sleep = c.host(1).spawn_inside(Command::new("sleep").arg("600"))?;
        ensure!(c.host(1).processes().contains(&(sleep.id() as i32)));
        ensure!(!c.host(2).processes().contains(&(sleep.id() as i32)));
        c.host(1).kill_all()?;
        ensure!(!sleep.wait()?.success());
        Ok(())
    });
}

#[test]
fn a_disk_fills_and_empties() {
    with_hosts(bare(1).disk(1 << 20), |c| {
        let written = c.host(1).fill_disk()?;
        ensure!(written > (1 << 19) && written <= (1 << 20), "{written}");
        ensure!(std::fs::write(c.host(1).data_dir().join("x"), "y").is_err());
        c.host(1).empty_disk()?;
        std::fs::write(c.host(1).data_dir().join("x"), "y")?;
        Ok(())
    });
}

#[test]
fn the_machine_s_own_disk_is_never_filled() {
    with_hosts(bare(1), |c| {
        ensure!(c.host(1).fill_disk().is_err());
        Ok(())
    });
}

#[test]
fn clusters_do_not_see_each_other_and_leave_nothing_behind() -> Result<()> {
    let one = bare(2).start()?;
    let two = bare(2).start()?;
    assert_ne!(one.prefix(), two.prefix());
    assert!(one.host(1).reaches(one.host(2))? && two.host(1).reaches(two.host(2))?);
    one.host(2).cut()?;
    assert!(two.host(1).reaches(two.host(2))?);
    let prefixes = [one.prefix().to_owned(), two.prefix().to_owned()];
    assert!(!clean::leftovers(&prefixes[0]).is_empty());
    one.stop()?;
    two.stop()?;
    for prefix in prefixes {
        assert_eq!(clean::leftovers(&prefix), Vec::<String>::new());
    }
    Ok(())
}

#[test]
fn a_command_inside_a_host_sees_its_network_only() {
    with_hosts(bare(1), |c| {
        let mut ip = Command::new("ip");
        let output = c
            .host(1)
            .run(ip.args(["-o", "-4", "addr"]), Duration::from_secs(10))?
            .ok()?;
        ensure!(output.stdout.contains("10.99.0.1/24"), "{}", output.stdout);
        ensure!(c.host(1).traces()?.is_empty(), "{:?}", c.host(1).traces()?);
        Ok(())
    });
}
