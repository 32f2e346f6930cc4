//! Users' wishes: sent to some agent that lives, and what comes of them.

use super::History;
use crate::host::Call;
use crate::plan::Event;
use crate::users::Wish;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::time::Duration;
use swarm_api::backend::{Create, Update};
use swarm_api::control::Joined;
use swarm_api::model::{
    Availability, ImageConfig, Kind, NodeChange, NodeRole, Object, Port, Read, Restart,
    RestartPolicy, ServiceChange, ServiceSpec, TaskSpec,
};
use swarm_api::{Control, Error};

/// How long a user waits; an answer that comes later is nobody's.
const PATIENCE: Duration = Duration::from_secs(45);
/// Hosts beyond these do not join.
const MOST_HOSTS: usize = 9;

/// A wish that was sent.
pub(super) struct Pending {
    host: usize,
    life: u64,
    since: Duration,
    what: Sent,
}

enum Sent {
    Wish {
        service: String,
        wish: Wish,
        call: Call<Result<(), Error>>,
    },
    Look {
        service: String,
        call: Call<Result<Option<u32>, Error>>,
    },
    Join(Call<Result<Joined, Error>>),
    Other(Call<()>),
}

fn name(service: u64) -> String {
    format!("service{service}")
}

impl History {
    pub(super) fn wish(&mut self, event: Event, chance: u64) {
        let living: Vec<usize> = (0..self.sim.hosts.len())
            .filter(|host| self.sim.hosts[*host].look(|_| ()).is_some())
            .collect();
        if living.is_empty() {
            return;
        }
        let at = living[usize::try_from(chance).unwrap_or_default() % living.len()];
        match event {
            Event::Run {
                service,
                replicas,
                port,
            } => {
                let spec = ServiceSpec {
                    name: name(service),
                    task: TaskSpec {
                        image: "whoami".into(),
                        ..TaskSpec::default()
                    },
                    replicas,
                    restart: RestartPolicy {
                        condition: Restart::Always,
                        ..RestartPolicy::default()
                    },
                    ports: port
                        .and_then(|p| format!("{p}:80").parse::<Port>().ok())
                        .into_iter()
                        .collect(),
                    ..ServiceSpec::default()
                };
                self.send(at, service, Wish::Run(replicas), |agent| async move {
                    let created = agent.backend().create(Create::Service(spec)).await;
                    created.map(drop)
                });
            }
            Event::Scale { service, replicas } => {
                let change = ServiceChange {
                    replicas: Some(replicas),
                };
                let update = Update::Service(name(service), change);
                self.send(at, service, Wish::Scale(replicas), |agent| async move {
                    agent.backend().update(update).await.map(drop)
                });
            }
            Event::Remove { service } => {
                self.send(at, service, Wish::Remove, move |agent| async move {
                    let backend = agent.backend();
                    backend.remove(Kind::Service, name(service), true).await
                });
            }
            Event::Look { service } => self.look(at, service),
            Event::Drain { host } => self.availability(at, host, Availability::Drain),
            Event::Activate { host } => self.availability(at, host, Availability::Active),
            Event::Join { manager } => self.join(at, manager),
            Event::Leave { host } => self.leave(host),
            Event::Import => {
                let call = self.sim.call(at, move |agent| async move {
                    let content = Bytes::from(format!("{chance:x}"));
                    let archive = stream::iter([Ok(content)]).boxed();
                    let config = ImageConfig::default();
                    let backend = agent.backend();
                    let _ = backend.import_image("app:1".into(), config, archive).await;
                });
                self.wait_for(at, Sent::Other(call));
            }
            Event::Token => {
                let call = self.sim.call(at, |agent| async move {
                    let hour = Duration::from_secs(3600);
                    if let Ok(token) = agent.create_token(NodeRole::Worker, hour).await {
                        let _ = agent.remove_token(token.id).await;
                    }
                });
                self.wait_for(at, Sent::Other(call));
            }
            Event::Exit { host, code } => {
                let host = &self.sim.hosts[host];
                let running = host.machine.running();
                if let Some(task) = running.first() {
                    host.machine.exit(&task.id, code, host.wall());
                }
            }
            _ => {}
        }
    }

    fn send<F>(
        &mut self,
        at: usize,
        service: u64,
        wish: Wish,
        work: impl FnOnce(std::sync::Arc<swarm_agent::agent::Agent>) -> F,
    ) where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let service = name(service);
        // Each service has one user, who waits for each answer.
        if self.users.is_busy(&service) {
            return;
        }
        self.users.sent(&service);
        self.sent += 1;
        let call = self.sim.call(at, work);
        self.wait_for(
            at,
            Sent::Wish {
                service,
                wish,
                call,
            },
        );
    }

    fn look(&mut self, at: usize, service: u64) {
        let service = name(service);
        if self.users.is_busy(&service) {
            return;
        }
        self.users.sent(&service);
        let name = service.clone();
        let call = self.sim.call(at, move |agent| async move {
            let answer = agent
                .backend()
                .get(Kind::Service, name, Read::Linearizable)
                .await;
            match answer {
                Ok(answer) if answer.freshness.stale => Err(Error::Unavailable("stale".into())),
                Ok(answer) => match answer.value {
                    Object::Service(service) => Ok(Some(service.spec.replicas)),
                    _ => Err(Error::Internal("not a service".into())),
                },
                Err(Error::NotFound(_)) => Ok(None),
                Err(why) => Err(why),
            }
        });
        self.wait_for(at, Sent::Look { service, call });
    }

    fn availability(&mut self, at: usize, host: usize, availability: Availability) {
        let change = NodeChange {
            availability: Some(availability),
            ..NodeChange::default()
        };
        let update = Update::Node(self.sim.hosts[host].name.clone(), change);
        let call = self.sim.call(at, |agent| async move {
            let _ = agent.backend().update(update).await;
        });
        self.wait_for(at, Sent::Other(call));
    }

    fn join(&mut self, at: usize, manager: bool) {
        if self.sim.hosts.len() >= MOST_HOSTS {
            return;
        }
        let role = if manager {
            NodeRole::Manager
        } else {
            NodeRole::Worker
        };
        let Ok(host) = self.sim.add_host() else {
            return;
        };
        // Without a token it stays outside.
        if let Ok(call) = self.sim.join(at, host, role) {
            self.wait_for(host, Sent::Join(call));
        }
    }

    fn leave(&mut self, host: usize) {
        let inside = |h: &crate::host::SimHost| h.look(|_| ()).is_some();
        let left = self.sim.hosts.iter().filter(|h| inside(h)).count();
        if left <= 3 || !inside(&self.sim.hosts[host]) {
            return;
        }
        let call = self.sim.call(host, |agent| async move {
            let _ = agent.leave(false).await;
        });
        self.wait_for(host, Sent::Other(call));
    }

    fn wait_for(&mut self, host: usize, what: Sent) {
        self.pending.push(Pending {
            host,
            life: self.sim.hosts[host].lives(),
            since: self.sim.now(),
            what,
        });
    }

    pub(super) fn collect_answers(&mut self) -> Result<(), String> {
        let now = self.sim.now();
        let mut waiting = Vec::new();
        for pending in std::mem::take(&mut self.pending) {
            let host = &self.sim.hosts[pending.host];
            let lost = host.agent().is_none()
                || host.lives() != pending.life
                || now - pending.since > PATIENCE;
            match &pending.what {
                Sent::Wish {
                    service,
                    wish,
                    call,
                } => {
                    let answer = call.take();
                    if answer.is_none() && !lost {
                        waiting.push(pending);
                        continue;
                    }
                    self.acknowledged += u64::from(matches!(answer, Some(Ok(()))));
                    tracing::info!(?now, service, ?wish, ?answer, "a wish was answered");
                    let judged = self.users.answered(service, *wish, answer.as_ref());
                    judged.map_err(|why| format!("nothing acknowledged is lost: {why}"))?;
                }
                Sent::Look { service, call } => {
                    let answer = call.take();
                    if answer.is_none() && !lost {
                        waiting.push(pending);
                        continue;
                    }
                    self.users.looked(service);
                    if let Some(Ok(seen)) = answer {
                        let judged = self.users.saw_while_it_may_go(service, seen);
                        judged.map_err(|why| format!("reads are linearizable: {why}"))?;
                    }
                }
                Sent::Join(call) => {
                    if call.take().is_none() && !lost {
                        waiting.push(pending);
                    }
                }
                Sent::Other(call) => {
                    if call.take().is_none() && !lost {
                        waiting.push(pending);
                    }
                }
            }
        }
        self.pending.extend(waiting);
        Ok(())
    }
}
