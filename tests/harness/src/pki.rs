//! Certificate authorities, the identities they vouch for, and TLS clients that show one or none.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::scratch;

/// A certificate authority. Its files, and those of what it issued, are gone with the last of them.
pub struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: Arc<TempDir>,
    file: PathBuf,
}

impl Ca {
    /// A new authority. Two of one name do not trust each other.
    pub fn new(name: &str) -> Ca {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, key()).expect("a CA certificate");
        let dir = Arc::new(scratch());
        let file = write(dir.path(), "ca.pem", &issuer.pem());
        Ca { issuer, dir, file }
    }

    /// The certificate of a workload: this SPIFFE id, beside `localhost` and `127.0.0.1`.
    pub fn issue(&self, spiffe_id: &str) -> Identity {
        self.issue_with(&[spiffe_id])
    }

    /// [`Ca::issue`] with any number of URIs, in this order. A workload of SPIFFE has exactly one.
    pub fn issue_with(&self, uris: &[&str]) -> Identity {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("valid names");
        for uri in uris {
            let uri = (*uri).try_into().expect("a URI in ASCII");
            params.subject_alt_names.push(SanType::URI(uri));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = key();
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        // A directory of its own within the authority's, and gone with that.
        let dir = TempDir::new_in(self.dir.path()).expect("a directory in another").keep();
        Identity {
            certificate: write(&dir, "cert.pem", &certificate.pem()),
            key: write(&dir, "key.pem", &key.serialize_pem()),
            name: uris.join(" "),
            der: certificate.der().clone(),
            key_der: key.serialize_der(),
            _dir: self.dir.clone(),
        }
    }

    /// The authority's certificate, in PEM.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A TLS client that trusts this authority's servers alone, and shows `identity` if there is one,
    /// whoever issued it.
    pub fn client(&self, identity: Option<&Identity>) -> ClientTls {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("the CA's own certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS 1.3")
            .with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let key = PrivateKeyDer::Pkcs8(identity.key_der.clone().into());
                let chain = vec![identity.der.clone()];
                config.with_client_auth_cert(chain, key).expect("a key that fits its certificate")
            }
        };
        ClientTls(Arc::new(config))
    }

    /// Envoy's `CommonTlsContext` of a workload that shows `identity` and trusts whom this authority
    /// vouches for.
    pub fn tls_context(&self, identity: &Identity) -> Value {
        json!({
            "tls_certificates": [{
                "certificate_chain": {"filename": identity.certificate},
                "private_key": {"filename": identity.key},
            }],
            "validation_context": {"trusted_ca": {"filename": self.file}},
        })
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ca({})", self.file.display())
    }
}

/// A certificate and its key, in files of the authority's directory.
#[derive(Clone)]
pub struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    name: String,
    der: CertificateDer<'static>,
    key_der: Vec<u8>,
    _dir: Arc<TempDir>,
}

impl Identity {
    /// The certificate, in PEM.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// The private key, in PEM.
    pub fn key(&self) -> &Path {
        &self.key
    }
}

/// Never shows the private part.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.name)
    }
}

/// How a [`Request`](crate::client::Request) goes over TLS. Made by [`Ca::client`].
#[derive(Clone, Debug)]
pub struct ClientTls(pub(crate) Arc<ClientConfig>);

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn write(dir: &Path, name: &str, pem: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, pem)
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    path
}
