//! A blob as a stream: where the connection breaks it is made again and goes on from there; at the end size and digest
//! are what was asked for, or the stream ends with an error.

use super::http::SILENCE;
use super::{Descriptor, Registry, Target, What, digest_of};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::CONTENT_RANGE;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use sha2::{Digest, Sha256};
use std::time::Duration;
use swarm_api::{BoxStream, Error, Result};

/// How often in a row a connection may break without a byte having come.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

struct Download {
    registry: Registry,
    target: Target,
    descriptor: Descriptor,
    body: Option<Incoming>,
    /// Bytes at the start of the present answer that came before.
    skip: u64,
    done: u64,
    hash: Sha256,
    failures: u32,
}

pub(super) fn stream(
    registry: Registry,
    target: Target,
    descriptor: Descriptor,
) -> BoxStream<Result<Bytes>> {
    let download = Download {
        registry,
        target,
        descriptor,
        body: None,
        skip: 0,
        done: 0,
        hash: Sha256::new(),
        failures: 0,
    };
    stream::unfold(Some(download), |download| async move {
        let mut download = download?;
        match download.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(download))),
            Ok(None) => None,
            Err(why) => Some((Err(why), None)),
        }
    })
    .boxed()
}

impl Download {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.done == self.descriptor.size {
                let digest = digest_of(std::mem::take(&mut self.hash));
                if digest != self.descriptor.digest {
                    return Err(self.wrong(&format!("the digest {digest}")));
                }
                return Ok(None);
            }
            let why = match self.piece().await {
                Ok(bytes) => {
                    self.failures = 0;
                    self.hash.update(&bytes);
                    self.done += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Err(why) => why,
            };
            self.body = None;
            self.failures += 1;
            if !why.is_transient() || self.failures >= ATTEMPTS {
                return Err(why);
            }
            tracing::debug!(%why, digest = self.descriptor.digest, at = self.done, "a layer is asked for again");
            tokio::time::sleep(PAUSE * self.failures).await;
        }
    }

    /// Some of what is missing, never nothing.
    async fn piece(&mut self) -> Result<Bytes> {
        loop {
            let mut body = match self.body.take() {
                Some(body) => body,
                None => self.ask().await?,
            };
            let broken = |why: &str| {
                Error::Unavailable(format!(
                    "the layer {} of {} broke off after {} of {} bytes: {why}",
                    self.descriptor.digest, self.target, self.done, self.descriptor.size
                ))
            };
            let frame = tokio::time::timeout(SILENCE, body.frame())
                .await
                .map_err(|_| broken("nothing came for a while"))?
                .ok_or_else(|| broken("the connection ended"))?
                .map_err(|e| broken(&e.to_string()))?;
            self.body = Some(body);
            let Ok(mut data) = frame.into_data() else {
                continue;
            };
            let skipped = self.skip.min(data.len() as u64);
            self.skip -= skipped;
            let mut data = data.split_off(usize::try_from(skipped).unwrap_or(0));
            if data.is_empty() {
                continue;
            }
            if self.done + data.len() as u64 > self.descriptor.size {
                return Err(self.wrong("more bytes"));
            }
            return Ok(data.split_off(0));
        }
    }

    async fn ask(&mut self) -> Result<Incoming> {
        let what = What::Blob(&self.descriptor.digest);
        let response = self
            .registry
            .get_from_any(&self.target, what, self.done)
            .await?;
        let start = start(&response);
        if start > self.done {
            return Err(Error::Invalid(format!(
                "the registry gives {} of {} from byte {start}, not from {}",
                self.descriptor.digest, self.target, self.done
            )));
        }
        self.skip = self.done - start;
        Ok(response.into_body())
    }

    fn wrong(&self, what: &str) -> Error {
        Error::Invalid(format!(
            "the registry gave for the layer {} of {} something else: it has {what}",
            self.descriptor.digest, self.target
        ))
    }
}

/// From where on an answer goes (RFC 9110, Content-Range).
fn start(response: &Response<Incoming>) -> u64 {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return 0;
    }
    let range = response
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|r| r.to_str().ok());
    range
        .and_then(|r| r.strip_prefix("bytes "))
        .and_then(|r| r.split('-').next())
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}
