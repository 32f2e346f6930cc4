//! Connections to registries: straight or by a proxy, with TLS or without, and what is trusted.

use super::proxy::Proxy;
use super::{Http, authority_of, no_address, place};
use crate::registry::credentials::basic;
use http::Uri;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use swarm_api::{Error, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What a connection and the TLS handshake may take.
const CONNECT: Duration = Duration::from_secs(10);
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);
/// The longest answer of a proxy to CONNECT.
const LONGEST_HEAD: usize = 16 << 10;

/// Where distributions keep the certificates that they trust.
const SYSTEM: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Bytes in both directions.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
pub(super) type Io = Box<dyn Stream>;

pub(super) enum Handshake {
    Done(Box<TlsStream<Io>>),
    /// The other side knows no TLS.
    NoTls(String),
    Refused(Error),
}

impl Http {
    /// A connection to a host: by a tunnel of the proxy that leads there, if one does.
    pub(super) async fn reach(&self, host: &str, port: u16) -> Result<Io> {
        let Some(proxy) = self.proxies.to(true, host, port) else {
            return Ok(Box::new(tcp(host, port).await?));
        };
        let stream = self.reach_proxy(proxy).await?;
        let tunnel = tokio::time::timeout(HANDSHAKE, tunnel(stream, proxy, host, port)).await;
        tunnel.unwrap_or_else(|_| {
            Err(Error::Unavailable(format!(
                "the proxy {} does not answer",
                authority_of(&proxy.uri)
            )))
        })
    }

    /// A connection to a proxy.
    pub(super) async fn reach_proxy(&self, proxy: &Proxy) -> Result<Io> {
        let of = |e: Error| e.context("the proxy of swarmd's environment");
        let (host, port) = place(&proxy.uri)?;
        let stream = Box::new(tcp(&host, port).await.map_err(of)?);
        if proxy.uri.scheme_str() != Some("https") {
            return Ok(stream);
        }
        match self.handshake(stream, &proxy.uri, &host, HANDSHAKE).await {
            Handshake::Done(stream) => Ok(stream),
            Handshake::NoTls(why) => Err(of(Error::Unavailable(format!(
                "{host} does not speak TLS: {why}"
            )))),
            Handshake::Refused(why) => Err(of(why)),
        }
    }

    pub(super) async fn handshake(
        &self,
        stream: Io,
        uri: &Uri,
        host: &str,
        limit: Duration,
    ) -> Handshake {
        let authority = authority_of(uri);
        let attempt = || {
            let config = self.tls(authority)?;
            let name = ServerName::try_from(host.to_owned()).map_err(|_| no_address(host))?;
            Ok::<_, Error>((TlsConnector::from(config), name))
        };
        let (connector, name) = match attempt() {
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

pub(super) async fn tcp(host: &str, port: u16) -> Result<TcpStream> {
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

/// Has a proxy lead to a host (RFC 9110, CONNECT).
async fn tunnel(mut stream: Io, proxy: &Proxy, host: &str, port: u16) -> Result<Io> {
    let name = authority_of(&proxy.uri);
    let failed = |why: &dyn std::fmt::Display| {
        Error::Unavailable(format!(
            "the proxy {name} does not lead to {host}:{port}: {why}"
        ))
    };
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
    if let Some((user, password)) = &proxy.login {
        let login = basic(user, password)?;
        let login = login.to_str().unwrap_or_default();
        request.push_str(&format!("Proxy-Authorization: {login}\r\n"));
    }
    request.push_str("\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(|e| failed(&e))?;
    stream.flush().await.map_err(|e| failed(&e))?;
    let mut head = Vec::new();
    // One by one: what comes after it is the host's.
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.map_err(|e| failed(&e))?);
        if head.len() > LONGEST_HEAD {
            return Err(failed(&"its answer has no end"));
        }
    }
    let line = String::from_utf8_lossy(&head);
    let line = line.lines().next().unwrap_or_default();
    let status = line.split(' ').nth(1).and_then(|s| s.parse::<u16>().ok());
    match status {
        Some(200..=299) => Ok(stream),
        Some(407) => Err(Error::Denied(format!(
            "the proxy {name} wants another user or password; write them into the variable, http://USER:PASSWORD@{name}"
        ))),
        _ => Err(failed(
            &line
                .chars()
                .filter(|c| !c.is_control())
                .take(100)
                .collect::<String>(),
        )),
    }
}
