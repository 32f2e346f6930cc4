//! The image that the binary carries.

use swarm_api::model::{ImageConfig, ImageReference};
use swarm_runtime::host::BuiltinImage;

const WHOAMI: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/whoami"));

/// `whoami`: an HTTP server that answers with its host, task, addresses and environment.
#[must_use]
pub fn whoami() -> BuiltinImage {
    BuiltinImage {
        reference: reference(),
        config: ImageConfig {
            entrypoint: vec!["/whoami".into()],
            exposed_ports: vec!["80/tcp".into()],
            ..ImageConfig::default()
        },
        files: vec![("whoami".into(), 0o755, WHOAMI)],
    }
}

fn reference() -> ImageReference {
    match "whoami:latest".parse() {
        Ok(reference) => reference,
        Err(e) => unreachable!("{e}"),
    }
}
