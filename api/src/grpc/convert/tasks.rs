//! Tasks.

use super::{addresses, each, enumeration, into_each, need, node_id, parse, present, texts, time};
use crate::model::{
    Cpus, DesiredState, ExitStatus, Health, HealthState, Id, Mount, MountSource, NetworkMode,
    Resources, Task, TaskSpec, TaskState, TaskStatus, Timestamp,
};
use crate::{Error, Result};
use swarm_proto::v1;
use swarm_proto::v1::{mount::Source, network_mode::Mode};

enumeration!(desired: DesiredState = v1::DesiredState, Some(DesiredState::Running), { Running, Shutdown, Removed });
enumeration!(state: TaskState = v1::TaskState, Some(TaskState::Pending), {
    Pending, Assigned, Preparing, Starting, Running, Complete, Shutdown, Failed, Rejected, Lost,
});
enumeration!(health_state: HealthState = v1::HealthState, Some(HealthState::Starting), { Starting, Healthy, Unhealthy });

impl From<Mount> for v1::Mount {
    fn from(m: Mount) -> Self {
        Self {
            source: Some(match m.source {
                MountSource::Bind(path) => Source::Bind(path),
                MountSource::Volume(name) => Source::Volume(name),
                MountSource::Tmpfs => Source::Tmpfs(v1::Empty {}),
            }),
            target: m.target,
            read_only: m.read_only,
        }
    }
}

impl TryFrom<v1::Mount> for Mount {
    type Error = Error;

    fn try_from(m: v1::Mount) -> Result<Self> {
        Ok(Self {
            source: match present("source", m.source)? {
                Source::Bind(path) => MountSource::Bind(path),
                Source::Volume(name) => MountSource::Volume(name),
                Source::Tmpfs(_) => MountSource::Tmpfs,
            },
            target: m.target,
            read_only: m.read_only,
        })
    }
}

impl From<Resources> for v1::Resources {
    fn from(r: Resources) -> Self {
        Self {
            memory_bytes: r.memory,
            nano_cpus: r.cpus.map(|c| c.0),
            pids: r.pids,
            storage_bytes: r.storage,
        }
    }
}

impl From<v1::Resources> for Resources {
    fn from(r: v1::Resources) -> Self {
        Self {
            memory: r.memory_bytes,
            cpus: r.nano_cpus.map(Cpus),
            pids: r.pids,
            storage: r.storage_bytes,
        }
    }
}

impl From<NetworkMode> for v1::NetworkMode {
    fn from(mode: NetworkMode) -> Self {
        Self {
            mode: Some(match mode {
                NetworkMode::Cluster(name) => Mode::Cluster(name),
                NetworkMode::None => Mode::None(v1::Empty {}),
                NetworkMode::Host => Mode::Host(v1::Empty {}),
            }),
        }
    }
}

impl From<Option<v1::NetworkMode>> for NetworkMode {
    fn from(mode: Option<v1::NetworkMode>) -> Self {
        match mode.and_then(|m| m.mode) {
            Some(Mode::Cluster(name)) => Self::Cluster(name),
            Some(Mode::None(_)) => Self::None,
            Some(Mode::Host(_)) => Self::Host,
            None => Self::default(),
        }
    }
}

impl From<TaskSpec> for v1::TaskSpec {
    fn from(t: TaskSpec) -> Self {
        Self {
            image: t.image,
            entrypoint: t.entrypoint.map(|values| v1::Words { values }),
            args: t.args,
            env: t.env,
            user: t.user,
            working_dir: t.working_dir,
            hostname: t.hostname,
            tty: t.tty,
            stdin: t.stdin,
            read_only: t.read_only,
            user_namespace: t.user_namespace,
            mounts: into_each(t.mounts),
            resources: Some(t.resources.into()),
            constraints: texts(&t.constraints),
            network: Some(t.network.into()),
            stop_signal: t.stop_signal,
            stop_timeout_ms: t.stop_timeout_ms,
            health: t.health.map(Into::into),
        }
    }
}

impl TryFrom<v1::TaskSpec> for TaskSpec {
    type Error = Error;

    fn try_from(t: v1::TaskSpec) -> Result<Self> {
        Ok(Self {
            image: t.image,
            entrypoint: t.entrypoint.map(|w| w.values),
            args: t.args,
            env: t.env,
            user: t.user,
            working_dir: t.working_dir,
            hostname: t.hostname,
            tty: t.tty,
            stdin: t.stdin,
            read_only: t.read_only,
            user_namespace: t.user_namespace,
            mounts: each(t.mounts)?,
            resources: t.resources.map(Into::into).unwrap_or_default(),
            constraints: t
                .constraints
                .iter()
                .map(|c| c.parse())
                .collect::<Result<_>>()?,
            network: t.network.into(),
            stop_signal: t.stop_signal,
            stop_timeout_ms: t.stop_timeout_ms,
            health: t.health.map(Into::into),
        })
    }
}

impl From<ExitStatus> for v1::ExitStatus {
    fn from(e: ExitStatus) -> Self {
        Self {
            code: e.code,
            signal: e.signal,
            oom_killed: e.oom_killed,
        }
    }
}

impl From<v1::ExitStatus> for ExitStatus {
    fn from(e: v1::ExitStatus) -> Self {
        Self {
            code: e.code,
            signal: e.signal,
            oom_killed: e.oom_killed,
        }
    }
}

impl From<Health> for v1::Health {
    fn from(h: Health) -> Self {
        Self {
            state: v1::HealthState::from(h.state).into(),
            since_unix_ms: h.since.0,
            output: h.output,
        }
    }
}

impl TryFrom<v1::Health> for Health {
    type Error = Error;

    fn try_from(h: v1::Health) -> Result<Self> {
        Ok(Self {
            state: health_state(h.state)?,
            since: Timestamp(h.since_unix_ms),
            output: h.output,
        })
    }
}

impl From<TaskStatus> for v1::TaskStatus {
    fn from(s: TaskStatus) -> Self {
        Self {
            state: v1::TaskState::from(s.state).into(),
            message: s.message,
            exit: s.exit.map(Into::into),
            pid: s.pid,
            started_at_unix_ms: s.started_at.map(|t| t.0),
            finished_at_unix_ms: s.finished_at.map(|t| t.0),
            observed_at_unix_ms: s.observed_at.0,
            health: s.health.map(Into::into),
            oom_kills: s.oom_kills,
        }
    }
}

impl TryFrom<v1::TaskStatus> for TaskStatus {
    type Error = Error;

    fn try_from(s: v1::TaskStatus) -> Result<Self> {
        Ok(Self {
            state: state(s.state)?,
            message: s.message,
            exit: s.exit.map(Into::into),
            pid: s.pid,
            started_at: time(s.started_at_unix_ms),
            finished_at: time(s.finished_at_unix_ms),
            observed_at: Timestamp(s.observed_at_unix_ms),
            health: s.health.map(TryInto::try_into).transpose()?,
            oom_kills: s.oom_kills,
        })
    }
}

impl From<Task> for v1::Task {
    fn from(t: Task) -> Self {
        Self {
            id: t.id.to_string(),
            name: t.name,
            service: t.service,
            service_id: t.service_id.to_string(),
            slot: t.slot,
            spec: Some(t.spec.into()),
            node: t.node.map(|n| n.to_string()),
            node_name: t.node_name,
            addresses: texts(&t.addresses),
            desired: v1::DesiredState::from(t.desired).into(),
            status: Some(t.status.into()),
            attempt: t.attempt,
            not_before_unix_ms: t.not_before.0,
            created_at_unix_ms: t.created_at.0,
        }
    }
}

impl TryFrom<v1::Task> for Task {
    type Error = Error;

    fn try_from(t: v1::Task) -> Result<Self> {
        Ok(Self {
            id: Id::from_text(t.id),
            name: t.name,
            service: t.service,
            service_id: Id::from_text(t.service_id),
            slot: t.slot,
            spec: need("spec", t.spec)?,
            node: node_id("node", t.node)?,
            node_name: t.node_name,
            addresses: addresses(&t.addresses)?,
            desired: desired(t.desired)?,
            status: need("status", t.status)?,
            attempt: t.attempt,
            not_before: Timestamp(t.not_before_unix_ms),
            created_at: Timestamp(t.created_at_unix_ms),
        })
    }
}

/// Reads an IP address that need not be there.
pub(crate) fn address(text: Option<String>) -> Result<Option<std::net::IpAddr>> {
    text.map(|t| parse("advertise", &t)).transpose()
}
