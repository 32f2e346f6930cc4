//! A client of image registries (OCI distribution-spec, Docker's registry API version 2): manifests by tag or digest,
//! blobs as streams, both ways. Whatever it hands out has the digest that it was asked for. Must not know of the store.
//!
//! `target` is what to ask whom, `manifest` what the answers say, `challenge` what a registry wants to be shown (all
//! three pure); `credentials` reads Docker's file, `http` makes requests, `blob` streams and resumes, `upload` is the
//! way in.

mod blob;
mod challenge;
mod credentials;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod http;
mod manifest;
mod target;
#[cfg(test)]
mod tests;
mod upload;

use ::http::header::{ACCEPT, AUTHORIZATION, RANGE, WWW_AUTHENTICATE};
use ::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use bytes::Bytes;
use challenge::Challenge;
use credentials::Credentials;
use http::{Ask, Http};
use hyper::body::Incoming;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use swarm_api::{BoxStream, Error, Result};

pub use http::proxy::Proxies;
pub use manifest::{Descriptor, ImageFile, Manifest, Platform};
pub(crate) use manifest::{Document, choose, read as read_document, read_config};
pub use target::Target;
pub(crate) use upload::is_lost;
pub use upload::{Mounted, Upload};

/// The largest manifest and the largest configuration that are accepted (registries refuse manifests over 4 MiB).
const LARGEST_DOCUMENT: usize = 4 << 20;

/// Whom to ask, how to trust, and who one is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Registries that may be spoken to without TLS: `HOST`, `HOST:PORT` or an IP network. This host's own addresses
    /// always may.
    pub insecure: Vec<String>,
    /// Certificate authorities of single registries: `DIR/HOST[:PORT]/*.crt`, in PEM, beside the system's.
    pub ca_dir: Option<PathBuf>,
    /// Docker's credential file (`~/.docker/config.json`).
    pub credentials: Option<PathBuf>,
    /// Registries and what to ask before them: `docker.io` and `mirror.example:5000`.
    pub mirrors: Vec<(String, String)>,
    /// The registry of names that have none.
    pub default: Option<String>,
    /// Which proxies lead to registries.
    pub proxies: Proxies,
}

/// A manifest of one image, as it was resolved.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Of whom it is.
    pub target: Target,
    /// Its digest.
    pub digest: String,
    /// What it says.
    pub manifest: Manifest,
    /// Its bytes.
    pub bytes: Bytes,
}

/// A client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: RegistryConfig,
    http: Http,
    /// What was accepted as authorization, by authority, repository and kind of access.
    authorizations: Mutex<Authorizations>,
}

type Authorizations = HashMap<(String, String, Access), HeaderValue>;

/// What is to be done in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Access {
    Pull,
    Push,
}

impl Access {
    fn scope(self, repository: &str) -> String {
        let actions = match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
        };
        format!("repository:{repository}:{actions}")
    }
}

/// What to get.
#[derive(Debug, Clone, Copy)]
enum What<'a> {
    Manifest(&'a str),
    Blob(&'a str),
}

impl Registry {
    /// A client.
    #[must_use]
    pub fn new(config: RegistryConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                http: Http::new(&config),
                authorizations: Mutex::default(),
                config,
            }),
        }
    }

    /// The registry of names that have none.
    #[must_use]
    pub fn default_registry(&self) -> Option<&str> {
        self.inner.config.default.as_deref()
    }

    /// The manifest of `target` for `platform`. Its digest, and that of an index before it, are checked.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none, [`Error::Denied`] where the registry wants other credentials,
    /// [`Error::Unavailable`] where nobody answers, [`Error::Invalid`] where the answer is not what was asked for.
    pub async fn resolve(&self, target: &Target, platform: &Platform) -> Result<Resolved> {
        let mut wanted = target.selector.clone();
        // An index may name an index; nobody needs more than one.
        for _ in 0..3 {
            let (digest, bytes) = self.manifest(target, &wanted).await?;
            match manifest::read(&bytes)
                .map_err(|e| e.context(format!("the manifest of {target}")))?
            {
                manifest::Document::Image(manifest) => {
                    return Ok(Resolved {
                        target: target.clone(),
                        digest,
                        manifest,
                        bytes,
                    });
                }
                manifest::Document::Index(entries) => {
                    let chosen = manifest::choose(&entries, platform)
                        .map_err(|e| e.context(format!("the image {target}")))?;
                    wanted = chosen.digest.clone();
                }
            }
        }
        Err(Error::Invalid(format!(
            "the index of {target} leads to ever more indexes"
        )))
    }

    async fn manifest(&self, target: &Target, selector: &str) -> Result<(String, Bytes)> {
        let response = self
            .get_from_any(target, What::Manifest(selector), 0)
            .await?;
        let bytes = http::read(response, LARGEST_DOCUMENT)
            .await
            .map_err(|e| e.context(format!("the manifest of {target}")))?;
        let digest = digest_of(Sha256::new_with_prefix(&bytes));
        if selector.starts_with("sha256:") && selector != digest {
            return Err(Error::Invalid(format!(
                "the registry gave for {target} a manifest with the digest {digest}, not {selector}"
            )));
        }
        Ok((digest, bytes))
    }

    /// The image's configuration file.
    ///
    /// # Errors
    /// See [`Registry::resolve`].
    pub async fn config(&self, resolved: &Resolved) -> Result<(ImageFile, Bytes)> {
        let descriptor = &resolved.manifest.config;
        let target = &resolved.target;
        let response = self
            .get_from_any(target, What::Blob(&descriptor.digest), 0)
            .await?;
        let bytes = http::read(response, LARGEST_DOCUMENT)
            .await
            .map_err(|e| e.context(format!("the configuration of {target}")))?;
        let digest = digest_of(Sha256::new_with_prefix(&bytes));
        if digest != descriptor.digest {
            return Err(Error::Invalid(format!(
                "the registry gave for {target} a configuration with the digest {digest}, not {}",
                descriptor.digest
            )));
        }
        let file = manifest::read_config(&bytes)
            .map_err(|e| e.context(format!("the configuration of {target}")))?;
        Ok((file, bytes))
    }

    /// A blob in pieces. A connection that breaks is made again where it broke. The stream ends with an error where
    /// the whole has another digest or size than `descriptor` says.
    #[must_use]
    pub fn blob(&self, target: &Target, descriptor: &Descriptor) -> BoxStream<Result<Bytes>> {
        blob::stream(self.clone(), target.clone(), descriptor.clone())
    }

    /// Asks the mirrors in turn, and then the registry itself.
    async fn get_from_any(
        &self,
        target: &Target,
        what: What<'_>,
        from: u64,
    ) -> Result<Response<Incoming>> {
        let mirrors = self.inner.config.mirrors.iter();
        let mirrors = mirrors
            .filter(|(of, _)| *of == target.registry)
            .map(|(_, m)| m.as_str());
        for mirror in mirrors {
            match self.get(mirror, target, what, from).await {
                Ok(response) => return Ok(response),
                Err(why) => tracing::debug!(mirror, %target, %why, "a mirror does not serve"),
            }
        }
        self.get(target.authority(), target, what, from).await
    }

    /// One request, with whatever authorization the registry asks for.
    async fn get(
        &self,
        authority: &str,
        target: &Target,
        what: What<'_>,
        from: u64,
    ) -> Result<Response<Incoming>> {
        let repository = &target.repository;
        let (path, name) = match what {
            What::Manifest(selector) => {
                (format!("/v2/{repository}/manifests/{selector}"), "manifest")
            }
            What::Blob(digest) => (format!("/v2/{repository}/blobs/{digest}"), "layer"),
        };
        let uri = self.inner.http.uri(authority, &path).await?;
        let mut headers = HeaderMap::new();
        if matches!(what, What::Manifest(_)) {
            headers.insert(ACCEPT, HeaderValue::from_static(manifest::ACCEPTED));
        }
        if from > 0 {
            let range = HeaderValue::try_from(format!("bytes={from}-"));
            headers.insert(RANGE, range.map_err(|e| Error::Internal(e.to_string()))?);
        }
        let ask = Ask::new(Method::GET, &headers);
        let response = self
            .authorized(authority, target, &uri, ask, Access::Pull)
            .await?;
        let status = response.status();
        if status == StatusCode::OK || status == StatusCode::PARTIAL_CONTENT {
            return Ok(response);
        }
        Err(refusal(response, &format!("give the {name} of {target}"), authority).await)
    }

    /// Sends a request with the authorization that was accepted before, or that the registry asks for.
    async fn authorized(
        &self,
        authority: &str,
        target: &Target,
        uri: &Uri,
        mut ask: Ask,
        access: Access,
    ) -> Result<Response<Incoming>> {
        let key = (authority.to_owned(), target.repository.clone(), access);
        if let Some(known) = self.authorizations().get(&key) {
            ask.headers.insert(AUTHORIZATION, known.clone());
        }
        let mut response = self.inner.http.follow(uri, &ask).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let authorization = self
                .authorize(authority, target, response.headers(), access)
                .await?;
            ask.headers.insert(AUTHORIZATION, authorization.clone());
            response = self.inner.http.follow(uri, &ask).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                self.authorizations().insert(key, authorization);
            }
        }
        Ok(response)
    }

    fn authorizations(&self) -> std::sync::MutexGuard<'_, Authorizations> {
        let authorizations = self.inner.authorizations.lock();
        authorizations.unwrap_or_else(PoisonError::into_inner)
    }

    async fn authorize(
        &self,
        authority: &str,
        target: &Target,
        headers: &HeaderMap,
        access: Access,
    ) -> Result<HeaderValue> {
        let asked = headers.get_all(WWW_AUTHENTICATE).iter();
        let asked: Vec<Challenge> = asked
            .filter_map(|h| h.to_str().ok())
            .filter_map(challenge::parse)
            .collect();
        let whom = if authority == target.authority() {
            &target.registry
        } else {
            authority
        };
        let file = self.inner.config.credentials.as_deref();
        let known = credentials::find(file, whom).await?;
        // The stronger one first.
        for challenge in &asked {
            if let Challenge::Bearer {
                realm,
                service,
                scope,
            } = challenge
            {
                let own = access.scope(&target.repository);
                let scope = scope.as_deref().unwrap_or(&own);
                let server = (realm.as_str(), service.as_deref(), scope);
                return self.token(whom, target, known.as_ref(), server).await;
            }
        }
        match (asked.as_slice(), known) {
            ([], _) => Err(Error::Denied(format!(
                "{authority} refuses access to {target}, and asks for no kind of credentials that is known here"
            ))),
            (_, Some(Credentials::Basic { user, password })) => {
                credentials::basic(&user, &password)
            }
            _ => Err(Error::Denied(format!(
                "{authority} asks for a user and a password, and there are none for {whom}{}",
                match file {
                    Some(file) => format!(
                        " in {}; log in with `docker login {whom}` or `skopeo login`",
                        file.display()
                    ),
                    None => "; name Docker's credential file with --registry-credentials".into(),
                }
            ))),
        }
    }

    /// A token from the registry's authorization server (Docker's token authentication).
    async fn token(
        &self,
        whom: &str,
        target: &Target,
        known: Option<&Credentials>,
        (realm, service, scope): (&str, Option<&str>, &str),
    ) -> Result<HeaderValue> {
        let scopes = scope.split_ascii_whitespace();
        let mut query: Vec<(&str, &str)> = scopes.map(|s| ("scope", s)).collect();
        if let Some(service) = service {
            query.push(("service", service));
        }
        let realm: Uri = realm.parse().map_err(|_| {
            Error::Invalid(format!(
                "{whom} names \"{realm}\" as its authorization server, which is no address"
            ))
        })?;
        self.inner.http.check_realm(&realm)?;
        let response = match known {
            Some(Credentials::IdentityToken(token)) => {
                query.extend([
                    ("grant_type", "refresh_token"),
                    ("refresh_token", token),
                    ("client_id", "swarmd"),
                ]);
                self.inner
                    .http
                    .post_form(&realm, challenge::query(&query))
                    .await?
            }
            other => {
                let mut headers = HeaderMap::new();
                if let Some(Credentials::Basic { user, password }) = other {
                    headers.insert(AUTHORIZATION, credentials::basic(user, password)?);
                }
                let uri = challenge::with_query(&realm, &query)?;
                self.inner.http.get(&uri, &headers).await?
            }
        };
        let what = format!("a token for {target}");
        if !response.status().is_success() {
            let whom = realm.host().unwrap_or(whom);
            return Err(refusal(response, &format!("give {what}"), whom).await);
        }
        let bytes = http::read(response, LARGEST_DOCUMENT)
            .await
            .map_err(|e| e.context(&what))?;
        let token = challenge::read_token(&bytes).map_err(|e| e.context(what))?;
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
            Error::Invalid(format!(
                "the token of {whom} has characters that no header may have"
            ))
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// What a registry's refusal comes to.
async fn refusal(response: Response<Incoming>, what: &str, whom: &str) -> Error {
    let status = response.status();
    // Its own words, where it has any.
    let said = match http::read(response, 64 << 10).await {
        Ok(body) => manifest::read_errors(&body),
        Err(_) => String::new(),
    };
    let message = format!("{whom} does not {what}: {status}{said}");
    match status.as_u16() {
        401 | 403 => Error::Denied(message),
        404 => Error::NotFound(message),
        429 => Error::Unavailable(format!("{message}; try again later, or log in")),
        408 | 500.. => Error::Unavailable(message),
        _ => Error::Invalid(message),
    }
}

/// `sha256:` and the digits.
fn digest_of(hash: Sha256) -> String {
    format!(
        "sha256:{}",
        data_encoding::HEXLOWER.encode(hash.finalize().as_slice())
    )
}
