//! How this host enters and leaves a cluster.

use crate::agent::{Agent, Part};
use crate::leader;
use async_trait::async_trait;
use std::net::IpAddr;
use std::time::Duration;
use swarm_api::control::{Joined, Token};
use swarm_api::model::NodeRole;
use swarm_api::{Control, Error, Result};
use swarm_member::Member;

#[async_trait]
impl Control for Agent {
    async fn init(&self, advertise: Option<IpAddr>) -> Result<Joined> {
        let mut part = self.part.lock().await;
        refuse_a_second(part.as_ref().map(|p| &p.member))?;
        let member = Member::found(self.member_config(advertise)?).await?;
        self.enter(member, &mut part).await
    }

    async fn join(&self, peer: String, token: String, advertise: Option<IpAddr>) -> Result<Joined> {
        let mut part = self.part.lock().await;
        refuse_a_second(part.as_ref().map(|p| &p.member))?;
        let member = Member::join(self.member_config(advertise)?, &peer, &token).await?;
        let joined = self.enter(member.clone(), &mut part).await?;
        drop(part);
        if joined.role == NodeRole::Manager {
            // So that who sees hosts join knows which of them may be lost.
            leader::has_its_vote(&member).await;
        }
        Ok(joined)
    }

    async fn leave(&self, force: bool) -> Result<()> {
        let mut part = self.part.lock().await;
        part.as_ref()
            .ok_or_else(|| self.front.absence())?
            .member
            .leave(force)
            .await?;
        if let Some(part) = part.take() {
            self.give_up(part).await;
        }
        Ok(())
    }

    async fn create_token(&self, role: NodeRole, ttl: Duration) -> Result<Token> {
        self.member().await?.create_token(role, ttl).await
    }

    async fn list_tokens(&self) -> Result<Vec<Token>> {
        self.member().await?.list_tokens().await
    }

    async fn remove_token(&self, id: String) -> Result<()> {
        self.member().await?.remove_token(&id).await
    }
}

impl Agent {
    async fn enter(&self, member: Member, part: &mut Option<Part>) -> Result<Joined> {
        let joined = Joined {
            cluster: member.cluster(),
            node: member.id(),
            name: member.name(),
            role: member.role(),
        };
        self.take_part(member, part).await?;
        Ok(joined)
    }
}

fn refuse_a_second(member: Option<&Member>) -> Result<()> {
    match member {
        None => Ok(()),
        Some(member) => Err(Error::Conflict(format!(
            "this host is already in cluster {} as node {}; leave that first with `swarmctl leave`",
            member.cluster(),
            member.name()
        ))),
    }
}
