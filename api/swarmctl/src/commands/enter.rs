//! How a host enters and leaves a cluster.

use super::each;
use crate::context::{Context, json, out};
use crate::render;
use anyhow::Result;
use std::net::IpAddr;
use std::time::Duration;
use swarm_api::control::{Joined, Token};
use swarm_api::grpc::Client;
use swarm_api::model::{Kind, NodeRole, Object, Read};
use swarm_api::{Backend, Control};

pub(crate) async fn init(context: &Context, advertise: Option<IpAddr>) -> Result<()> {
    let joined = context.client().await?.init(advertise).await?;
    context.print(&joined, |j| {
        format!(
            "This host is {} of the new cluster {}.\n\n\
             To add a host, make a token here:\n\n    swarmctl token create --role manager\n\n\
             and run the command that it prints on the other host. To run something:\n\n    \
             swarmctl run -d --name web -p 8080:80 whoami\n",
            j.name, j.cluster
        )
    })
}

pub(crate) async fn join(
    context: &Context,
    peer: String,
    token: String,
    advertise: Option<IpAddr>,
) -> Result<()> {
    let joined: Joined = context.client().await?.join(peer, token, advertise).await?;
    context.print(&joined, |j| {
        format!(
            "This host is {} of cluster {}, a {}.",
            j.name,
            j.cluster,
            render::role(j.role)
        )
    })
}

pub(crate) async fn leave(context: &Context, force: bool) -> Result<()> {
    context.client().await?.leave(force).await?;
    if context.json() {
        return Ok(());
    }
    out("This host has left the cluster.")
}

pub(crate) async fn create_token(context: &Context, role: NodeRole, ttl: Duration) -> Result<()> {
    let client = context.client().await?;
    let token = client.create_token(role, ttl).await?;
    if context.json() {
        return json(&token);
    }
    let address = own_address(&client)
        .await
        .unwrap_or_else(|| "ADDRESS".into());
    out(&instructions(&token, &address, ttl))
}

fn instructions(token: &Token, address: &str, ttl: Duration) -> String {
    format!(
        "To add a host as a {}, run this on it within {}:\n\n    swarmctl join --token {} {address}\n",
        render::role(token.role),
        render::duration(ttl),
        token.secret.as_deref().unwrap_or_default(),
    )
}

/// Where the node that answers listens for others.
async fn own_address(client: &Client) -> Option<String> {
    let node = client.info().await.ok()?.node?;
    let answer = client.get(Kind::Node, node.to_string(), Read::Stale).await;
    match answer.ok()?.value {
        Object::Node(node) => node.address.map(|a| a.to_string()),
        _ => None,
    }
}

pub(crate) async fn list_tokens(context: &Context) -> Result<()> {
    let tokens = context.client().await?.list_tokens().await?;
    context.print(&tokens, |t| render::tokens(t, render::now()))
}

pub(crate) async fn remove_tokens(context: &Context, ids: Vec<String>) -> Result<i32> {
    let client = &context.client().await?;
    each(ids, async |id: String| {
        client.remove_token(id.clone()).await?;
        context.done(&id)
    })
    .await
}
