//! Services are made, changed and removed.

use super::apply::Entry;
use super::{Kept, ServiceRecord, State, images};
use crate::command::Outcome;
use swarm_api::model::{
    DesiredState, EventAction, Id, Kind, NetworkMode, Object, Port, Service, ServiceChange,
    ServiceSpec,
};
use swarm_api::{Error, Result};

impl State {
    pub(super) fn create_service(&mut self, entry: Entry, spec: &ServiceSpec) -> Outcome {
        spec.validate()?;
        let mut all = self.services.values();
        if let Some(other) = all.find(|r| r.service.spec.name == spec.name) {
            let hint = if other.removing {
                "it is being removed; its name is free when its tasks are gone"
            } else {
                "choose another name, or remove it first"
            };
            return Err(Error::AlreadyExists(format!(
                "a service named {} exists already: {hint}",
                spec.name
            )));
        }
        self.known_image(&images::full_name(&spec.task.image))
            .map_err(|_| {
                let image = &spec.task.image;
                Error::NotFound(format!(
                    "the cluster has no image {image}; import it with `swarmctl image import {image} ARCHIVE`"
                ))
            })?;
        if let NetworkMode::Cluster(name) = &spec.task.network
            && !self.networks.values().any(|r| r.network.name == *name)
        {
            return Err(Error::NotFound(format!(
                "there is no network {name}; make it with `swarmctl network create {name}`"
            )));
        }
        self.check_ports(&spec.ports)?;
        let service = Service {
            id: self.new_id(entry),
            spec: spec.clone(),
            version: 1,
            running: 0,
            created_at: entry.time,
            updated_at: entry.time,
        };
        let record = ServiceRecord::new(service.clone());
        self.services.insert(service.id.clone(), record.into());
        self.tell_service(entry, &service, EventAction::Created, "");
        Ok(Some(Object::Service(service)))
    }

    /// A published port leads to one service on every node.
    fn check_ports(&self, ports: &[Port]) -> Result<()> {
        let number = |p: &Port| p.published.map(|number| (number, p.protocol));
        for wanted in ports.iter().filter(|p| p.published.is_some()) {
            let mut others = self.services.values().map(|r| &r.service.spec);
            let owner = others.find(|s| s.ports.iter().any(|p| number(p) == number(wanted)));
            if let Some(owner) = owner {
                return Err(Error::Conflict(format!(
                    "port {wanted} cannot be published: service {} has published it already",
                    owner.name
                )));
            }
        }
        Ok(())
    }

    pub(super) fn update_service(
        &mut self,
        entry: Entry,
        id: &Id,
        change: &ServiceChange,
    ) -> Outcome {
        let record = service_mut(&mut self.services, id)?;
        if record.removing {
            return Err(Error::Conflict(format!(
                "service {} is being removed and cannot be changed",
                record.service.spec.name
            )));
        }
        let Some(replicas) = change.replicas else {
            return Ok(Some(Object::Service(record.service.clone())));
        };
        if replicas > ServiceSpec::MAX_REPLICAS {
            return Err(Error::Invalid(format!(
                "{replicas} replicas are too many for one service: at most {}",
                ServiceSpec::MAX_REPLICAS
            )));
        }
        record.closed.clear();
        let before = std::mem::replace(&mut record.service.spec.replicas, replicas);
        let mut message = String::new();
        if before != replicas {
            record.service.version += 1;
            record.service.updated_at = entry.time;
            message = format!("scaled from {before} to {replicas}");
        }
        let service = record.service.clone();
        if before == 0 && replicas > 0 {
            // It starts anew: what ended before does not count as the end of the slot's work.
            for task in self.task_ids_of(id) {
                if let Some(task) = self.tasks.get_mut(&task)
                    && task.status.state.is_final()
                {
                    task.desired = task.desired.max(DesiredState::Shutdown);
                }
            }
        }
        if before != replicas {
            self.tell_service(entry, &service, EventAction::Updated, &message);
        }
        Ok(Some(Object::Service(service)))
    }

    pub(super) fn remove_service(&mut self, entry: Entry, id: &Id) -> Outcome {
        let record = service_mut(&mut self.services, id)?;
        record.removing = true;
        let service = record.service.clone();
        for task in self.task_ids_of(id) {
            self.desire(entry, &task, DesiredState::Removed);
        }
        if self.is_all_ended(id) {
            self.take_service_away(entry, id);
        }
        Ok(Some(Object::Service(service)))
    }

    /// The service and the records of its tasks go; those of lost tasks stay until their containers are known to be
    /// gone. All of them have ended.
    pub(super) fn take_service_away(&mut self, entry: Entry, id: &Id) {
        let Some(record) = self.services.remove(id) else {
            return;
        };
        for task in self.task_ids_of(id) {
            self.desire(entry, &task, DesiredState::Removed);
            self.forget(entry, &task);
        }
        self.tell_service(entry, &record.service, EventAction::Removed, "");
    }

    pub(super) fn is_all_ended(&self, service: &Id) -> bool {
        let mut tasks = self.tasks.of_service(service);
        tasks.all(|t| t.status.state.is_final())
    }

    pub(super) fn task_ids_of(&self, service: &Id) -> Vec<Id> {
        let tasks = self.tasks.of_service(service);
        tasks.map(|t| t.id.clone()).collect()
    }

    fn tell_service(&mut self, entry: Entry, service: &Service, action: EventAction, what: &str) {
        let attributes = vec![
            ("service", service.spec.name.clone()),
            ("replicas", service.spec.replicas.to_string()),
            ("message", what.into()),
        ];
        let name = &service.spec.name;
        self.tell(entry, Kind::Service, &service.id, name, action, attributes);
    }
}

fn service_mut<'a>(
    services: &'a mut std::collections::BTreeMap<Id, Kept<ServiceRecord>>,
    id: &Id,
) -> Result<&'a mut ServiceRecord> {
    services
        .get_mut(id)
        .map(|record| &mut **record)
        .ok_or_else(|| Error::NotFound(format!("there is no service with id {id}")))
}
