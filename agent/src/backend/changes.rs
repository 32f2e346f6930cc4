//! What is to be made or changed: checked, its names made ids, and proposed. The state machine has the last word.

use super::reads::sure;
use super::{Cluster, names};
use swarm_api::backend::{Create, Update};
use swarm_api::model::{Kind, NetworkSpec, Object, ServiceChange, ServiceSpec, validate_name};
use swarm_api::{Error, Result};
use swarm_cluster::Change;

impl Cluster {
    /// Returns when it is committed, and thus cannot be lost any more.
    pub(super) async fn create(&self, what: Create) -> Result<Object> {
        let change = match what {
            Create::Service(spec) => {
                spec.validate()?;
                Change::CreateService(spec)
            }
            Create::Network(spec) => {
                validate_network(&spec)?;
                Change::CreateNetwork(spec)
            }
        };
        self.propose_object(change).await
    }

    pub(super) async fn update(&self, what: Update) -> Result<Object> {
        let freshness = self.fresh().await?;
        let change = match what {
            Update::Service(name, change) => {
                validate_change(&change)?;
                let id = sure(&freshness, names::service(&self.member.state(), &name))?;
                Change::UpdateService(id, change)
            }
            Update::Node(name, change) => {
                let id = sure(&freshness, names::node(&self.member.state(), &name))?;
                Change::UpdateNode(id, change)
            }
        };
        // What an old state calls so may be gone, and something else may be called so.
        sure(&freshness, self.propose_object(change).await)
    }

    async fn propose_object(&self, change: Change) -> Result<Object> {
        let outcome = self.member.propose(change).await?;
        outcome.ok_or_else(|| {
            Error::Internal("the change was carried out, but nothing came back of it".into())
        })
    }
}

fn validate_network(spec: &NetworkSpec) -> Result<()> {
    validate_name(&Kind::Network.to_string(), &spec.name)
}

fn validate_change(change: &ServiceChange) -> Result<()> {
    match change.replicas {
        Some(replicas) if replicas > ServiceSpec::MAX_REPLICAS => Err(Error::Invalid(format!(
            "{replicas} replicas are too many for one service: at most {}",
            ServiceSpec::MAX_REPLICAS
        ))),
        _ => Ok(()),
    }
}
