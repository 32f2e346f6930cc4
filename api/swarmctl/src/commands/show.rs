//! Commands that only ask.

use super::each;
use crate::context::{Context, json, out};
use crate::{failure, render};
use anyhow::{Result, bail};
use swarm_api::model::{Kind, Node, Object, Query, Scope};
use swarm_api::{Backend, Error};

pub(crate) async fn list(context: &Context, kind: Kind) -> Result<()> {
    show(context, Query::of(kind)).await
}

pub(crate) async fn tasks(
    context: &Context,
    all: bool,
    node: Option<String>,
    service: Option<String>,
) -> Result<()> {
    let query = Query {
        service,
        node,
        all,
        ..Query::of(Kind::Task)
    };
    show(context, query).await
}

async fn show(context: &Context, query: Query) -> Result<()> {
    let query = Query {
        read: context.read(),
        ..query
    };
    let objects = context.fresh(context.client().await?.list(query).await?);
    context.print(&objects, |o| render::objects(o, render::now()))
}

pub(crate) async fn inspect(context: &Context, kind: Kind, names: Vec<String>) -> Result<i32> {
    let client = &context.client().await?;
    each(names, async |name| {
        json(&context.fresh(client.get(kind, name, context.read()).await?))
    })
    .await
}

/// Finds what is called so, a service first: a task may be named by its service's name.
pub(crate) async fn inspect_any(context: &Context, name: &str) -> Result<()> {
    let client = context.client().await?;
    for kind in [
        Kind::Service,
        Kind::Task,
        Kind::Node,
        Kind::Network,
        Kind::Image,
    ] {
        match client.get(kind, name.into(), context.read()).await {
            Ok(answer) => return json(&context.fresh(answer)),
            // What no object of that kind can be called, or what one host does not have.
            Err(Error::NotFound(_) | Error::Invalid(_) | Error::Unsupported(_)) => {}
            Err(why) => return Err(why.into()),
        }
    }
    bail!("no service, task, node, network or image is called \"{name}\"")
}

pub(crate) async fn lookup(context: &Context, name: String) -> Result<()> {
    let answer = context.client().await?.lookup(name, context.read()).await?;
    context.print(&context.fresh(answer), render::lookup)
}

pub(crate) async fn status(context: &Context) -> Result<()> {
    let client = context.client().await?;
    let info = client.info().await?;
    if context.json() {
        return json(&info);
    }
    let mut nodes: Vec<Node> = Vec::new();
    if info.scope == Scope::Cluster {
        let query = Query {
            read: context.read(),
            ..Query::of(Kind::Node)
        };
        for object in context.fresh(client.list(query).await?) {
            if let Object::Node(node) = object {
                nodes.push(node);
            }
        }
    }
    out(&render::status(&info, &nodes))
}

pub(crate) async fn version(context: &Context) -> Result<i32> {
    let own = env!("CARGO_PKG_VERSION");
    let agent = async { anyhow::Ok(context.client().await?.info().await?.version) }.await;
    if context.json() {
        let agent = agent.as_deref().ok();
        json(&serde_json::json!({ "client": own, "agent": agent }))?;
    } else {
        out(&format!("swarmctl {own}"))?;
        if let Ok(agent) = &agent {
            out(&format!("swarmd   {agent}"))?;
        }
    }
    Ok(agent.map_or_else(|why| failure::report(&why), |_| 0))
}
