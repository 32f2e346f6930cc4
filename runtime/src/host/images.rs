//! Images of this host that are more than taken in and given out: how they were made, into registries, further names, and
//! new ones of what a container has changed.

use super::{Inner, blocking, clock};
use crate::image::commit::Change;
use crate::image::diff::Owners;
use crate::image::instructions;
use crate::oci;
use std::sync::Arc;
use swarm_api::backend::{CommitOptions, PushEvent};
use swarm_api::model::{HistoryEntry, Id, Image, ImageReference, TaskState};
use swarm_api::{BoxStream, Error, Result};

impl Inner {
    pub(super) async fn image_history(self: &Arc<Self>, name: &str) -> Result<Vec<HistoryEntry>> {
        let image = self.image_or_error(&name.parse()?)?;
        let inner = Arc::clone(self);
        Ok(blocking(move || inner.store.history(&image)).await?)
    }

    pub(super) fn push_image(
        &self,
        name: &str,
        to: Option<&str>,
    ) -> Result<BoxStream<Result<PushEvent>>> {
        let reference: ImageReference = name.parse()?;
        let image = self.image_or_error(&reference)?;
        let to = to.map(str::parse).transpose()?.unwrap_or(reference);
        self.pusher.push(image, &to)
    }

    pub(super) async fn tag_image(self: &Arc<Self>, name: &str, to: &str) -> Result<Image> {
        let image = self.image_or_error(&name.parse()?)?;
        let image = Image {
            reference: further_name(to)?,
            builtin: false,
            ..image
        };
        let (inner, put) = (Arc::clone(self), image.clone());
        blocking(move || inner.store.put_image(put)).await?;
        self.collect_layers().await;
        Ok(image)
    }

    /// Makes an image of what a task's container has changed in its own.
    pub(super) async fn commit(
        self: &Arc<Self>,
        name: &str,
        reference: &str,
        options: CommitOptions,
    ) -> Result<Image> {
        let reference = further_name(reference)?;
        let id = self.lock().find_task(name)?.id.clone();
        let inner = Arc::clone(self);
        // To its end, whether or not the caller waits for it: it goes on for sure then.
        let made = tokio::spawn(async move { inner.commit_task(&id, reference, options).await });
        made.await
            .map_err(|e| Error::Internal(format!("the making of an image ended: {e}")))?
    }

    async fn commit_task(
        self: &Arc<Self>,
        id: &Id,
        reference: ImageReference,
        options: CommitOptions,
    ) -> Result<Image> {
        let (work, record) = {
            let table = self.lock();
            let entry = table.tasks.get(id).ok_or_else(|| {
                Error::NotFound(format!("the task {id} is not on this host any more"))
            })?;
            (Arc::clone(&entry.work), entry.record.clone())
        };
        let name = &record.task.name;
        let why_not = |why: &str| Error::Conflict(format!("cannot make an image of {name}: {why}"));
        // Neither stopped nor removed meanwhile.
        let _work = work.lock().await;
        let state = self.lock().task(id).map(|t| t.status.state);
        let state = state.ok_or_else(|| why_not("it was removed meanwhile"))?;
        let base = record
            .image
            .filter(|_| state >= TaskState::Running)
            .ok_or_else(|| why_not("it has not started"))?;
        let upper = self.container_dir(id).join("upper");
        if !upper.is_dir() {
            return Err(why_not("its container is not there"));
        }
        let mut config = base.config.clone();
        for line in &options.changes {
            instructions::apply(&mut config, line)?;
        }
        let first = if record.task.spec.user_namespace {
            oci::first_user(&record.task)
        } else {
            0
        };
        let change = Change {
            base,
            owners: Owners { first },
            config,
            message: options.message,
            author: options.author,
        };
        let paused = state == TaskState::Running && !options.no_pause && self.pause(id).await;
        let layer = self.store.layer_of(upper, change.owners).await;
        if paused {
            self.engine.resume(id.as_str()).await?;
        }
        let layer = layer.map_err(|e| e.context(format!("cannot make an image of {name}")))?;
        let inner = Arc::clone(self);
        let made = blocking(move || {
            inner
                .store
                .put_changed(reference, change, &layer, clock::now())
        });
        let image = made.await?;
        self.collect_layers().await;
        Ok(image)
    }

    /// Whether the container stands still now. Where the host cannot do that, it goes on.
    async fn pause(&self, id: &Id) -> bool {
        match self.engine.pause(id.as_str()).await {
            Ok(()) => true,
            Err(why) => {
                tracing::info!(%why, %id, "an image is made of a container that goes on meanwhile");
                // It may stand still by half.
                if let Err(why) = self.engine.resume(id.as_str()).await {
                    tracing::debug!(%why, %id, "a container that was not paused cannot be resumed");
                }
                false
            }
        }
    }
}

/// A name that an image of this host may get: by a digest only its registry may call it.
fn further_name(text: &str) -> Result<ImageReference> {
    let reference: ImageReference = text.parse()?;
    match reference.digest() {
        None => Ok(reference),
        Some(_) => Err(Error::Invalid(format!(
            "an image cannot be called {reference}: the digest is its registry's to give; leave it out"
        ))),
    }
}
