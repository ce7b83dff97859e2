// SPDX-License-Identifier: Apache-2.0
//! Whom an encrypted connection trusts: the system's authorities, those that the caller names, or everybody.
//!
//! Directories of certificates are read as Podman and Docker read them: `*.crt` are authorities, `NAME.cert` with
//! `NAME.key` is the client's own certificate.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::registry::RegistryOptions;
use crate::{Context, Error, ErrorKind, Result};

/// Where distributions keep what they trust, in one file.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where certificates of single registries are, below directories with their names.
const OF_REGISTRIES: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// Largest file of certificates that is read.
const LARGEST: u64 = 16 << 20;

/// What a connection to this registry trusts.
pub(super) fn config(registry: &str, options: &RegistryOptions) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context(|| "prepare TLS")?;
    let mut own = OwnCertificate::default();
    let mut roots = RootCertStore::empty();
    if let Some(file) = &options.ca_file {
        add_roots(&mut roots, file)?;
    }
    if let Some(directory) = &options.cert_dir {
        read_directory(directory, &mut roots, &mut own)?;
    }
    for directory in OF_REGISTRIES.iter().map(|parent| Path::new(parent).join(registry)) {
        if !registry.contains('/') && directory.is_dir() {
            read_directory(&directory, &mut roots, &mut own)?;
        }
    }
    let config = if options.tls_verify {
        add_system_roots(&mut roots)?;
        config.with_root_certificates(roots)
    } else {
        config.dangerous().with_custom_certificate_verifier(Arc::new(TrustsEverybody(provider)))
    };
    let config = match (own.chain, own.key) {
        (Some(chain), Some(key)) => {
            config.with_client_auth_cert(chain, key).context(|| "use the client's certificate")?
        }
        _ => config.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

#[derive(Default)]
struct OwnCertificate {
    chain: Option<Vec<CertificateDer<'static>>>,
    key: Option<PrivateKeyDer<'static>>,
}

fn add_system_roots(roots: &mut RootCertStore) -> Result<()> {
    let named = std::env::var_os("SSL_CERT_FILE").filter(|name| !name.is_empty()).map(PathBuf::from);
    let found = named.or_else(|| BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file()));
    // Without any, a registry may still have one that the caller has named.
    found.map_or(Ok(()), |bundle| add_roots(roots, &bundle))
}

/// A certificate that TLS cannot use is left out: bundles have such.
fn add_roots(roots: &mut RootCertStore, path: &Path) -> Result<()> {
    let certificates = certificates(path)?;
    roots.add_parsable_certificates(certificates);
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = read(path)?;
    let parsed: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let parsed = parsed.ok().filter(|certificates| !certificates.is_empty());
    parsed.ok_or_else(|| {
        let message = format!("{} holds no certificates in the form PEM", path.display());
        Error::new(ErrorKind::InvalidInput, message)
    })
}

fn read_directory(directory: &Path, roots: &mut RootCertStore, own: &mut OwnCertificate) -> Result<()> {
    let attempt = || format!("read the certificates in {}", directory.display());
    let entries = fs::read_dir(directory).context(attempt)?;
    let paths: std::io::Result<Vec<PathBuf>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.context(attempt)?;
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => add_roots(roots, &path)?,
            Some("cert") => {
                let key = path.with_extension("key");
                let bytes = read(&key)?;
                let parsed = PrivateKeyDer::from_pem_slice(&bytes);
                own.key = Some(parsed.context_kind(ErrorKind::InvalidInput, || {
                    format!("understand the private key {}", key.display())
                })?);
                own.chain = Some(certificates(&path)?);
            }
            _ => {}
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let what = || format!("read {}", path.display());
    let length = fs::metadata(path).context(what)?.len();
    if length > LARGEST {
        return Err(Error::new(ErrorKind::InvalidInput, format!("{} is too large", path.display())));
    }
    fs::read(path).context(what)
}

/// For `--tls-verify=false`: any certificate will do, as long as the peer has its key.
#[derive(Debug)]
struct TrustsEverybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustsEverybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
