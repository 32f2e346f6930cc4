//! Questions, answers and events.

use super::{addresses, each, enumeration, into_each, need, node_id, parse, present, texts};
use crate::backend::{Create, Update};
use crate::model::{
    Answer, Endpoint, Event, EventAction, Freshness, Id, Info, Kind, Lookup, NodeId, Object, Query,
    Read, Scope, Timestamp,
};
use crate::{Error, Result};
use swarm_proto::v1;
use swarm_proto::v1::{create_request::What, object::Value, update_request::Change};

enumeration!(kind: Kind = v1::Kind, None, { Node, Service, Task, Image, Network });
enumeration!(read: Read = v1::Read, Some(Read::Linearizable), { Linearizable, Stale });
enumeration!(scope: Scope = v1::Scope, Some(Scope::Host), { Host, Cluster });
enumeration!(action: EventAction = v1::EventAction, Some(EventAction::Updated), { Created, Updated, Removed });

impl From<Object> for v1::Object {
    fn from(object: Object) -> Self {
        Self {
            value: Some(match object {
                Object::Node(o) => Value::Node(o.into()),
                Object::Service(o) => Value::Service(o.into()),
                Object::Task(o) => Value::Task(o.into()),
                Object::Image(o) => Value::Image(o.into()),
                Object::Network(o) => Value::Network(o.into()),
            }),
        }
    }
}

impl TryFrom<v1::Object> for Object {
    type Error = Error;

    fn try_from(object: v1::Object) -> Result<Self> {
        Ok(match present("value", object.value)? {
            Value::Node(o) => Self::Node(o.try_into()?),
            Value::Service(o) => Self::Service(o.try_into()?),
            Value::Task(o) => Self::Task(o.try_into()?),
            Value::Image(o) => Self::Image(o.try_into()?),
            Value::Network(o) => Self::Network(o.try_into()?),
        })
    }
}

impl From<Query> for v1::ListRequest {
    fn from(q: Query) -> Self {
        Self {
            kind: v1::Kind::from(q.kind).into(),
            service: q.service,
            node: q.node,
            all: q.all,
            read: v1::Read::from(q.read).into(),
        }
    }
}

impl TryFrom<v1::ListRequest> for Query {
    type Error = Error;

    fn try_from(q: v1::ListRequest) -> Result<Self> {
        Ok(Self {
            kind: kind(q.kind)?,
            service: q.service,
            node: q.node,
            all: q.all,
            read: read(q.read)?,
        })
    }
}

impl From<Freshness> for v1::Freshness {
    fn from(f: Freshness) -> Self {
        Self {
            index: f.index,
            stale: f.stale,
            age_ms: f.age_ms,
        }
    }
}

impl From<v1::Freshness> for Freshness {
    fn from(f: v1::Freshness) -> Self {
        Self {
            index: f.index,
            stale: f.stale,
            age_ms: f.age_ms,
        }
    }
}

impl From<Info> for v1::InfoResponse {
    fn from(i: Info) -> Self {
        Self {
            scope: v1::Scope::from(i.scope).into(),
            version: i.version,
            node: i.node.map(|n| n.to_string()),
            node_name: i.node_name,
            cluster: i.cluster,
            leader: i.leader.map(|n| n.to_string()),
            term: i.term,
            applied: i.applied,
            voters: texts(&i.voters),
            warnings: i.warnings,
        }
    }
}

impl TryFrom<v1::InfoResponse> for Info {
    type Error = Error;

    fn try_from(i: v1::InfoResponse) -> Result<Self> {
        Ok(Self {
            scope: scope(i.scope)?,
            version: i.version,
            node: node_id("node", i.node)?,
            node_name: i.node_name,
            cluster: i.cluster,
            leader: node_id("leader", i.leader)?,
            term: i.term,
            applied: i.applied,
            voters: i
                .voters
                .iter()
                .map(|v| parse::<NodeId>("voters", v))
                .collect::<Result<_>>()?,
            warnings: i.warnings,
        })
    }
}

impl From<Create> for v1::CreateRequest {
    fn from(create: Create) -> Self {
        Self {
            what: Some(match create {
                Create::Service(spec) => What::Service(spec.into()),
                Create::Network(spec) => What::Network(spec.into()),
            }),
        }
    }
}

impl TryFrom<v1::CreateRequest> for Create {
    type Error = Error;

    fn try_from(create: v1::CreateRequest) -> Result<Self> {
        Ok(match present("what", create.what)? {
            What::Service(spec) => Self::Service(spec.try_into()?),
            What::Network(spec) => Self::Network(spec.try_into()?),
        })
    }
}

impl From<Update> for v1::UpdateRequest {
    fn from(update: Update) -> Self {
        let (name, change) = match update {
            Update::Service(name, change) => (name, Change::Service(change.into())),
            Update::Node(name, change) => (name, Change::Node(change.into())),
        };
        Self {
            name,
            change: Some(change),
        }
    }
}

impl TryFrom<v1::UpdateRequest> for Update {
    type Error = Error;

    fn try_from(update: v1::UpdateRequest) -> Result<Self> {
        Ok(match present("change", update.change)? {
            Change::Service(change) => Self::Service(update.name, change.into()),
            Change::Node(change) => Self::Node(update.name, change.try_into()?),
        })
    }
}

impl From<Event> for v1::Event {
    fn from(e: Event) -> Self {
        Self {
            index: e.index,
            time_unix_ms: e.time.0,
            kind: v1::Kind::from(e.kind).into(),
            id: e.id.to_string(),
            name: e.name,
            action: v1::EventAction::from(e.action).into(),
            attributes: e.attributes,
        }
    }
}

impl TryFrom<v1::Event> for Event {
    type Error = Error;

    fn try_from(e: v1::Event) -> Result<Self> {
        Ok(Self {
            index: e.index,
            time: Timestamp(e.time_unix_ms),
            kind: kind(e.kind)?,
            id: Id::from_text(e.id),
            name: e.name,
            action: action(e.action)?,
            attributes: e.attributes,
        })
    }
}

impl From<Endpoint> for v1::Endpoint {
    fn from(e: Endpoint) -> Self {
        Self {
            task_id: e.task_id.to_string(),
            task: e.task,
            service: e.service,
            node: e.node.to_string(),
            node_name: e.node_name,
            addresses: texts(&e.addresses),
            ports: into_each(e.ports),
        }
    }
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = Error;

    fn try_from(e: v1::Endpoint) -> Result<Self> {
        Ok(Self {
            task_id: Id::from_text(e.task_id),
            task: e.task,
            service: e.service,
            node: parse("node", &e.node)?,
            node_name: e.node_name,
            addresses: addresses(&e.addresses)?,
            ports: each(e.ports)?,
        })
    }
}

impl From<Answer<Lookup>> for v1::LookupResponse {
    fn from(answer: Answer<Lookup>) -> Self {
        Self {
            name: answer.value.name,
            endpoints: into_each(answer.value.endpoints),
            freshness: Some(answer.freshness.into()),
        }
    }
}

impl TryFrom<v1::LookupResponse> for Answer<Lookup> {
    type Error = Error;

    fn try_from(l: v1::LookupResponse) -> Result<Self> {
        Ok(Self {
            value: Lookup {
                name: l.name,
                endpoints: each(l.endpoints)?,
            },
            freshness: l.freshness.map(Into::into).unwrap_or_default(),
        })
    }
}

impl From<Answer<Object>> for v1::GetResponse {
    fn from(answer: Answer<Object>) -> Self {
        Self {
            object: Some(answer.value.into()),
            freshness: Some(answer.freshness.into()),
        }
    }
}

impl TryFrom<v1::GetResponse> for Answer<Object> {
    type Error = Error;

    fn try_from(answer: v1::GetResponse) -> Result<Self> {
        Ok(Self {
            value: need("object", answer.object)?,
            freshness: answer.freshness.map(Into::into).unwrap_or_default(),
        })
    }
}
