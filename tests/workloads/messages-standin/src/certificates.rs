//! An authority and a certificate, made anew at every start.

use anyhow::{Context, Result};
use openssl::pkey::PKey;
use openssl::ssl::{SslAcceptor, SslAcceptorBuilder, SslMethod};
use openssl::x509::X509;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// The names that the certificate is valid for.
const NAMES: &[&str] = &["api.anthropic.com", "localhost", "127.0.0.1"];

/// What was issued.
pub struct Issued {
    /// The authority's certificate, for clients to trust.
    pub authority_pem: String,
    certificate_pem: String,
    key_pem: String,
}

/// Issues a certificate by an authority of its own.
pub fn issue() -> Result<Issued> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(DnType::CommonName, "Messages stand-in authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority_key = KeyPair::generate()?;
    let authority = authority.self_signed(&authority_key)?;

    let names = NAMES.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let mut certificate = CertificateParams::new(names)?;
    certificate.distinguished_name.push(DnType::CommonName, "Messages stand-in");
    certificate.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    certificate.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = certificate.signed_by(&key, &authority, &authority_key)?;
    Ok(Issued {
        authority_pem: authority.pem(),
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    })
}

impl Issued {
    /// The server's side of TLS with this certificate.
    pub fn acceptor(&self) -> Result<SslAcceptorBuilder> {
        let mut acceptor =
            SslAcceptor::mozilla_modern_v5(SslMethod::tls_server()).context("setting up TLS")?;
        acceptor.set_certificate(&*X509::from_pem(self.certificate_pem.as_bytes())?)?;
        acceptor.set_private_key(&*PKey::private_key_from_pem(self.key_pem.as_bytes())?)?;
        acceptor.check_private_key()?;
        Ok(acceptor)
    }
}
