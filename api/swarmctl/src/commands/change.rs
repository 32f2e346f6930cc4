//! Commands that change what there is.

use super::each;
use crate::context::{Context, json, out};
use anyhow::{Result, bail};
use std::time::Duration;
use swarm_api::backend::{Create, Update};
use swarm_api::model::{Kind, NetworkSpec, NodeChange, ServiceChange, validate_name};
use swarm_api::{Backend, Error};

pub(crate) async fn stop(
    context: &Context,
    names: Vec<String>,
    time: Option<Duration>,
) -> Result<i32> {
    let client = &context.client().await?;
    each(names, async |name: String| {
        client.stop(name.clone(), time).await?;
        context.done(&name)
    })
    .await
}

pub(crate) async fn kill(context: &Context, tasks: Vec<String>, signal: i32) -> Result<i32> {
    let client = &context.client().await?;
    each(tasks, async |task: String| {
        client.kill(task.clone(), signal).await?;
        context.done(&task)
    })
    .await
}

pub(crate) async fn wait(context: &Context, tasks: Vec<String>) -> Result<i32> {
    let client = &context.client().await?;
    each(tasks, async |task| {
        let status = client.wait(task).await?;
        context.print(&status, |s| s.code.to_string())
    })
    .await
}

pub(crate) async fn remove(
    context: &Context,
    kind: Kind,
    names: Vec<String>,
    force: bool,
) -> Result<i32> {
    let client = &context.client().await?;
    each(names, async |name: String| {
        client.remove(kind, name.clone(), force).await?;
        context.done(&name)
    })
    .await
}

/// Removes services, and tasks where no service is called so.
pub(crate) async fn remove_any(context: &Context, names: Vec<String>, force: bool) -> Result<i32> {
    let client = &context.client().await?;
    each(names, async |name: String| {
        for kind in [Kind::Service, Kind::Task] {
            match client.remove(kind, name.clone(), force).await {
                Ok(()) => return context.done(&name),
                Err(Error::NotFound(_)) => {}
                Err(Error::Invalid(_)) if kind == Kind::Service => {}
                Err(why) => return Err(why.into()),
            }
        }
        bail!("no service or task is called \"{name}\"")
    })
    .await
}

pub(crate) async fn scale(context: &Context, scales: Vec<(String, u32)>) -> Result<i32> {
    let client = &context.client().await?;
    each(scales, async |(name, replicas): (String, u32)| {
        let change = ServiceChange {
            replicas: Some(replicas),
        };
        let object = client.update(Update::Service(name.clone(), change)).await?;
        context.print(&object, |_| format!("{name}={replicas}"))
    })
    .await
}

pub(crate) async fn update_node(context: &Context, name: String, change: NodeChange) -> Result<()> {
    if change == NodeChange::default() {
        bail!("nothing to change of {name}: give --availability, --label or --label-rm");
    }
    let client = context.client().await?;
    let node = client.update(Update::Node(name.clone(), change)).await?;
    context.print(&node, |_| name.clone())
}

pub(crate) async fn create_network(
    context: &Context,
    name: String,
    subnet: Option<String>,
) -> Result<()> {
    validate_name("network", &name)?;
    let subnet = match subnet {
        None => None,
        Some(text) => match text.parse() {
            Ok(subnet) => Some(subnet),
            Err(_) => bail!(
                "\"{text}\" is not an IPv4 subnet: write ADDRESS/LENGTH, such as 10.50.0.0/16"
            ),
        },
    };
    let spec = NetworkSpec {
        name: name.clone(),
        subnet,
    };
    let network = context
        .client()
        .await?
        .create(Create::Network(spec))
        .await?;
    if context.json() {
        json(&network)
    } else {
        out(&name)
    }
}
