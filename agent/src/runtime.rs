//! What the cluster's part of the agent asks of a host's container runtime: the verbs that all backends have, and a few
//! that are between the two. Handed in, so that a simulation can run the same agent on a runtime of its own.

use crate::node::{Overdue, View};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use swarm_api::model::{Id, Image, ImageReference, Task, Timestamp};
use swarm_api::{Backend, BoxStream, Result};
use swarm_runtime::host::{Host, TaskOrder};
use swarm_runtime::image::neighbours::Neighbours;
use tokio::sync::watch;

/// The container runtime of one host, as the cluster's part of the agent uses it.
#[async_trait]
pub trait Runtime: Backend {
    /// Makes and starts one container; idempotent by task id. Returns when its process runs.
    ///
    /// # Errors
    /// What keeps it from running.
    async fn run_task(&self, order: TaskOrder) -> Result<()>;

    /// Sends the stop signal, and SIGKILL after `timeout`. Returns when the container has ended.
    ///
    /// # Errors
    /// When there is no such task.
    async fn stop_task(&self, id: &Id, timeout: Duration) -> Result<()>;

    /// Removes everything of a task. No error if there is nothing.
    ///
    /// # Errors
    /// What could not be removed.
    async fn remove_task(&self, id: &Id) -> Result<()>;

    /// All tasks that the cluster ordered, with their status as observed.
    fn cluster_tasks(&self) -> Vec<Task>;

    /// Changes whenever any task's status does.
    fn changes(&self) -> watch::Receiver<u64>;

    /// The image of that name that is here.
    fn image(&self, reference: &ImageReference) -> Option<Image>;

    /// All images that are here.
    fn images(&self) -> Vec<Image>;

    /// The layers of an image that are not here.
    fn missing_layers(&self, image: &Image) -> Vec<String>;

    /// Takes a layer in.
    ///
    /// # Errors
    /// When its content is not what its digest says; what the disk says.
    async fn put_layer(&self, digest: &str, archive: BoxStream<Result<Bytes>>) -> Result<()>;

    /// Gives a layer to one who checks its digest, so that it need not be checked here as well.
    ///
    /// # Errors
    /// When it is not here.
    async fn give_layer(&self, digest: &str) -> Result<BoxStream<Result<Bytes>>> {
        self.export_layer(digest.to_owned()).await
    }

    /// Takes an image in whose layers are here.
    ///
    /// # Errors
    /// When a layer is not here; what the disk says.
    async fn put_image(&self, image: Image) -> Result<()>;

    /// Asks these for an image's parts before a registry, from now on.
    fn share(&self, neighbours: Option<Arc<dyn Neighbours>>) {
        drop(neighbours);
    }

    /// Removes an image, and the layers that no other one has.
    ///
    /// # Errors
    /// [`swarm_api::Error::Conflict`] when a task uses it.
    async fn remove_image(&self, reference: &ImageReference) -> Result<()>;

    /// How often [`Runtime::overdue_images`] is to be asked; never if none.
    fn collect_interval(&self) -> Option<Duration> {
        None
    }

    /// The images that may go because nobody has used them for long, or because the disk is full. `view` says what must
    /// stay although nothing here uses it.
    ///
    /// # Errors
    /// What the disk says.
    async fn overdue_images(&self, view: &View) -> Result<Vec<Overdue>> {
        let _ = view;
        Ok(Vec::new())
    }

    /// Removes an image unless it was used after `used_at`, or is now. Whether it did.
    ///
    /// # Errors
    /// What the disk says.
    async fn evict_image(&self, reference: &ImageReference, used_at: Timestamp) -> Result<bool> {
        let _ = (reference, used_at);
        Ok(false)
    }
}

#[async_trait]
impl Runtime for Host {
    async fn run_task(&self, order: TaskOrder) -> Result<()> {
        Host::run_task(self, order).await
    }

    async fn stop_task(&self, id: &Id, timeout: Duration) -> Result<()> {
        Host::stop_task(self, id, timeout).await
    }

    async fn remove_task(&self, id: &Id) -> Result<()> {
        Host::remove_task(self, id).await
    }

    fn cluster_tasks(&self) -> Vec<Task> {
        Host::cluster_tasks(self)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        Host::watch(self)
    }

    fn image(&self, reference: &ImageReference) -> Option<Image> {
        Host::image(self, reference)
    }

    fn images(&self) -> Vec<Image> {
        Host::images(self)
    }

    fn missing_layers(&self, image: &Image) -> Vec<String> {
        Host::has_layers(self, image)
    }

    async fn put_layer(&self, digest: &str, archive: BoxStream<Result<Bytes>>) -> Result<()> {
        Host::put_layer(self, digest, archive).await
    }

    async fn give_layer(&self, digest: &str) -> Result<BoxStream<Result<Bytes>>> {
        Host::give_layer(self, digest)
    }

    async fn put_image(&self, image: Image) -> Result<()> {
        Host::put_image(self, image).await
    }

    fn share(&self, neighbours: Option<Arc<dyn Neighbours>>) {
        Host::share(self, neighbours);
    }

    async fn remove_image(&self, reference: &ImageReference) -> Result<()> {
        Host::remove_image(self, reference).await
    }

    fn collect_interval(&self) -> Option<Duration> {
        Host::collect_interval(self)
    }

    async fn overdue_images(&self, view: &View) -> Result<Vec<Overdue>> {
        let (wanted, elsewhere) = (view.clone(), view.clone());
        Host::overdue_images(
            self,
            move |image| wanted.wants(image),
            move |image| elsewhere.is_elsewhere(image),
        )
        .await
    }

    async fn evict_image(&self, reference: &ImageReference, used_at: Timestamp) -> Result<bool> {
        Host::evict_image(self, reference, used_at).await
    }
}
