//! Services, images and networks.

use super::{each, enumeration, into_each, narrow, need, parse, present};
use crate::backend::{PullEvent, PullPolicy, PulledNode};
use crate::model::{
    HealthCheck, Id, Image, ImageConfig, Network, NetworkSpec, Port, Protocol, Restart,
    RestartPolicy, Service, ServiceChange, ServiceSpec, Timestamp,
};
use crate::{Error, Result};
use swarm_proto::v1;
use swarm_proto::v1::pull_image_response;

enumeration!(protocol: Protocol = v1::Protocol, Some(Protocol::Tcp), { Tcp, Udp });
enumeration!(pull_policy: PullPolicy = v1::PullPolicy, Some(PullPolicy::Missing), { Missing, Always });
enumeration!(condition: Restart = v1::RestartCondition, Some(Restart::OnFailure), { Never, OnFailure, Always });

impl From<Port> for v1::Port {
    fn from(p: Port) -> Self {
        Self {
            published: p.published.map(u32::from),
            target: p.target.into(),
            protocol: v1::Protocol::from(p.protocol).into(),
        }
    }
}

impl TryFrom<v1::Port> for Port {
    type Error = Error;

    fn try_from(p: v1::Port) -> Result<Self> {
        let number = |n: u32| match narrow::<u16>("port", n)? {
            0 => Err(Error::Invalid(
                "a port of 0 is no port: use 1 to 65535".into(),
            )),
            n => Ok(n),
        };
        Ok(Self {
            published: p.published.map(number).transpose()?,
            target: number(p.target)?,
            protocol: protocol(p.protocol)?,
        })
    }
}

impl From<RestartPolicy> for v1::RestartPolicy {
    fn from(p: RestartPolicy) -> Self {
        Self {
            condition: v1::RestartCondition::from(p.condition).into(),
            max_attempts: p.max_attempts,
            delay_ms: p.delay_ms,
            max_delay_ms: p.max_delay_ms,
            reset_after_ms: p.reset_after_ms,
        }
    }
}

impl TryFrom<v1::RestartPolicy> for RestartPolicy {
    type Error = Error;

    fn try_from(p: v1::RestartPolicy) -> Result<Self> {
        Ok(Self {
            condition: condition(p.condition)?,
            max_attempts: p.max_attempts,
            delay_ms: p.delay_ms,
            max_delay_ms: p.max_delay_ms,
            reset_after_ms: p.reset_after_ms,
        })
    }
}

impl From<ServiceSpec> for v1::ServiceSpec {
    fn from(s: ServiceSpec) -> Self {
        Self {
            name: s.name,
            labels: s.labels,
            task: Some(s.task.into()),
            replicas: s.replicas,
            ports: into_each(s.ports),
            restart: Some(s.restart.into()),
            auto_remove: s.auto_remove,
        }
    }
}

impl TryFrom<v1::ServiceSpec> for ServiceSpec {
    type Error = Error;

    fn try_from(s: v1::ServiceSpec) -> Result<Self> {
        Ok(Self {
            name: s.name,
            labels: s.labels,
            task: need("task", s.task)?,
            replicas: s.replicas,
            ports: each(s.ports)?,
            restart: s
                .restart
                .map_or_else(|| Ok(RestartPolicy::default()), TryInto::try_into)?,
            auto_remove: s.auto_remove,
        })
    }
}

impl From<Service> for v1::Service {
    fn from(s: Service) -> Self {
        Self {
            id: s.id.to_string(),
            spec: Some(s.spec.into()),
            version: s.version,
            running: s.running,
            created_at_unix_ms: s.created_at.0,
            updated_at_unix_ms: s.updated_at.0,
        }
    }
}

impl TryFrom<v1::Service> for Service {
    type Error = Error;

    fn try_from(s: v1::Service) -> Result<Self> {
        Ok(Self {
            id: Id::from_text(s.id),
            spec: need("spec", s.spec)?,
            version: s.version,
            running: s.running,
            created_at: Timestamp(s.created_at_unix_ms),
            updated_at: Timestamp(s.updated_at_unix_ms),
        })
    }
}

impl From<ServiceChange> for v1::ServiceChange {
    fn from(c: ServiceChange) -> Self {
        Self {
            replicas: c.replicas,
        }
    }
}

impl From<v1::ServiceChange> for ServiceChange {
    fn from(c: v1::ServiceChange) -> Self {
        Self {
            replicas: c.replicas,
        }
    }
}

impl From<HealthCheck> for v1::HealthCheck {
    fn from(h: HealthCheck) -> Self {
        Self {
            test: h.test,
            interval_ms: h.interval_ms,
            timeout_ms: h.timeout_ms,
            start_period_ms: h.start_period_ms,
            start_interval_ms: h.start_interval_ms,
            retries: h.retries,
        }
    }
}

impl From<v1::HealthCheck> for HealthCheck {
    fn from(h: v1::HealthCheck) -> Self {
        Self {
            test: h.test,
            interval_ms: h.interval_ms,
            timeout_ms: h.timeout_ms,
            start_period_ms: h.start_period_ms,
            start_interval_ms: h.start_interval_ms,
            retries: h.retries,
        }
    }
}

impl From<ImageConfig> for v1::ImageConfig {
    fn from(c: ImageConfig) -> Self {
        Self {
            entrypoint: c.entrypoint,
            command: c.command,
            env: c.env,
            working_dir: c.working_dir,
            user: c.user,
            exposed_ports: c.exposed_ports,
            stop_signal: c.stop_signal,
            health: c.health.map(Into::into),
            labels: c.labels,
            volumes: c.volumes,
        }
    }
}

impl From<v1::ImageConfig> for ImageConfig {
    fn from(c: v1::ImageConfig) -> Self {
        Self {
            entrypoint: c.entrypoint,
            command: c.command,
            env: c.env,
            working_dir: c.working_dir,
            user: c.user,
            exposed_ports: c.exposed_ports,
            stop_signal: c.stop_signal,
            health: c.health.map(Into::into),
            labels: c.labels,
            volumes: c.volumes,
        }
    }
}

impl From<Image> for v1::Image {
    fn from(i: Image) -> Self {
        Self {
            reference: i.reference.to_string(),
            digest: i.digest,
            layers: i.layers,
            size_bytes: i.size,
            config: Some(i.config.into()),
            created_at_unix_ms: i.created_at.0,
            builtin: i.builtin,
            manifest: i.manifest,
        }
    }
}

impl TryFrom<v1::Image> for Image {
    type Error = Error;

    fn try_from(i: v1::Image) -> Result<Self> {
        Ok(Self {
            reference: parse("reference", &i.reference)?,
            digest: i.digest,
            layers: i.layers,
            size: i.size_bytes,
            config: i.config.map(Into::into).unwrap_or_default(),
            created_at: Timestamp(i.created_at_unix_ms),
            builtin: i.builtin,
            manifest: i.manifest,
        })
    }
}

impl From<PullEvent> for v1::PullImageResponse {
    fn from(event: PullEvent) -> Self {
        use pull_image_response::Event;
        Self {
            event: Some(match event {
                PullEvent::Resolved(digest) => Event::Resolved(digest),
                PullEvent::Layer(layer) => Event::Layer(layer.into()),
                PullEvent::Node(node) => Event::Node(v1::PulledNode {
                    name: node.name,
                    failure: node.failure.unwrap_or_default(),
                }),
                PullEvent::Done(image) => Event::Image(image.into()),
            }),
        }
    }
}

impl TryFrom<v1::PullImageResponse> for PullEvent {
    type Error = Error;

    fn try_from(response: v1::PullImageResponse) -> Result<Self> {
        use pull_image_response::Event;
        Ok(match present("event", response.event)? {
            Event::Resolved(digest) => Self::Resolved(digest),
            Event::Layer(layer) => Self::Layer(layer.into()),
            Event::Node(node) => Self::Node(PulledNode {
                name: node.name,
                failure: Some(node.failure).filter(|why| !why.is_empty()),
            }),
            Event::Image(image) => Self::Done(image.try_into()?),
        })
    }
}

impl From<NetworkSpec> for v1::NetworkSpec {
    fn from(n: NetworkSpec) -> Self {
        Self {
            name: n.name,
            subnet: n.subnet.map(|s| s.to_string()),
        }
    }
}

impl TryFrom<v1::NetworkSpec> for NetworkSpec {
    type Error = Error;

    fn try_from(n: v1::NetworkSpec) -> Result<Self> {
        Ok(Self {
            name: n.name,
            subnet: n.subnet.map(|s| parse("subnet", &s)).transpose()?,
        })
    }
}

impl From<Network> for v1::Network {
    fn from(n: Network) -> Self {
        Self {
            id: n.id.to_string(),
            name: n.name,
            subnet: n.subnet.to_string(),
            vni: n.vni,
            created_at_unix_ms: n.created_at.0,
        }
    }
}

impl TryFrom<v1::Network> for Network {
    type Error = Error;

    fn try_from(n: v1::Network) -> Result<Self> {
        Ok(Self {
            id: Id::from_text(n.id),
            name: n.name,
            subnet: parse("subnet", &n.subnet)?,
            vni: n.vni,
            created_at: Timestamp(n.created_at_unix_ms),
        })
    }
}
