//! An image of another with one more layer, or with another configuration.

use super::configuration::{self, Step};
use super::diff::{self, Owners};
use super::resolve::open_folder;
use super::{Store, stream};
use std::path::PathBuf;
use swarm_api::Result;
use swarm_api::model::{Image, ImageConfig, ImageReference, Timestamp};

/// What a new image is made of.
pub(crate) struct Change {
    /// Below the new layer. Its parts are here.
    pub(crate) base: Image,
    pub(crate) owners: Owners,
    /// In place of the base's configuration.
    pub(crate) config: ImageConfig,
    pub(crate) message: String,
    pub(crate) author: String,
}

impl Store {
    /// Makes a layer of what is in a folder. It stays until its image comes, or to the end of this life.
    ///
    /// # Errors
    /// Where something cannot be read or written.
    pub(crate) async fn layer_of(&self, upper: PathBuf, owners: Owners) -> Result<String> {
        let archive =
            stream::write_in_thread(move |sink| diff::archive(&open_folder(&upper)?, owners, sink));
        let inner = std::sync::Arc::clone(&self.inner);
        stream::read_in_thread(archive, move |reader| {
            inner.unpack(reader, None).map(|layer| layer.digest)
        })
        .await
    }

    /// Makes an image of a change whose layer is here.
    ///
    /// # Errors
    /// Where a part of the base is not here, or something cannot be written.
    pub(crate) fn put_changed(
        &self,
        reference: ImageReference,
        change: Change,
        layer: &str,
        now: Timestamp,
    ) -> crate::Result<Image> {
        let step = Step {
            at: Some(now),
            by: "swarmctl commit",
            author: &change.author,
            comment: &change.message,
        };
        let file = self.document(&change.base.digest)?;
        let file = configuration::change(&file, &change.config, Some(layer), &step)?;
        let mut layers = change.base.layers;
        layers.push(layer.to_owned());
        let image = Image {
            reference,
            digest: self.inner.put_document(&file)?,
            size: change.base.size + self.layer_size(layer)?,
            layers,
            config: super::documents::config_of(&file)?,
            created_at: now,
            builtin: false,
            manifest: None,
        };
        self.put_image(image.clone())?;
        Ok(image)
    }
}
