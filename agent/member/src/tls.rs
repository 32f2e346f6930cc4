//! TLS between members: version 1.3 only, both ends with a certificate of the cluster's CA, checked by node id and not by
//! address or DNS name. The own certificate can be swapped while everything runs. No session is resumed, so that each
//! connection shows a certificate that is good at that time.

use crate::authority::{self, Peer};
use crate::identity::Identity;
use crate::token;
use crate::world::Clock;
use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError,
    OtherError, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use std::sync::Arc;
use std::time::Duration;
use swarm_api::model::NodeId;
use swarm_api::{Error, Result};

/// What went wrong with a certificate beyond its signature; it travels inside of rustls' error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Mistrust {
    /// The other side is of another cluster.
    #[error("its CA is not the one in the token")]
    OtherCa,
    /// The certificate is not what was expected.
    #[error("its certificate is refused: {0}")]
    Refused(String),
}

fn mistrust(why: Mistrust) -> TlsError {
    TlsError::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

/// Why a handshake was refused by this side, if that is what an I/O error says.
pub(crate) fn mistrusted(error: &std::io::Error) -> Option<Mistrust> {
    let tls = error.get_ref()?.downcast_ref::<TlsError>()?;
    match tls {
        TlsError::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref::<Mistrust>().cloned()
        }
        TlsError::InvalidCertificate(other) => Some(Mistrust::Refused(format!("{other:?}"))),
        _ => None,
    }
}

/// This node's TLS, ready for both directions.
#[derive(Clone)]
pub(crate) struct Tls {
    own: Arc<Own>,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
}

impl Tls {
    pub(crate) fn new(identity: &Identity, clock: &Clock) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from(identity.ca.0.clone()))
            .map_err(|e| internal("read the cluster's CA", &e))?;
        let roots = Arc::new(roots);
        let own = Arc::new(Own(ArcSwap::from_pointee(certified(identity)?)));
        let time = Arc::new(Time(Arc::clone(clock)));

        let inner =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()
                .map_err(|e| internal("check certificates", &e))?;
        let members = Members {
            inner,
            cluster: identity.cluster.clone(),
        };
        let mut server = ServerConfig::builder_with_details(Arc::clone(&provider), time.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| internal("set up TLS", &e))?
            .with_client_cert_verifier(Arc::new(members))
            .with_cert_resolver(own.clone());
        server.alpn_protocols = vec![b"h2".to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;

        let nodes = Nodes {
            roots,
            cluster: identity.cluster.clone(),
            provider: Arc::clone(&provider),
        };
        let mut client = client_builder(provider, time)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(nodes))
            .with_client_cert_resolver(own.clone());
        client.alpn_protocols = vec![b"h2".to_vec()];
        client.resumption = Resumption::disabled();
        Ok(Self {
            own,
            server: Arc::new(server),
            client: Arc::new(client),
        })
    }

    /// New connections show the identity's present certificate.
    pub(crate) fn swap(&self, identity: &Identity) -> Result<()> {
        self.own.0.store(Arc::new(certified(identity)?));
        Ok(())
    }
}

/// TLS for one who is no member yet: only a server of the CA with this hash is spoken to.
pub(crate) fn pinned(ca: [u8; 32], clock: &Clock) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Pinned {
        ca,
        provider: Arc::clone(&provider),
    };
    let mut client = client_builder(provider, Arc::new(Time(Arc::clone(clock))))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    client.resumption = Resumption::disabled();
    Ok(client)
}

fn client_builder(
    provider: Arc<CryptoProvider>,
    time: Arc<Time>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| internal("set up TLS", &e))
}

fn internal(what: &str, e: &dyn std::fmt::Display) -> Error {
    Error::Internal(format!("cannot {what}: {e}"))
}

fn certified(identity: &Identity) -> Result<CertifiedKey> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.0.clone()));
    let key =
        ring::sign::any_supported_type(&key).map_err(|e| internal("use this node's key", &e))?;
    // The CA goes along: who joins knows only its hash.
    let chain =
        [&identity.certificate, &identity.ca].map(|der| CertificateDer::from(der.0.clone()));
    Ok(CertifiedKey::new(chain.to_vec(), key))
}

/// The certificate that this node shows, in both directions.
#[derive(Debug)]
struct Own(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

struct Time(Clock);

impl std::fmt::Debug for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Time")
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(
            (self.0)().0,
        )))
    }
}

/// Which clients are members. One without a certificate gets as far as the guard of the services.
#[derive(Debug)]
struct Members {
    inner: Arc<dyn ClientCertVerifier>,
    cluster: String,
}

impl ClientCertVerifier for Members {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> std::result::Result<ClientCertVerified, TlsError> {
        let verified = self
            .inner
            .verify_client_cert(end_entity, intermediates, now)?;
        authority::read_peer(end_entity, &self.cluster)
            .map_err(|why| mistrust(Mistrust::Refused(why)))?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Which server is the node that was asked for.
#[derive(Debug)]
struct Nodes {
    roots: Arc<RootCertStore>,
    cluster: String,
    provider: Arc<CryptoProvider>,
}

/// Which server is of the cluster that a token is for.
#[derive(Debug)]
struct Pinned {
    ca: [u8; 32],
    provider: Arc<CryptoProvider>,
}

fn of_ca(
    roots: &RootCertStore,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    provider: &CryptoProvider,
) -> std::result::Result<(), TlsError> {
    let algorithms = provider.signature_verification_algorithms.all;
    let parsed = ParsedCertificate::try_from(end_entity)?;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
}

impl Nodes {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> std::result::Result<(), TlsError> {
        of_ca(&self.roots, end_entity, intermediates, now, &self.provider)?;
        let peer = authority::read_peer(end_entity, &self.cluster)
            .map_err(|why| mistrust(Mistrust::Refused(why)))?;
        if name.to_str() == authority::server_name(peer.id) {
            Ok(())
        } else {
            Err(mistrust(Mistrust::Refused(format!(
                "it is node {}'s",
                peer.id
            ))))
        }
    }
}

impl Pinned {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> std::result::Result<(), TlsError> {
        let ca = intermediates
            .iter()
            .find(|c| token::sha256(c) == self.ca)
            .ok_or_else(|| mistrust(Mistrust::OtherCa))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        of_ca(&roots, end_entity, intermediates, now, &self.provider)
    }
}

macro_rules! server_cert_verifier {
    ($verifier:ty, |$this:ident, $end:ident, $rest:ident, $name:ident, $now:ident| $check:expr) => {
        impl ServerCertVerifier for $verifier {
            fn verify_server_cert(
                &self,
                $end: &CertificateDer<'_>,
                $rest: &[CertificateDer<'_>],
                $name: &ServerName<'_>,
                _ocsp_response: &[u8],
                $now: UnixTime,
            ) -> std::result::Result<ServerCertVerified, TlsError> {
                let $this = self;
                $check.map(|()| ServerCertVerified::assertion())
            }

            fn verify_tls12_signature(
                &self,
                message: &[u8],
                cert: &CertificateDer<'_>,
                dss: &DigitallySignedStruct,
            ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
                verify_tls12_signature(
                    message,
                    cert,
                    dss,
                    &self.provider.signature_verification_algorithms,
                )
            }

            fn verify_tls13_signature(
                &self,
                message: &[u8],
                cert: &CertificateDer<'_>,
                dss: &DigitallySignedStruct,
            ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
                verify_tls13_signature(
                    message,
                    cert,
                    dss,
                    &self.provider.signature_verification_algorithms,
                )
            }

            fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
                self.provider
                    .signature_verification_algorithms
                    .supported_schemes()
            }
        }
    };
}

server_cert_verifier!(Nodes, |this, end, rest, name, now| this
    .check(end, rest, name, now));
server_cert_verifier!(Pinned, |this, end, rest, _name, now| this
    .check(end, rest, now));

/// The name to ask a node by.
pub(crate) fn name_of(node: NodeId) -> Result<ServerName<'static>> {
    ServerName::try_from(authority::server_name(node)).map_err(|e| internal("name a node", &e))
}

/// Who a checked certificate is.
pub(crate) fn peer_of(certificates: Option<&[CertificateDer<'_>]>, cluster: &str) -> Option<Peer> {
    authority::read_peer(certificates?.first()?, cluster).ok()
}
