//! Deliberate bugs, one at least per invariant, that show that the checkers see what they are for. Those of what an agent is
//! handed are here; those inside of the agents are compiled with `--cfg sabotage` only, and off unless asked for.

use crate::host::SimHost;

/// A deliberate bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Bug {
    /// Disks say that things are durable which are not: what was acknowledged is lost, terms have two leaders.
    DisksLie,
    /// A stopped container goes on.
    Zombies,
    /// A started container never runs.
    Stuck,
    /// Names resolve to nothing.
    NoNames,
    /// Each start leaves something in memory.
    Leak,
    /// A replica leaves out a report now and then (`--cfg sabotage`).
    Divergence,
    /// The first address of a network is given to all (`--cfg sabotage`).
    OneAddress,
    /// A slot gets a second task (`--cfg sabotage`).
    TwoTasks,
}

impl Bug {
    /// All bugs that this build has, and what is said of each when it is seen: one of these.
    pub const ALL: &[(Self, &[&str])] = &[
        (
            Self::DisksLie,
            &[
                "nothing acknowledged is lost",
                "one leader per term",
                "replicas are identical",
                "nothing panics",
                "could not start",
            ],
        ),
        (Self::Zombies, &["unwanted"]),
        (Self::Stuck, &["not right within"]),
        (Self::NoNames, &["discovery is what runs"]),
        (Self::Leak, &["memory is bounded"]),
        #[cfg(sabotage)]
        (Self::Divergence, &["replicas are identical"]),
        #[cfg(sabotage)]
        (Self::OneAddress, &["no address is held twice"]),
        #[cfg(sabotage)]
        (Self::TwoTasks, &["no task is there twice"]),
    ];

    /// Makes what a host's agent is handed bad.
    pub fn apply(self, host: &SimHost) {
        match self {
            Self::DisksLie => host.disk.set(|c| c.lies = true),
            Self::Zombies => host.machine.set_behaviour(|b| b.zombies = true),
            Self::Stuck => host.machine.set_behaviour(|b| b.stuck = true),
            Self::Leak => host.machine.set_behaviour(|b| b.leaks = true),
            Self::NoNames => host.kernel.forget_names(),
            Self::Divergence | Self::OneAddress | Self::TwoTasks => {}
        }
    }
}

/// The bug is off again when this is dropped.
pub(crate) struct Guard;

pub(crate) fn begin(bug: Option<Bug>) -> Guard {
    #[cfg(sabotage)]
    swarm_cluster::sabotage::set(match bug {
        Some(Bug::Divergence) => Some(swarm_cluster::sabotage::Bug::Divergence),
        Some(Bug::OneAddress) => Some(swarm_cluster::sabotage::Bug::OneAddress),
        Some(Bug::TwoTasks) => Some(swarm_cluster::sabotage::Bug::TwoTasks),
        _ => None,
    });
    #[cfg(not(sabotage))]
    let _ = bug;
    Guard
}

impl Drop for Guard {
    fn drop(&mut self) {
        #[cfg(sabotage)]
        swarm_cluster::sabotage::set(None);
    }
}
