//! Puts a backend on the wire: the services of `swarm.v1` with health and reflection beside them, and a unix socket
//! to reach them at.

use super::LARGEST_MESSAGE;
use super::control::ControlService;
use super::server::BackendService;
use crate::{Backend, Control, Error, Result};
use futures_util::FutureExt;
use std::future::Future;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use swarm_proto::v1::backend_server::BackendServer;
use swarm_proto::v1::control_server::ControlServer;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, HealthService};

const BACKEND: &str = "swarm.v1.Backend";
const CONTROL: &str = "swarm.v1.Control";
/// What calls that run get to end by themselves when the server is to end.
const GRACE: Duration = Duration::from_millis(500);

/// What is served: `backend`, `control` where there is one, health (grpc.health.v1) and reflection.
pub fn routes(backend: Arc<dyn Backend>, control: Option<Arc<dyn Control>>) -> Routes {
    let mut services = vec![BACKEND];
    let mut routes = RoutesBuilder::default();
    routes.add_service(
        BackendServer::new(BackendService::new(backend))
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE),
    );
    if let Some(control) = control {
        services.push(CONTROL);
        routes.add_service(ControlServer::new(ControlService::new(control)));
    }
    let health = HealthReporter::new();
    for service in &services {
        // Nobody else holds the reporter's lock, so this does not wait.
        let set = health.set_service_status(*service, ServingStatus::Serving);
        let _ = set.now_or_never();
    }
    routes.add_service(tonic_health::pb::health_server::HealthServer::new(
        HealthService::from_health_reporter(health),
    ));
    let mut reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(swarm_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name("grpc.health.v1.Health");
    for service in services {
        reflection = reflection.with_service_name(service);
    }
    match reflection.build_v1() {
        Ok(reflection) => {
            routes.add_service(reflection);
        }
        Err(why) => tracing::warn!(%why, "gRPC reflection is not served"),
    }
    routes.routes()
}

/// Serves `routes` on the unix socket `path` until `shutdown` comes. The socket's mode is 0660 from its first moment
/// on; a socket that is left over is replaced, one that answers is not. Calls that still run then get half a second.
///
/// # Errors
/// [`Error::Conflict`] where another process answers on `path` or something else is there, [`Error::Internal`] where
/// the socket cannot be made.
pub async fn serve_unix(
    path: impl AsRef<Path>,
    routes: Routes,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<()> {
    let path = path.as_ref();
    let listener = bind(path).await?;
    let made = Made::of(path);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = Server::builder()
        .add_routes(routes)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped.map(drop));
    tokio::pin!(serving);
    let outcome = tokio::select! {
        outcome = &mut serving => outcome,
        () = shutdown => {
            drop(stop);
            tokio::time::timeout(GRACE, serving).await.unwrap_or(Ok(()))
        }
    };
    drop(made);
    outcome.map_err(|e| Error::Internal(format!("cannot serve on {}: {e}", path.display())))
}

async fn bind(path: &Path) -> Result<UnixListener> {
    let failed = |attempt: &str, e: std::io::Error| {
        Error::Internal(format!(
            "cannot {attempt} the socket {}: {e}",
            path.display()
        ))
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| failed("make the folder of", e))?;
    }
    if let Ok(there) = std::fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            return Err(Error::Conflict(format!(
                "{} is there and is not a socket; move it away",
                path.display()
            )));
        }
        if UnixStream::connect(path).await.is_ok() {
            return Err(Error::Conflict(format!(
                "another process answers on {}; end it first or use another run directory",
                path.display()
            )));
        }
    }
    // Made under another name and renamed, so that it is never there with another mode.
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let name = PathBuf::from(name);
    match std::fs::remove_file(&name) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed("replace", e)),
        _ => {}
    }
    let listener = UnixListener::bind(&name).map_err(|e| failed("make", e))?;
    std::fs::set_permissions(&name, std::fs::Permissions::from_mode(0o660))
        .map_err(|e| failed("set the mode of", e))?;
    std::fs::rename(&name, path).map_err(|e| failed("make", e))?;
    Ok(listener)
}

/// The socket file, removed when it is dropped, if it is still the same one.
struct Made {
    path: PathBuf,
    file: Option<(u64, u64)>,
}

impl Made {
    fn of(path: &Path) -> Self {
        Self {
            path: path.into(),
            file: identity(path),
        }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.file.is_some() && identity(&self.path) == self.file {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}
