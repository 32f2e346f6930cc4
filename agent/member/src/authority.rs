//! The cluster's CA, and what a certificate says. Pure but for key generation: times are handed in.
//!
//! A certificate's subject is `O=cluster, OU=manager|worker, CN=node id`; the node id is that of its key.

use crate::identity::Blob;
use crate::token;
use crate::world::World;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SanType, SerialNumber, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use std::time::Duration;
use swarm_api::model::{NodeId, NodeRole, Timestamp};
use swarm_api::{Error, Result};
use x509_parser::prelude::{FromDer, X509Certificate};

const CA_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Certificates are good from this long before they are made, for hosts whose clocks are behind.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);

/// Who is at the other end, as its certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    pub(crate) role: NodeRole,
}

/// Signs certificates.
pub(crate) struct Authority {
    cluster: String,
    issuer: Issuer<'static, KeyPair>,
}

fn cannot(what: &'static str) -> impl Fn(rcgen::Error) -> Error {
    move |e| Error::Internal(format!("cannot {what}: {e}"))
}

fn subject(cluster: &str, unit: &str, name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, cluster);
    subject.push(DnType::OrganizationalUnitName, unit);
    subject.push(DnType::CommonName, name);
    subject
}

fn lasting(params: &mut CertificateParams, now: Timestamp, life: Duration) {
    let start = date_time_ymd(1970, 1, 1) + Duration::from_secs(now.0 / 1000);
    params.not_before = start - BACKDATED;
    params.not_after = start + life;
}

/// What comes before the 32 random bytes that are an Ed25519 key, in its PKCS #8 form (RFC 8410, section 7).
const ED25519: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// A new key: Ed25519, PKCS #8. Its signatures need no random numbers and have one length.
pub(crate) fn new_key(world: &World) -> Result<(KeyPair, Blob)> {
    let mut der = ED25519.to_vec();
    der.extend(world.random::<32>()?);
    let der = Blob(der);
    Ok((open_key(&der)?, der))
}

pub(crate) fn open_key(der: &Blob) -> Result<KeyPair> {
    KeyPair::try_from(&PrivatePkcs8KeyDer::from(der.0.as_slice()))
        .map_err(cannot("read a private key"))
}

/// The identity that follows from a public key (its SubjectPublicKeyInfo, DER). Never 0, which is no node.
pub(crate) fn node_id(spki: &[u8]) -> NodeId {
    let mut first = [0; 8];
    first.copy_from_slice(&token::sha256(spki)[..8]);
    NodeId(u64::from_be_bytes(first).max(1))
}

/// A certificate request, signed with `key`.
pub(crate) fn request(key: &KeyPair) -> Result<Vec<u8>> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params
        .serialize_request(key)
        .map_err(cannot("make a certificate request"))?;
    Ok(csr.der().to_vec())
}

impl Authority {
    /// A new CA: its certificate and its key.
    pub(crate) fn found(cluster: &str, now: Timestamp, world: &World) -> Result<(Blob, Blob)> {
        let (key, der) = new_key(world)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(cluster, "ca", "swarm CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial(world)?);
        lasting(&mut params, now, CA_LIFE);
        let certificate = params
            .self_signed(&key)
            .map_err(cannot("make the cluster's CA"))?;
        Ok((Blob(certificate.der().to_vec()), der))
    }

    pub(crate) fn open(cluster: &str, ca: &Blob, key: &Blob) -> Result<Self> {
        let issuer =
            Issuer::from_ca_cert_der(&CertificateDer::from(ca.0.as_slice()), open_key(key)?)
                .map_err(cannot("read the cluster's CA"))?;
        Ok(Self {
            cluster: cluster.to_owned(),
            issuer,
        })
    }

    /// Makes a certificate for the key of a request. Nothing else of the request is believed.
    pub(crate) fn sign(
        &self,
        csr: &[u8],
        role: NodeRole,
        now: Timestamp,
        life: Duration,
        world: &World,
    ) -> Result<(NodeId, Blob)> {
        let csr =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
                .map_err(|e| {
                    Error::Invalid(format!("the certificate request cannot be used: {e}"))
                })?;
        // Nodes of earlier versions have keys of the second kind.
        if ![&PKCS_ED25519, &PKCS_ECDSA_P256_SHA256].contains(&csr.public_key.algorithm()) {
            return Err(Error::Invalid(
                "the certificate request cannot be used: its key is neither Ed25519 nor ECDSA P-256".into(),
            ));
        }
        let id = node_id(&csr.public_key.subject_public_key_info());
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(&self.cluster, unit(role), &id.to_string());
        let name = server_name(id)
            .try_into()
            .map_err(cannot("make a certificate"))?;
        params.subject_alt_names = vec![SanType::DnsName(name)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial(world)?);
        lasting(&mut params, now, life);
        let certificate = params
            .signed_by(&csr.public_key, &self.issuer)
            .map_err(cannot("sign a certificate"))?;
        Ok((id, Blob(certificate.der().to_vec())))
    }
}

fn serial(world: &World) -> Result<SerialNumber> {
    let mut bytes = world.random::<16>()?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

fn unit(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Manager => "manager",
        NodeRole::Worker => "worker",
    }
}

/// The name by which TLS asks for a node: not an address, and looked up nowhere.
pub(crate) fn server_name(id: NodeId) -> String {
    format!("{id}.swarm")
}

/// What a certificate says, once its signature is known to be the CA's. `Err` says what is wrong with it.
pub(crate) fn read_peer(certificate: &[u8], cluster: &str) -> std::result::Result<Peer, String> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|e| format!("it cannot be read: {e}"))?;
    let subject = certificate.subject();
    let text = |values: Vec<&x509_parser::x509::AttributeTypeAndValue<'_>>| match values[..] {
        [value] => value.as_str().ok().map(str::to_owned),
        _ => None,
    };
    let organization = text(subject.iter_organization().collect());
    if organization.as_deref() != Some(cluster) {
        return Err(format!(
            "it is of another cluster ({})",
            organization.unwrap_or_default()
        ));
    }
    let role = match text(subject.iter_organizational_unit().collect()).as_deref() {
        Some("manager") => NodeRole::Manager,
        Some("worker") => NodeRole::Worker,
        other => return Err(format!("it says no role that is known ({other:?})")),
    };
    let id = node_id(certificate.public_key().raw);
    if text(subject.iter_common_name().collect()) != Some(id.to_string()) {
        return Err("its name is not that of its key".into());
    }
    Ok(Peer { id, role })
}

/// From when to when a certificate is good.
pub(crate) fn validity(certificate: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let time = |t: x509_parser::time::ASN1Time| {
        Timestamp(
            u64::try_from(t.timestamp())
                .unwrap_or(0)
                .saturating_mul(1000),
        )
    };
    Some((
        time(certificate.validity().not_before),
        time(certificate.validity().not_after),
    ))
}

/// Whether two thirds of a certificate's life are over.
pub(crate) fn due_for_renewal(certificate: &[u8], now: Timestamp) -> bool {
    validity(certificate).is_none_or(|(from, until)| until.since(now) < until.since(from) / 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_certificate_says_who_and_what_and_is_bound_to_its_key() {
        let (world, now) = (World::system(""), Timestamp(1_800_000_000_000));
        let (ca, ca_key) = Authority::found("cluster", now, &world).unwrap();
        let authority = Authority::open("cluster", &ca, &ca_key).unwrap();
        let (key, der) = new_key(&world).unwrap();
        let csr = request(&open_key(&der).unwrap()).unwrap();
        let (id, certificate) = authority
            .sign(&csr, NodeRole::Worker, now, 90 * DAY, &world)
            .unwrap();
        assert_eq!(id, node_id(&key.subject_public_key_info()));
        let peer = read_peer(&certificate.0, "cluster").unwrap();
        assert_eq!(
            peer,
            Peer {
                id,
                role: NodeRole::Worker
            }
        );
        assert!(read_peer(&certificate.0, "other").is_err());
        assert!(!due_for_renewal(&certificate.0, now));
        assert!(!due_for_renewal(&certificate.0, now.plus(55 * DAY)));
        assert!(due_for_renewal(&certificate.0, now.plus(61 * DAY)));
        let mut forged = csr.clone();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert!(
            authority
                .sign(&forged, NodeRole::Manager, now, DAY, &world)
                .is_err()
        );
    }
}
