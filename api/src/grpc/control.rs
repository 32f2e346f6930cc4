//! `swarm.v1.Control`, both sides.

use super::Client;

use super::convert::{address, each, into_each, role};
use super::status::{from_status, to_status};
use crate::control::{Joined, Token};
use crate::model::NodeRole;
use crate::{Control, Result};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use swarm_proto::v1;
use tonic::{Request, Response, Status};

/// A control behind the wire.
pub(crate) struct ControlService {
    control: Arc<dyn Control>,
}

impl ControlService {
    pub(crate) fn new(control: Arc<dyn Control>) -> Self {
        Self { control }
    }
}

type Reply<T> = std::result::Result<Response<T>, Status>;

#[async_trait::async_trait]
impl v1::control_server::Control for ControlService {
    async fn init(&self, request: Request<v1::InitRequest>) -> Reply<v1::Joined> {
        let r = request.into_inner();
        let joined = async { self.control.init(address(r.advertise)?).await };
        reply(joined.await)
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Reply<v1::Joined> {
        let r = request.into_inner();
        let joined = async {
            self.control
                .join(r.peer, r.token, address(r.advertise)?)
                .await
        };
        reply(joined.await)
    }

    async fn leave(&self, request: Request<v1::LeaveRequest>) -> Reply<v1::LeaveResponse> {
        let force = request.into_inner().force;
        self.control.leave(force).await.map_err(to_status)?;
        Ok(Response::new(v1::LeaveResponse {}))
    }

    async fn create_token(&self, request: Request<v1::CreateTokenRequest>) -> Reply<v1::Token> {
        let r = request.into_inner();
        let token = async {
            self.control
                .create_token(role(r.role)?, Duration::from_millis(r.ttl_ms))
                .await
        };
        reply(token.await)
    }

    async fn list_tokens(
        &self,
        _: Request<v1::ListTokensRequest>,
    ) -> Reply<v1::ListTokensResponse> {
        let tokens = self.control.list_tokens().await.map_err(to_status)?;
        Ok(Response::new(v1::ListTokensResponse {
            tokens: into_each(tokens),
        }))
    }

    async fn remove_token(
        &self,
        request: Request<v1::RemoveTokenRequest>,
    ) -> Reply<v1::RemoveTokenResponse> {
        let id = request.into_inner().id;
        self.control.remove_token(id).await.map_err(to_status)?;
        Ok(Response::new(v1::RemoveTokenResponse {}))
    }
}

fn reply<A, B: From<A>>(answer: Result<A>) -> Reply<B> {
    answer.map(|a| Response::new(a.into())).map_err(to_status)
}

#[async_trait::async_trait]
impl Control for Client {
    async fn init(&self, advertise: Option<IpAddr>) -> Result<Joined> {
        let advertise = advertise.map(|a| a.to_string());
        let joined = self.control().init(v1::InitRequest { advertise }).await;
        joined.map_err(|s| from_status(&s))?.into_inner().try_into()
    }

    async fn join(&self, peer: String, token: String, advertise: Option<IpAddr>) -> Result<Joined> {
        let advertise = advertise.map(|a| a.to_string());
        let request = v1::JoinRequest {
            peer,
            token,
            advertise,
        };
        let joined = self.control().join(request).await;
        joined.map_err(|s| from_status(&s))?.into_inner().try_into()
    }

    async fn leave(&self, force: bool) -> Result<()> {
        let left = self.control().leave(v1::LeaveRequest { force }).await;
        left.map(drop).map_err(|s| from_status(&s))
    }

    async fn create_token(&self, role: NodeRole, ttl: Duration) -> Result<Token> {
        let request = v1::CreateTokenRequest {
            role: v1::NodeRole::from(role).into(),
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
        };
        let token = self.control().create_token(request).await;
        token.map_err(|s| from_status(&s))?.into_inner().try_into()
    }

    async fn list_tokens(&self) -> Result<Vec<Token>> {
        let tokens = self.control().list_tokens(v1::ListTokensRequest {}).await;
        each(tokens.map_err(|s| from_status(&s))?.into_inner().tokens)
    }

    async fn remove_token(&self, id: String) -> Result<()> {
        let request = v1::RemoveTokenRequest { id };
        let removed = self.control().remove_token(request).await;
        removed.map(drop).map_err(|s| from_status(&s))
    }
}
