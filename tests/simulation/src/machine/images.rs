//! Images whose content follows from their names.

use swarm_api::model::{Image, ImageConfig, ImageReference, Timestamp};

/// The image that comes with every agent.
pub(super) fn builtin() -> Option<Image> {
    let mut image = image("whoami".parse().ok()?, "builtin", 0);
    image.builtin = true;
    Some(image)
}

/// An image with that many layers.
pub(super) fn image(reference: ImageReference, content: &str, layers: usize) -> Image {
    let layers: Vec<String> = (0..layers)
        .map(|n| format!("sha256:{content}-{n}"))
        .collect();
    Image {
        reference,
        digest: format!("sha256:{content}"),
        size: layers.iter().map(|l| self::content(l).len() as u64).sum(),
        layers,
        config: ImageConfig::default(),
        created_at: Timestamp(1),
        builtin: false,
        manifest: None,
    }
}

/// What the layer of that digest is made of.
pub(super) fn content(digest: &str) -> Vec<u8> {
    digest
        .as_bytes()
        .iter()
        .copied()
        .cycle()
        .take(4096)
        .collect()
}
