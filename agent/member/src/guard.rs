//! Who may call what, before a request reaches a service: without a certificate only the entrance, with that of a node
//! that was taken out only its leaving. What a worker may do beside a manager is checked by the services themselves.

use crate::authority::Peer;
use crate::machine::Machine;
use crate::seldom::Seldom;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};
use tower::{Layer, Service};

const ENTRANCE: &str = "/swarm.agent.v1.Entrance/";
/// Marks the refusal of a node that was taken out.
pub(crate) const TAKEN_OUT: &str = "swarm-taken-out";
const LEAVE: &str = "/swarm.agent.v1.Agent/Leave";

/// Who is at the other end of a connection; nobody known, where it showed no certificate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller(pub(crate) Option<Peer>);

/// The caller of a request that came through the guard.
pub(crate) fn caller<T>(request: &Request<T>) -> Result<Peer, Status> {
    let known = request.extensions().get::<Caller>().and_then(|c| c.0);
    known.ok_or_else(|| {
        Status::permission_denied("this is for members of the cluster: show a certificate")
    })
}

/// The member that sent a request to one of the routes that a member was started with.
///
/// # Errors
/// Where it did not come through a member's listener.
pub fn caller_node<T>(request: &Request<T>) -> Result<swarm_api::model::NodeId, Status> {
    caller(request).map(|peer| peer.id)
}

/// Puts the guard before services.
#[derive(Clone)]
pub(crate) struct GuardLayer {
    machine: Arc<Machine>,
    refused: Arc<Seldom>,
}

impl GuardLayer {
    pub(crate) fn new(machine: Arc<Machine>) -> Self {
        Self {
            machine,
            refused: Arc::default(),
        }
    }

    fn check(&self, path: &str, caller: Option<Peer>) -> Result<(), Status> {
        if path.starts_with(ENTRANCE) {
            return Ok(());
        }
        let Some(peer) = caller else {
            return Err(Status::permission_denied(
                "this is for members of the cluster: show a certificate of its CA, or join with a token",
            ));
        };
        if self.machine.is_revoked(peer.id) && path != LEAVE {
            let mut refusal = Status::permission_denied(format!(
                "node {} was taken out of the cluster; `swarmctl leave --force` on it, then join again",
                peer.id
            ));
            let mark = MetadataValue::from_static("1");
            refusal.metadata_mut().insert(TAKEN_OUT, mark);
            return Err(refusal);
        }
        Ok(())
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service behind the guard.
#[derive(Clone)]
pub(crate) struct Guard<S> {
    inner: S,
    layer: GuardLayer,
}

impl<S> Service<http::Request<Body>> for Guard<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = futures_util::future::Either<
        S::Future,
        std::future::Ready<Result<http::Response<Body>, S::Error>>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Caller>().and_then(|c| c.0);
        match self.layer.check(request.uri().path(), peer) {
            Ok(()) => futures_util::future::Either::Left(self.inner.call(request)),
            Err(status) => {
                let path = request.uri().path();
                let said = |more| {
                    tracing::warn!(
                        path,
                        ?peer,
                        more,
                        "a request was refused: {}",
                        status.message()
                    );
                };
                self.layer.refused.tell(said);
                futures_util::future::Either::Right(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}
