//! HTTP/1.1 requests over TLS, or without it where that is allowed: one connection each. Follows what leads elsewhere,
//! and shows credentials to nobody but whom they are for.

use super::RegistryConfig;
use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use swarm_api::{Error, Result};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What a connection, the TLS handshake and the head of an answer may take.
const CONNECT: Duration = Duration::from_secs(10);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The handshake with somebody who may know no TLS.
const PROBE: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(60);
/// How long a body may be silent.
pub(super) const SILENCE: Duration = Duration::from_secs(30);
const REDIRECTS: usize = 5;
/// What is read of a connection at once.
const BUFFER: usize = 128 << 10;

/// Where distributions keep the certificates that they trust.
const SYSTEM: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

#[derive(Debug)]
pub(super) struct Http {
    insecure: Vec<String>,
    ca_dir: Option<PathBuf>,
    /// Whether whom we may speak to without TLS knows TLS, by authority.
    plain: Mutex<HashMap<String, bool>>,
}

enum Handshake {
    Done(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    /// The other side knows no TLS.
    NoTls(String),
    Refused(Error),
}

impl Http {
    pub(super) fn new(config: &RegistryConfig) -> Self {
        Self {
            insecure: config.insecure.clone(),
            ca_dir: config.ca_dir.clone(),
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
        let plain = match tcp(&host, port).await {
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

    /// Gets `uri`, wherever that leads.
    pub(super) async fn get(&self, uri: &Uri, headers: &HeaderMap) -> Result<Response<Incoming>> {
        let mut uri = uri.clone();
        let mut headers = headers.clone();
        for _ in 0..REDIRECTS {
            let response = self.send(&uri, Method::GET, &headers, Bytes::new()).await?;
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
                headers.remove(AUTHORIZATION);
            }
            let authority = next
                .authority()
                .map(http::uri::Authority::as_str)
                .unwrap_or_default();
            if next.scheme_str() != Some("https") && !may_be_plain(&self.insecure, authority) {
                return Err(Error::Denied(format!(
                    "{uri} leads to {authority}, which does not use TLS; add it to the --insecure-registries that may do so"
                )));
            }
            uri = next;
        }
        Err(Error::Unavailable(format!(
            "{uri} leads elsewhere more than {REDIRECTS} times"
        )))
    }

    /// Sends a form.
    pub(super) async fn post_form(&self, uri: &Uri, form: String) -> Result<Response<Incoming>> {
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        self.send(uri, Method::POST, &headers, form.into()).await
    }

    async fn send(
        &self,
        uri: &Uri,
        method: Method,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let (host, port) = place(uri)?;
        let authority = uri
            .authority()
            .map(http::uri::Authority::as_str)
            .unwrap_or_default();
        let stream = tcp(&host, port).await?;
        let mut sender = if uri.scheme_str() == Some("https") {
            match self.handshake(stream, uri, &host, HANDSHAKE).await {
                Handshake::Done(stream) => open(*stream, authority).await?,
                Handshake::NoTls(why) => {
                    return Err(Error::Unavailable(format!(
                        "{authority} does not speak TLS ({why}); if it is to be trusted without, add it to \
                         swarmd's --insecure-registries"
                    )));
                }
                Handshake::Refused(why) => return Err(why),
            }
        } else {
            open(stream, authority).await?
        };
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| no_address(path))?;
        *request.headers_mut() = headers.clone();
        let name = HeaderValue::try_from(authority).map_err(|_| no_address(authority))?;
        request.headers_mut().insert(HOST, name);
        let agent = HeaderValue::from_static(concat!("swarmd/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, agent);
        match tokio::time::timeout(ANSWER, sender.send_request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(e)) => Err(Error::Unavailable(format!("{authority} broke off: {e}"))),
            Err(_) => Err(Error::Unavailable(format!("{authority} does not answer"))),
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        uri: &Uri,
        host: &str,
        limit: Duration,
    ) -> Handshake {
        let authority = uri
            .authority()
            .map(http::uri::Authority::as_str)
            .unwrap_or_default();
        let attempt = async {
            let config = self.tls(authority)?;
            let name = ServerName::try_from(host.to_owned()).map_err(|_| no_address(host))?;
            Ok::<_, Error>((TlsConnector::from(config), name))
        };
        let (connector, name) = match attempt.await {
            Ok(ready) => ready,
            Err(why) => return Handshake::Refused(why),
        };
        let done = tokio::time::timeout(limit, connector.connect(name, stream)).await;
        let why = match done {
            Err(_) => return Handshake::NoTls("it does not answer".into()),
            Ok(Ok(stream)) => return Handshake::Done(Box::new(stream)),
            Ok(Err(why)) => why,
        };
        let inner = why
            .get_ref()
            .and_then(|e| e.downcast_ref::<rustls::Error>());
        match inner {
            Some(rustls::Error::InvalidCertificate(reason)) => {
                Handshake::Refused(Error::Denied(format!(
                    "the certificate of {authority} is not to be trusted: {reason:?}; put the certificate of who issued it \
                 into {}",
                    match &self.ca_dir {
                        Some(dir) => dir.join(authority).join("ca.crt").display().to_string(),
                        None => "a folder, and name that with --registry-ca-dir".into(),
                    }
                )))
            }
            Some(rustls::Error::AlertReceived(alert)) => Handshake::Refused(Error::Denied(
                format!("{authority} refuses the TLS handshake: {alert:?}"),
            )),
            _ => Handshake::NoTls(why.to_string()),
        }
    }

    /// What is trusted at `authority`. Read each time: certificates are renewed.
    fn tls(&self, authority: &str) -> Result<Arc<rustls::ClientConfig>> {
        let mut roots = RootCertStore::empty();
        let system = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        let system = system.or_else(|| SYSTEM.iter().map(PathBuf::from).find(|p| p.is_file()));
        if let Some(file) = system {
            add(&mut roots, &file)?;
        }
        let own = self.ca_dir.as_ref().map(|dir| dir.join(authority));
        for entry in own
            .iter()
            .filter_map(|dir| std::fs::read_dir(dir).ok())
            .flatten()
            .flatten()
        {
            if entry
                .path()
                .extension()
                .is_some_and(|e| e == "crt" || e == "pem")
            {
                add(&mut roots, &entry.path())?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::Internal(format!("cannot set TLS up: {e}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn add(roots: &mut RootCertStore, file: &Path) -> Result<()> {
    let bad = |e: &dyn std::fmt::Display| {
        Error::Invalid(format!(
            "cannot read the certificates in {}: {e}",
            file.display()
        ))
    };
    for certificate in CertificateDer::pem_file_iter(file).map_err(|e| bad(&e))? {
        // One that is odd does no harm to the others.
        roots.add_parsable_certificates([certificate.map_err(|e| bad(&e))?]);
    }
    Ok(())
}

async fn open<S>(
    stream: S,
    authority: &str,
) -> Result<hyper::client::conn::http1::SendRequest<Full<Bytes>>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| Error::Unavailable(format!("{authority} does not speak HTTP: {e}")))?;
    // Ends when the answer's body was read or dropped.
    tokio::spawn(connection);
    Ok(sender)
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream> {
    let failed = |why: &dyn std::fmt::Display| {
        Error::Unavailable(format!("cannot reach {host}:{port}: {why}"))
    };
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect((host, port)))
        .await
        .map_err(|_| failed(&"it does not answer"))?
        .map_err(|e| failed(&e))?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
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
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
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
