//! HTTP/1.1 requests over TLS, or without it where that is allowed, on connections that are used again, by a proxy where
//! one leads there. Follows what leads elsewhere, and shows credentials to nobody but whom they are for.
//!
//! `connect` makes connections, `pool` keeps them, `proxy` says which way (pure).

mod connect;
mod pool;
pub(super) mod proxy;

use super::RegistryConfig;
use bytes::{Bytes, BytesMut};
use connect::{HANDSHAKE, Handshake, Io, tcp};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, PROXY_AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use pool::Pool;
use proxy::Proxies;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use swarm_api::{Error, Result};
use tokio::time::Instant;

/// The handshake with somebody who may know no TLS.
const PROBE: Duration = Duration::from_secs(3);
/// What the head of an answer may take, from when the last piece of the request was taken.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a body may be silent.
pub(super) const SILENCE: Duration = Duration::from_secs(30);
const REDIRECTS: usize = 5;
/// What is read of a connection at once.
const BUFFER: usize = 128 << 10;
/// What is written to a connection at once.
const PIECE: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Http {
    insecure: Vec<String>,
    ca_dir: Option<PathBuf>,
    proxies: Proxies,
    pool: Pool,
    /// Whether whom we may speak to without TLS knows TLS, by authority.
    plain: Mutex<HashMap<String, bool>>,
}

/// One request: the same whenever it is sent.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Ask {
    pub(super) fn new(method: Method, headers: &HeaderMap) -> Self {
        Self {
            method,
            headers: headers.clone(),
            body: Bytes::new(),
        }
    }
}

impl Http {
    pub(super) fn new(config: &RegistryConfig) -> Self {
        Self {
            insecure: config.insecure.clone(),
            ca_dir: config.ca_dir.clone(),
            proxies: config.proxies.clone(),
            pool: Pool::default(),
            plain: Mutex::default(),
        }
    }

    /// The address of a registry's document. Whom one may speak to without TLS is asked with TLS first.
    pub(super) async fn uri(&self, authority: &str, path: &str) -> Result<Uri> {
        let (scheme, authority) = match authority.split_once("://") {
            Some((scheme @ ("http" | "https"), authority)) => {
                (scheme, authority.trim_end_matches('/'))
            }
            Some(_) => return Err(no_address(authority)),
            None if self.is_plain(authority).await? => ("http", authority),
            None => ("https", authority),
        };
        let uri = format!("{scheme}://{authority}{path}");
        uri.parse().map_err(|_| no_address(&uri))
    }

    async fn is_plain(&self, authority: &str) -> Result<bool> {
        if !may_be_plain(&self.insecure, authority) {
            return Ok(false);
        }
        if let Some(known) = self.lock().get(authority) {
            return Ok(*known);
        }
        let uri: Uri = format!("https://{authority}/")
            .parse()
            .map_err(|_| no_address(authority))?;
        let (host, port) = place(&uri)?;
        let plain = match self.reach(&host, port).await {
            Err(_)
                if [true, false]
                    .iter()
                    .any(|tls| self.proxies.to(*tls, &host, port).is_some()) =>
            {
                true
            }
            Err(_) => {
                // Nobody at the port of TLS: it may be that of HTTP.
                uri.port().is_none() && tcp(&host, 80).await.is_ok()
            }
            Ok(stream) => match self.handshake(stream, &uri, &host, PROBE).await {
                Handshake::Done(_) => false,
                Handshake::NoTls(_) => true,
                Handshake::Refused(why) => return Err(why),
            },
        };
        self.lock().insert(authority.to_owned(), plain);
        Ok(plain)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, bool>> {
        self.plain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether credentials may be sent to an authorization server.
    pub(super) fn check_realm(&self, realm: &Uri) -> Result<()> {
        let authority = realm
            .authority()
            .map(http::uri::Authority::as_str)
            .unwrap_or_default();
        match realm.scheme_str() {
            Some("https") => Ok(()),
            Some("http") if may_be_plain(&self.insecure, authority) => Ok(()),
            _ => Err(Error::Denied(format!(
                "the authorization server {realm} does not use TLS; add {authority} to the --insecure-registries that may do so"
            ))),
        }
    }

    /// Sends a request to `uri`, or wherever that leads.
    pub(super) async fn follow(&self, uri: &Uri, ask: &Ask) -> Result<Response<Incoming>> {
        let mut uri = uri.clone();
        let mut ask = ask.clone();
        for _ in 0..REDIRECTS {
            let response = self.send(&uri, &ask).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response
                .headers()
                .get(LOCATION)
                .and_then(|l| l.to_str().ok());
            let next = resolve(&uri, location.unwrap_or_default()).ok_or_else(|| {
                Error::Invalid(format!("{uri} leads to {location:?}, which is no address"))
            })?;
            if next.authority() != uri.authority() || next.scheme() != uri.scheme() {
                ask.headers.remove(AUTHORIZATION);
            }
            self.check_place(&uri, &next)?;
            uri = next;
        }
        Err(Error::Unavailable(format!(
            "{uri} leads elsewhere more than {REDIRECTS} times"
        )))
    }

    /// Whether `next`, where `uri` leads, may be spoken to as it wants to be.
    pub(super) fn check_place(&self, uri: &Uri, next: &Uri) -> Result<()> {
        let authority = authority_of(next);
        if next.scheme_str() != Some("https") && !may_be_plain(&self.insecure, authority) {
            return Err(Error::Denied(format!(
                "{uri} leads to {authority}, which does not use TLS; add it to the --insecure-registries that may do so"
            )));
        }
        Ok(())
    }

    /// Gets `uri`, wherever that leads.
    pub(super) async fn get(&self, uri: &Uri, headers: &HeaderMap) -> Result<Response<Incoming>> {
        self.follow(uri, &Ask::new(Method::GET, headers)).await
    }

    /// Sends a form.
    pub(super) async fn post_form(&self, uri: &Uri, form: String) -> Result<Response<Incoming>> {
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        let mut ask = Ask::new(Method::POST, &headers);
        ask.body = form.into();
        self.send(uri, &ask).await
    }

    /// Sends one request, on a connection that is open already where there is one.
    pub(super) async fn send(&self, uri: &Uri, ask: &Ask) -> Result<Response<Incoming>> {
        let authority = authority_of(uri);
        let place = format!("{}://{authority}", uri.scheme_str().unwrap_or_default());
        let again = matches!(ask.method, Method::GET | Method::HEAD);
        while let Some(sender) = self.pool.take(&place) {
            match self.send_on(sender, &place, uri, ask).await {
                Ok(response) => return Ok(response),
                // It was closed meanwhile, as idle connections are.
                Err(Failed { unsent: true, .. }) => {}
                Err(_) if again => {}
                Err(Failed { why, .. }) => return Err(why),
            }
        }
        let sender = self.open(uri).await?;
        let sent = self.send_on(sender, &place, uri, ask).await;
        sent.map_err(|failed| failed.why)
    }

    async fn open(&self, uri: &Uri) -> Result<SendRequest<Body>> {
        let (host, port) = place(uri)?;
        let authority = authority_of(uri);
        if uri.scheme_str() != Some("https") {
            let stream: Io = match self.proxies.to(false, &host, port) {
                Some(proxy) => self.reach_proxy(proxy).await?,
                None => Box::new(tcp(&host, port).await?),
            };
            return open(stream, authority).await;
        }
        let stream = self.reach(&host, port).await?;
        match self.handshake(stream, uri, &host, HANDSHAKE).await {
            Handshake::Done(stream) => open(*stream, authority).await,
            Handshake::NoTls(why) => Err(Error::Unavailable(format!(
                "{authority} does not speak TLS ({why}); if it is to be trusted without, add it to \
                 swarmd's --insecure-registries"
            ))),
            Handshake::Refused(why) => Err(why),
        }
    }

    async fn send_on(
        &self,
        mut sender: SendRequest<Body>,
        kept_as: &str,
        uri: &Uri,
        ask: &Ask,
    ) -> std::result::Result<Response<Incoming>, Failed> {
        let authority = authority_of(uri);
        let (request, active) = self
            .request(uri, ask)
            .map_err(|why| Failed { why, unsent: false })?;
        let failed = |why: String, unsent| Failed {
            why: Error::Unavailable(format!("{authority} {why}")),
            unsent,
        };
        let answer = sender.try_send_request(request);
        tokio::pin!(answer);
        let response = loop {
            let limit = active.last() + ANSWER;
            tokio::select! {
                answer = &mut answer => break answer,
                () = tokio::time::sleep_until(limit) => {
                    if active.last() + ANSWER <= Instant::now() {
                        return Err(failed("does not answer".into(), false));
                    }
                }
            }
        };
        match response {
            Ok(response) => {
                self.pool.put(kept_as.to_owned(), sender);
                Ok(response)
            }
            Err(mut e) => {
                let unsent = e.take_message().is_some();
                Err(failed(format!("broke off: {}", e.into_error()), unsent))
            }
        }
    }

    fn request(&self, uri: &Uri, ask: &Ask) -> Result<(Request<Body>, Active)> {
        let (host, port) = place(uri)?;
        let authority = authority_of(uri);
        let active = Active::default();
        let mut request = Request::new(Body {
            rest: ask.body.clone(),
            active: active.clone(),
        });
        *request.method_mut() = ask.method.clone();
        *request.headers_mut() = ask.headers.clone();
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        *request.uri_mut() = path.parse().map_err(|_| no_address(path))?;
        if uri.scheme_str() != Some("https")
            && let Some(proxy) = self.proxies.to(false, &host, port)
        {
            *request.uri_mut() = uri.clone();
            if let Some((user, password)) = &proxy.login {
                let login = super::credentials::basic(user, password)?;
                request.headers_mut().insert(PROXY_AUTHORIZATION, login);
            }
        }
        let name = HeaderValue::try_from(authority).map_err(|_| no_address(authority))?;
        request.headers_mut().insert(HOST, name);
        let agent = HeaderValue::from_static(concat!("swarmd/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, agent);
        Ok((request, active))
    }
}

/// Why there is no answer, and whether nothing of the request has been sent.
struct Failed {
    why: Error,
    unsent: bool,
}

/// When a request's last piece was taken.
#[derive(Debug, Clone)]
struct Active(Arc<Mutex<Instant>>);

impl Default for Active {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Active {
    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// A request's body, in pieces.
#[derive(Debug)]
struct Body {
    rest: Bytes,
    active: Active,
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Self::Error>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        self.active.now();
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

async fn open<S>(stream: S, authority: &str) -> Result<SendRequest<Body>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| Error::Unavailable(format!("{authority} does not speak HTTP: {e}")))?;
    // Ends when the last answer's body was read or dropped, and nobody keeps it for a further request.
    tokio::spawn(connection);
    Ok(sender)
}

fn authority_of(uri: &Uri) -> &str {
    uri.authority()
        .map(http::uri::Authority::as_str)
        .unwrap_or_default()
}

/// Host and port of an address.
fn place(uri: &Uri) -> Result<(String, u16)> {
    let host = uri.host().ok_or_else(|| no_address(&uri.to_string()))?;
    let standard = if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), uri.port_u16().unwrap_or(standard)))
}

fn no_address(text: &str) -> Error {
    Error::Invalid(format!(
        "\"{text}\" is not the address of a registry: write HOST or HOST:PORT"
    ))
}

/// Where a relative or absolute location leads.
pub(super) fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with("https://") || location.starts_with("http://") {
        return location.parse().ok();
    }
    let location = location.strip_prefix('/')?;
    format!("{}://{}/{location}", base.scheme_str()?, base.authority()?)
        .parse()
        .ok()
}

/// Whether one may speak to a registry without TLS.
pub(super) fn may_be_plain(insecure: &[String], authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
        return true;
    }
    insecure.iter().any(|one| {
        let network = one.parse::<ipnet::IpNet>();
        one == authority
            || one == host
            || ip.is_some_and(|ip| network.is_ok_and(|n| n.contains(&ip)))
    })
}

/// A small body.
pub(super) async fn read(response: Response<Incoming>, limit: usize) -> Result<Bytes> {
    let mut body = response.into_body();
    let mut all = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(SILENCE, body.frame())
            .await
            .map_err(|_| Error::Unavailable("it stopped coming".into()))?;
        let Some(frame) = frame else {
            return Ok(all.freeze());
        };
        let frame = frame.map_err(|e| Error::Unavailable(format!("it broke off: {e}")))?;
        if let Some(data) = frame.data_ref() {
            if all.len() + data.len() > limit {
                return Err(Error::Invalid(format!("it is larger than {limit} bytes")));
            }
            all.extend_from_slice(data);
        }
    }
}
