//! Whom to ask for what: an image's name, taken apart. Pure.

use swarm_api::model::ImageReference;
use swarm_api::{Error, Result};

/// The short name of Docker's own registry, and where it answers.
const DOCKER: &str = "docker.io";
const DOCKER_HOST: &str = "registry-1.docker.io";

/// One image in one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The registry as people write it, `HOST` or `HOST:PORT`.
    pub registry: String,
    /// The repository.
    pub repository: String,
    /// A tag or a digest.
    pub selector: String,
}

impl Target {
    /// The target that `reference` names, `default` being the registry where it has none.
    ///
    /// # Errors
    /// [`Error::NotFound`] where neither says a registry.
    pub fn of(reference: &ImageReference, default: Option<&str>) -> Result<Self> {
        let Some(registry) = reference.registry().or(default) else {
            return Err(Error::NotFound(format!(
                "there is no image {reference}, and its name says no registry to pull it from: write it with one, such \
                 as docker.io/library/{}, have swarmd use a --default-registry, or import it with `swarmctl image import {reference} ARCHIVE`",
                reference.name()
            )));
        };
        let registry = match registry {
            "index.docker.io" | DOCKER_HOST => DOCKER,
            other => other,
        };
        let repository = reference.repository();
        let repository = if registry == DOCKER && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        if repository.contains(':')
            || repository
                .split('/')
                .any(|part| part.is_empty() || part.starts_with('.'))
        {
            return Err(Error::Invalid(format!(
                "\"{repository}\" cannot be a repository of {registry}: its parts are words of a-z, 0-9, '.', '_' and '-'"
            )));
        }
        let selector = reference.selector();
        // Of a path like `…/manifests/..` the registry may answer something else than was asked for.
        if selector.starts_with(['.', '-']) {
            return Err(Error::Invalid(format!(
                "\"{selector}\" cannot be a tag in {registry}: it begins with a letter, a digit or '_'"
            )));
        }
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            selector: reference.selector().to_owned(),
        })
    }

    /// Where the registry answers, `HOST` or `HOST:PORT`.
    #[must_use]
    pub fn authority(&self) -> &str {
        if self.registry == DOCKER {
            DOCKER_HOST
        } else {
            &self.registry
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.selector.starts_with("sha256:") {
            '@'
        } else {
            ':'
        };
        write!(
            f,
            "{}/{}{sign}{}",
            self.registry, self.repository, self.selector
        )
    }
}
