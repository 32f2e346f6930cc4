//! Into a registry: blobs that it has not yet, in pieces that are sent again where a connection broke, and manifests.

use super::http::{self, Ask};
use super::{Access, Registry, Target, challenge, refusal};
use ::http::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};
use bytes::Bytes;
use hyper::body::Incoming;
use std::time::Duration;
use swarm_api::{Error, Result};

/// The most that is sent in one request, and held for it.
const CHUNK: usize = 8 << 20;
/// The largest piece that a registry may insist on.
const LARGEST_CHUNK: usize = 64 << 20;
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(300);
const CHUNK_MIN: HeaderName = HeaderName::from_static("oci-chunk-min-length");

/// What came of asking for a blob that another repository of the same registry has.
#[derive(Debug)]
pub enum Mounted {
    /// It is there now.
    Done,
    /// It must be sent.
    Send(Upload),
}

/// A blob on its way to a registry.
#[derive(Debug)]
pub struct Upload {
    registry: Registry,
    target: Target,
    /// Where the next piece goes.
    location: Uri,
    /// Bytes that the registry has.
    done: u64,
    chunk: usize,
}

impl Registry {
    /// Whether a repository has a blob; its size, where the registry says it.
    ///
    /// # Errors
    /// See [`Registry::resolve`].
    pub async fn has_blob(&self, target: &Target, digest: &str) -> Result<Option<u64>> {
        again(|| async {
            let path = format!("/v2/{}/blobs/{digest}", target.repository);
            let ask = Ask::new(Method::HEAD, &HeaderMap::new());
            let response = self.push_to(target, &path, ask).await?;
            match response.status() {
                StatusCode::OK => {
                    let length = response.headers().get(::http::header::CONTENT_LENGTH);
                    let length = length.and_then(|l| l.to_str().ok()?.parse().ok());
                    Ok(Some(length.unwrap_or(0)))
                }
                StatusCode::NOT_FOUND => Ok(None),
                _ => Err(refusal(response, "say whether it has a layer", target.authority()).await),
            }
        })
        .await
    }

    /// Begins to send a blob. With `from`, a digest and another repository of the registry that may have it, nothing
    /// is to be sent where it does.
    ///
    /// # Errors
    /// See [`Registry::resolve`].
    pub async fn begin_blob(&self, target: &Target, from: Option<(&str, &str)>) -> Result<Mounted> {
        again(|| async {
            let query = from.map_or(String::new(), |(digest, repository)| {
                let pairs = [("mount", digest), ("from", repository)];
                format!("?{}", challenge::query(&pairs))
            });
            let path = format!("/v2/{}/blobs/uploads/{query}", target.repository);
            let ask = Ask::new(Method::POST, &HeaderMap::new());
            let uri = self.inner.http.uri(target.authority(), &path).await?;
            let response = self.push_to(target, &path, ask).await?;
            match response.status() {
                StatusCode::CREATED => Ok(Mounted::Done),
                StatusCode::ACCEPTED => {
                    let least = response.headers().get(CHUNK_MIN);
                    let least: usize = least
                        .and_then(|l| l.to_str().ok()?.parse().ok())
                        .unwrap_or(0);
                    Ok(Mounted::Send(Upload {
                        registry: self.clone(),
                        target: target.clone(),
                        location: self.location(&uri, &response)?,
                        done: 0,
                        chunk: CHUNK.max(least.min(LARGEST_CHUNK)),
                    }))
                }
                _ => Err(refusal(
                    response,
                    &format!("take layers of {target}"),
                    target.authority(),
                )
                .await),
            }
        })
        .await
    }

    /// Puts a small blob, unless it is there.
    ///
    /// # Errors
    /// See [`Registry::resolve`].
    pub async fn put_blob(&self, target: &Target, digest: &str, bytes: Bytes) -> Result<()> {
        if self.has_blob(target, digest).await?.is_some() {
            return Ok(());
        }
        let mut last = Error::Unavailable(String::new());
        for _ in 0..ATTEMPTS {
            match self.begin_blob(target, None).await? {
                Mounted::Done => return Ok(()),
                Mounted::Send(upload) => match upload.finish(digest, bytes.clone()).await {
                    Err(why) if is_lost(&why) => last = why,
                    other => return other,
                },
            }
        }
        Err(last)
    }

    /// Puts a manifest under the tag of `target`.
    ///
    /// # Errors
    /// See [`Registry::resolve`].
    pub async fn put_manifest(&self, target: &Target, kind: &str, bytes: Bytes) -> Result<()> {
        again(|| async {
            let path = format!("/v2/{}/manifests/{}", target.repository, target.selector);
            let mut ask = Ask::new(Method::PUT, &HeaderMap::new());
            let kind = HeaderValue::try_from(kind).map_err(|e| Error::Internal(e.to_string()))?;
            ask.headers.insert(CONTENT_TYPE, kind);
            ask.body = bytes.clone();
            let response = self.push_to(target, &path, ask).await?;
            if response.status().is_success() {
                return Ok(());
            }
            Err(refusal(
                response,
                &format!("take the manifest of {target}"),
                target.authority(),
            )
            .await)
        })
        .await
    }

    async fn push_to(&self, target: &Target, path: &str, ask: Ask) -> Result<Response<Incoming>> {
        let authority = target.authority();
        let uri = self.inner.http.uri(authority, path).await?;
        self.authorized(authority, target, &uri, ask, Access::Push)
            .await
    }

    /// Where an answer says that an upload goes on.
    fn location(&self, uri: &Uri, response: &Response<Incoming>) -> Result<Uri> {
        let location = response.headers().get(LOCATION);
        let location = location.and_then(|l| l.to_str().ok()).unwrap_or_default();
        let next = http::resolve(uri, location).ok_or_else(|| {
            Error::Invalid(format!("{uri} leads to {location:?}, which is no address"))
        })?;
        if next.authority() != uri.authority() {
            self.inner.http.check_place(uri, &next)?;
        }
        Ok(next)
    }
}

impl Upload {
    /// How much is to be sent at once, at most; and at least, but for the last piece.
    #[must_use]
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// Sends the next piece. What the registry has of it where the connection broke is not sent again.
    ///
    /// # Errors
    /// [`Error::Conflict`] where the registry has lost what came before: the blob must be begun anew. See
    /// [`Registry::resolve`].
    pub async fn send(&mut self, bytes: Bytes) -> Result<()> {
        let end = self.done + bytes.len() as u64;
        let mut failures = 0;
        while self.done < end {
            let rest = usize::try_from(end - self.done).unwrap_or(0);
            let rest = bytes.slice(bytes.len() - rest..);
            let Err(why) = self.patch(rest).await else {
                self.done = end;
                return Ok(());
            };
            failures += 1;
            if !why.is_transient() || failures >= ATTEMPTS {
                return Err(why);
            }
            tracing::debug!(%why, target = %self.target, at = self.done, "a piece of a layer is sent again");
            tokio::time::sleep(PAUSE * failures).await;
            let start = end - bytes.len() as u64;
            let has = self.status().await?;
            if has < start || has > end {
                return Err(lost(&self.target));
            }
            self.done = has;
        }
        Ok(())
    }

    /// Sends the last piece, which may be empty, and says that the blob is whole.
    ///
    /// # Errors
    /// See [`Upload::send`].
    pub async fn finish(mut self, digest: &str, bytes: Bytes) -> Result<()> {
        // In one request only where there was none before: that is what all registries know.
        let mut last = bytes;
        if self.done > 0 && !last.is_empty() {
            self.send(std::mem::take(&mut last)).await?;
        }
        let mut failures = 0;
        loop {
            let Err(why) = self.put(digest, last.clone()).await else {
                return Ok(());
            };
            failures += 1;
            if !why.is_transient() || failures >= ATTEMPTS {
                return Err(why);
            }
            tokio::time::sleep(PAUSE * failures).await;
            // It may have come whole, and only the answer was lost.
            if self
                .registry
                .has_blob(&self.target, digest)
                .await?
                .is_some()
            {
                return Ok(());
            }
            if self.status().await? != self.done {
                return Err(lost(&self.target));
            }
        }
    }

    async fn patch(&mut self, bytes: Bytes) -> Result<()> {
        let range = format!("{}-{}", self.done, self.done + bytes.len() as u64 - 1);
        let mut ask = octets(Method::PATCH, bytes);
        let range = HeaderValue::try_from(range).map_err(|e| Error::Internal(e.to_string()))?;
        ask.headers.insert(CONTENT_RANGE, range);
        let response = self.ask(&self.location, ask).await?;
        match response.status() {
            StatusCode::ACCEPTED | StatusCode::CREATED | StatusCode::NO_CONTENT => {
                self.location = self.registry.location(&self.location, &response)?;
                Ok(())
            }
            StatusCode::RANGE_NOT_SATISFIABLE => Err(Error::Unavailable(format!(
                "{} has another part of a layer of {}",
                self.target.authority(),
                self.target
            ))),
            StatusCode::NOT_FOUND => Err(lost(&self.target)),
            _ => Err(self.refused(response).await),
        }
    }

    async fn put(&self, digest: &str, bytes: Bytes) -> Result<()> {
        let uri = challenge::with_query(&self.location, &[("digest", digest)])?;
        let response = self.ask(&uri, octets(Method::PUT, bytes)).await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => Err(lost(&self.target)),
            _ => Err(self.refused(response).await),
        }
    }

    /// How many bytes the registry has.
    async fn status(&mut self) -> Result<u64> {
        let ask = Ask::new(Method::GET, &HeaderMap::new());
        let response = self.ask(&self.location, ask).await?;
        if response.status() != StatusCode::NO_CONTENT && response.status() != StatusCode::OK {
            return Err(lost(&self.target));
        }
        let range = response.headers().get(RANGE).and_then(|r| r.to_str().ok());
        let last = range.and_then(|r| {
            r.trim_start_matches("bytes=")
                .rsplit('-')
                .next()?
                .parse()
                .ok()
        });
        if let Ok(next) = self.registry.location(&self.location, &response) {
            self.location = next;
        }
        // `0-0` is said of nothing as well as of one byte, which nobody sends.
        Ok(last.map_or(0, |last: u64| if last == 0 { 0 } else { last + 1 }))
    }

    async fn ask(&self, uri: &Uri, ask: Ask) -> Result<Response<Incoming>> {
        let (registry, target) = (&self.registry, &self.target);
        let authority = target.authority();
        let own = registry.inner.http.uri(authority, "/").await?;
        if uri.authority() != own.authority() {
            // A store of somebody else, who is not shown who one is.
            return registry.inner.http.send(uri, &ask).await;
        }
        registry
            .authorized(authority, target, uri, ask, Access::Push)
            .await
    }

    async fn refused(&self, response: Response<Incoming>) -> Error {
        let what = format!("take a layer of {}", self.target);
        refusal(response, &what, self.target.authority()).await
    }
}

fn octets(method: Method, bytes: Bytes) -> Ask {
    let mut ask = Ask::new(method, &HeaderMap::new());
    let kind = HeaderValue::from_static("application/octet-stream");
    ask.headers.insert(CONTENT_TYPE, kind);
    if bytes.is_empty() {
        let none = HeaderValue::from_static("0");
        ask.headers.insert(::http::header::CONTENT_LENGTH, none);
    }
    ask.body = bytes;
    ask
}

fn lost(target: &Target) -> Error {
    Error::Conflict(format!(
        "{} has lost what came of a layer of {target}",
        target.authority()
    ))
}

/// Whether a blob must be begun anew.
pub(crate) fn is_lost(why: &Error) -> bool {
    matches!(why, Error::Conflict(_))
}

/// Does something again that may be done again, while its failures look as if they would pass.
async fn again<T, F: Future<Output = Result<T>>>(attempt: impl Fn() -> F) -> Result<T> {
    let mut failures = 0;
    loop {
        match attempt().await {
            Err(why) if why.is_transient() && failures + 1 < ATTEMPTS => {
                failures += 1;
                tracing::debug!(%why, "a registry is asked again");
                tokio::time::sleep(PAUSE * failures).await;
            }
            other => return other,
        }
    }
}
