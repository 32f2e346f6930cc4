//! Networks are made and removed.

use super::apply::Entry;
use super::nodes::DEFAULT_NETWORK;
use super::{NetworkRecord, State};
use crate::command::Outcome;
use crate::ipam;
use swarm_api::Error;
use swarm_api::model::{
    EventAction, Id, Kind, Network, NetworkMode, NetworkSpec, Object, Task, validate_name,
};

/// The greatest VXLAN identifier (RFC 7348, section 5).
const LAST_VNI: u32 = (1 << 24) - 1;

impl State {
    pub(super) fn create_network(&mut self, entry: Entry, spec: &NetworkSpec) -> Outcome {
        validate_name("network", &spec.name)?;
        if self.networks.values().any(|r| r.network.name == spec.name) {
            return Err(Error::AlreadyExists(format!(
                "a network named {} exists already",
                spec.name
            )));
        }
        if self.vni >= LAST_VNI {
            return Err(Error::Exhausted(
                "no VXLAN identifier is left for another network".into(),
            ));
        }
        let subnet = ipam::choose_subnet(self, spec)?;
        self.vni += 1;
        let network = Network {
            id: self.new_id(entry),
            name: spec.name.clone(),
            subnet,
            vni: self.vni,
            created_at: entry.time,
        };
        let mut record = NetworkRecord {
            network: network.clone(),
            gateways: Default::default(),
            leases: Default::default(),
            cursor: 0,
        };
        for node in self.nodes.keys() {
            record.gateway_for(*node);
        }
        self.networks.insert(network.id.clone(), record.into());
        self.tell_network(entry, &network, EventAction::Created);
        Ok(Some(Object::Network(network)))
    }

    pub(super) fn remove_network(&mut self, entry: Entry, id: &Id) -> Outcome {
        let record = self.networks.get(id);
        let network = record
            .map(|r| r.network.clone())
            .ok_or_else(|| Error::NotFound(format!("there is no network with id {id}")))?;
        if network.name == DEFAULT_NETWORK {
            return Err(Error::Conflict(
                "the network default is every cluster's and cannot be removed".into(),
            ));
        }
        let mode = NetworkMode::Cluster(network.name.clone());
        let mut services = self.services.values().map(|r| &r.service.spec);
        if let Some(service) = services.find(|s| s.task.network == mode) {
            return Err(Error::Conflict(format!(
                "network {} is used by service {}; remove that first",
                network.name, service.name
            )));
        }
        let user = |t: &&Task| t.spec.network == mode && !super::tasks::is_gone(t);
        if let Some(task) = self.tasks.values().find(user) {
            return Err(Error::Conflict(format!(
                "network {} is used by task {}; remove that first",
                network.name, task.name
            )));
        }
        self.networks.remove(id);
        self.tell_network(entry, &network, EventAction::Removed);
        Ok(Some(Object::Network(network)))
    }

    fn tell_network(&mut self, entry: Entry, network: &Network, action: EventAction) {
        self.marks.networks = entry.index;
        let attributes = vec![("subnet", network.subnet.to_string())];
        let kind = Kind::Network;
        self.tell(entry, kind, &network.id, &network.name, action, attributes);
    }
}
