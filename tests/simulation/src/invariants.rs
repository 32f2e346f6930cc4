//! What must be so at all times, and what must be so once faults have stopped. Each is looked at from outside: in the
//! replicas, in the containers that really run, in what names resolve to.

use crate::simulation::Simulation;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use swarm_api::model::{DesiredState, Id, NetworkMode, NodeId, Task, TaskState};
use swarm_cluster::State;

/// How much may be on a disk: the log is cut behind snapshots.
const DISK: usize = 96 << 20;
/// How many tasks of the async runtime an agent may have.
const ASYNC_TASKS: usize = 600;

/// What has been seen so far.
#[derive(Default)]
pub struct Invariants {
    leaders: BTreeMap<u64, NodeId>,
    replicas: BTreeMap<u64, (u64, String)>,
    newest: u64,
    /// Which life of each host was looked at last, and at what index its replica was.
    looked: BTreeMap<usize, (u64, u64)>,
}

impl Invariants {
    /// Looks at everything once.
    ///
    /// # Errors
    /// What is violated.
    pub fn check(&mut self, sim: &Simulation) -> Result<(), String> {
        self.one_leader_per_term(sim)?;
        self.replicas_agree(sim)?;
        no_container_twice(sim)
    }

    fn one_leader_per_term(&mut self, sim: &Simulation) -> Result<(), String> {
        for host in &sim.hosts {
            let Some((status, id)) = host.look(|m| (m.status(), m.id())) else {
                continue;
            };
            if !status.is_leader {
                continue;
            }
            let leader = *self.leaders.entry(status.term).or_insert(id);
            if leader != id {
                return Err(format!(
                    "one leader per term: term {} has {leader} and {id}",
                    status.term
                ));
            }
        }
        Ok(())
    }

    fn replicas_agree(&mut self, sim: &Simulation) -> Result<(), String> {
        for host in &sim.hosts {
            let before = self.looked.get(&host.number).copied();
            let Some(Some((index, hash, problem))) = host.look(|m| {
                let state = m.state();
                // A replica changes with its index only.
                let new = before != Some((host.lives(), state.index));
                new.then(|| (state.index, fingerprint(&state), consistent(&state)))
            }) else {
                continue;
            };
            self.looked.insert(host.number, (host.lives(), index));
            if let Err(why) = problem {
                return Err(format!("{why} (as {} has it at {index})", host.name));
            }
            if index == 0 {
                continue;
            }
            let (known, whose) = self
                .replicas
                .entry(index)
                .or_insert_with(|| (hash, host.name.clone()));
            if *known != hash {
                return Err(format!(
                    "replicas are identical at an index: {whose} and {} differ at {index}",
                    host.name
                ));
            }
            self.newest = self.newest.max(index);
        }
        let old = self.newest.saturating_sub(5_000);
        self.replicas = self.replicas.split_off(&old);
        Ok(())
    }
}

fn fingerprint(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Its own text form says all there is.
    format!("{state:?}").hash(&mut hasher);
    hasher.finish()
}

fn live(task: &Task) -> bool {
    !task.status.state.is_final() && task.desired == DesiredState::Running
}

/// What one replica must never say.
///
/// # Errors
/// What it says.
pub fn consistent(state: &State) -> Result<(), String> {
    let mut addresses: BTreeMap<(String, IpAddr), &Id> = BTreeMap::new();
    let mut slots: BTreeMap<(&Id, u32), &Id> = BTreeMap::new();
    for task in state.tasks.values() {
        if !task.status.state.is_final()
            && let NetworkMode::Cluster(network) = &task.spec.network
        {
            for address in &task.addresses {
                if let Some(other) = addresses.insert((network.clone(), *address), &task.id) {
                    return Err(format!(
                        "no address is held twice: {address} by {other} and {}",
                        task.id
                    ));
                }
            }
        }
        if live(task)
            && let Some(other) = slots.insert((&task.service_id, task.slot), &task.id)
        {
            return Err(format!(
                "no task is there twice: {} as {other} and {}",
                task.name, task.id
            ));
        }
    }
    let mut ports: BTreeMap<(u16, String), &str> = BTreeMap::new();
    for record in state.services.values().filter(|r| !r.removing) {
        let service = &record.service.spec;
        for port in &service.ports {
            let Some(published) = port.published else {
                continue;
            };
            let key = (published, format!("{:?}", port.protocol));
            if let Some(other) = ports.insert(key, &service.name) {
                return Err(format!(
                    "no port is held twice: {published} by {other} and {}",
                    service.name
                ));
            }
        }
    }
    if state.events.len() > State::EVENTS {
        return Err(format!("memory is bounded: {} events", state.events.len()));
    }
    Ok(())
}

fn no_container_twice(sim: &Simulation) -> Result<(), String> {
    let mut running: BTreeMap<Id, &str> = BTreeMap::new();
    for host in &sim.hosts {
        for task in host.machine.running() {
            if let Some(other) = running.insert(task.id.clone(), &host.name) {
                return Err(format!(
                    "no container is there twice: {} on {other} and {}",
                    task.name, host.name
                ));
            }
        }
    }
    Ok(())
}

/// Whether all hosts that are in the cluster agree, and everything is as it should be; `Err` says what is not yet.
///
/// # Errors
/// What is not as it should be.
pub fn converged(sim: &Simulation) -> Result<(), String> {
    let mut views = Vec::new();
    for host in &sim.hosts {
        if let Some(trouble) = host.trouble() {
            return Err(format!("{} could not start: {trouble}", host.name));
        }
        let view = host.look(|m| (m.id(), m.status(), m.state().clone()));
        // One that was taken out while it did not hear of it takes no part until someone has it leave.
        if let Some(view) = view.filter(|_| !host.is_taken_out()) {
            views.push((host, view));
        }
    }
    let Some((_, (_, first, state))) = views.first() else {
        return Err("no host is in the cluster".into());
    };
    let leader = first.leader.ok_or("no leader is known")?;
    for (host, (id, status, theirs)) in &views {
        if status.leader != Some(leader) {
            return Err(format!("{} has {:?} for leader", host.name, status.leader));
        }
        if theirs.index != state.index {
            return Err(format!("{} is at {}", host.name, theirs.index));
        }
        if !state.nodes.contains_key(id) {
            return Err(format!("{} is not in the state", host.name));
        }
        // One that was taken out of the voters may not have heard of it.
        if status.voters.is_empty() || (status.is_leader && status.voters_change) {
            return Err("the voters are being changed".into());
        }
    }
    for node in state.nodes.values() {
        if !views.iter().any(|(_, (id, _, _))| *id == node.id) {
            // It left, or never came to take part; it must be down.
            if node.health == swarm_api::model::NodeHealth::Ready {
                return Err(format!("node {} is ready and not there", node.name));
            }
        } else if node.health != swarm_api::model::NodeHealth::Ready {
            return Err(format!("node {} is down", node.name));
        }
    }
    containers_are_those_of_the_state(sim, state)?;
    names_are_those_that_run(sim, state)?;
    bounded(sim)
}

fn containers_are_those_of_the_state(sim: &Simulation, state: &State) -> Result<(), String> {
    let mut running: BTreeSet<Id> = BTreeSet::new();
    for host in &sim.hosts {
        for task in host.machine.running() {
            let wanted = state.tasks.get(&task.id).is_some_and(live);
            if !wanted {
                return Err(format!("{} runs on {} unwanted", task.name, host.name));
            }
            running.insert(task.id);
        }
    }
    for record in state.services.values() {
        let service = &record.service;
        if record.removing {
            return Err(format!("service {} is being removed", service.spec.name));
        }
        for slot in 1..=service.spec.replicas {
            if record.closed.contains(&slot) {
                continue;
            }
            let task = state
                .tasks
                .values()
                .find(|t| t.service_id == service.id && t.slot == slot && live(t));
            let Some(task) = task else {
                return Err(format!("{}.{slot} is not there", service.spec.name));
            };
            let placeable = state.nodes.values().any(|n| {
                n.availability == swarm_api::model::Availability::Active
                    && n.health == swarm_api::model::NodeHealth::Ready
            });
            if placeable && (task.status.state != TaskState::Running || !running.contains(&task.id))
            {
                return Err(format!(
                    "{} is {} ({})",
                    task.name, task.status.state, task.status.message
                ));
            }
        }
    }
    Ok(())
}

fn names_are_those_that_run(sim: &Simulation, state: &State) -> Result<(), String> {
    for record in state.services.values() {
        let service = &record.service;
        let wanted: BTreeSet<IpAddr> = state
            .tasks
            .values()
            .filter(|t| t.service_id == service.id && t.status.serves())
            .flat_map(|t| t.addresses.clone())
            .filter(IpAddr::is_ipv4)
            .collect();
        for host in sim
            .hosts
            .iter()
            .filter(|h| h.look(|_| ()).is_some() && !h.is_taken_out())
        {
            let found = host.kernel.look_up(&service.spec.name);
            let found = found.map_err(|e| e.to_string())?.unwrap_or_default();
            if found != wanted {
                return Err(format!(
                    "discovery is what runs: {} on {} is {found:?}, not {wanted:?}",
                    service.spec.name, host.name
                ));
            }
        }
    }
    Ok(())
}

fn bounded(sim: &Simulation) -> Result<(), String> {
    for host in &sim.hosts {
        if host.disk.size() > DISK {
            return Err(format!(
                "the disk is bounded: {} bytes on {}",
                host.disk.size(),
                host.name
            ));
        }
        let tasks = host.async_tasks();
        if tasks > ASYNC_TASKS {
            return Err(format!(
                "memory is bounded: {tasks} async tasks on {}",
                host.name
            ));
        }
    }
    Ok(())
}
