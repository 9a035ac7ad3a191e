//! Who may speak: TLS 1.3 with certificates that each end knows beforehand. There is no authority
//! and no name to check: exactly the certificates listed are believed, byte for byte, and both ends
//! prove that they hold the private key.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{ClientConfig, Resumption};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{NoServerSessionStorage, ServerConfig};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// The name in every certificate; trust does not depend on it.
const NAME: &str = "twinlun";

#[derive(Debug, Error)]
pub enum TlsError {
    #[error("{path}: {source}; `twinlun certificate {path}` makes a key", path = path.display())]
    Key { path: PathBuf, source: io::Error },
    #[error("{path} can be read by others (mode {mode:o}); it holds a private key: chmod 600 {path}, or replace it with `twinlun certificate --replace {path}` if somebody may have", path = path.display())]
    Mode { path: PathBuf, mode: u32 },
    #[error("{path} is no PEM file of the expected kind: {why}", path = path.display())]
    Pem { path: PathBuf, why: String },
    #[error("{path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("a key cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Own key and certificate, and the certificates that are believed.
#[derive(Clone, Debug)]
pub struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Tls {
    /// # Errors
    /// Files that are missing, open to others or no PEM: by name, with advice.
    pub fn open(key: &Path, trust: &[PathBuf]) -> Result<Self, TlsError> {
        let (text, own) = read_key(key)?;
        let bad =
            |why: rustls::pki_types::pem::Error| TlsError::Pem { path: key.to_owned(), why: why.to_string() };
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(bad)?;
        let mut trusted = Vec::new();
        for path in trust {
            let text = fs::read(path).map_err(|source| TlsError::File { path: path.clone(), source })?;
            trusted.push(certificate_in(path, &text)?);
        }
        let provider = Arc::new(ring::default_provider());
        let pinned = Arc::new(Pinned { trusted, provider: Arc::clone(&provider) });
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<Pinned>::clone(&pinned))
            .with_client_auth_cert(vec![own.clone()], key.clone_key())?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(pinned)
            .with_single_cert(vec![own], key)?;
        // Every connection proves itself anew.
        client.resumption = Resumption::disabled();
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }

    /// # Errors
    /// The handshake's: among them a certificate that is not trusted. Unbounded in time.
    pub async fn connect(&self, stream: TcpStream) -> io::Result<client::TlsStream<TcpStream>> {
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.client)).connect(name, stream).await
    }

    /// # Errors
    /// As [`Self::connect`].
    pub async fn accept(&self, stream: TcpStream) -> io::Result<server::TlsStream<TcpStream>> {
        TlsAcceptor::from(Arc::clone(&self.server)).accept(stream).await
    }
}

/// The key file's text and its certificate.
fn read_key(path: &Path) -> Result<(String, CertificateDer<'static>), TlsError> {
    let failed = |source| TlsError::Key { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TlsError::Mode { path: path.to_owned(), mode });
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    let own = certificate_in(path, text.as_bytes())?;
    Ok((text, own))
}

fn certificate_in(path: &Path, text: &[u8]) -> Result<CertificateDer<'static>, TlsError> {
    CertificateDer::from_pem_slice(text)
        .map_err(|why| TlsError::Pem { path: path.to_owned(), why: why.to_string() })
}

/// Makes the key file unless it is there (or in its place), and returns the certificate as PEM.
///
/// # Errors
/// A file that is open to others or no key; the system's.
pub fn certificate(path: &Path, replace: bool) -> Result<String, TlsError> {
    if replace || !path.exists() {
        let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
        let failed = |source| TlsError::File { path: path.to_owned(), source };
        // Beside it first: a crash leaves the old key or the new one, never half of one.
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).map_err(failed)?;
        let text = made.signing_key.serialize_pem() + &made.cert.pem();
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&beside, path).map_err(failed)?;
    }
    let (text, _) = read_key(path)?;
    // Read above as a certificate: the marker is there. The private key before it is left out.
    let begin = text.find("-----BEGIN CERTIFICATE-----").unwrap_or(text.len());
    Ok(text[begin..].to_owned())
}

/// Believes exactly the listed certificates, whatever they say about names and dates.
#[derive(Debug)]
struct Pinned {
    trusted: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn check(&self, shown: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        if self.trusted.iter().any(|trusted| trusted == shown) {
            return Ok(());
        }
        Err(rustls::Error::General("the other end's certificate is not listed in tls.trust".into()))
    }

    fn signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, shown, signed, &self.provider.signature_verification_algorithms)
    }
}

/// TLS 1.2 is not offered.
fn too_old() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken here".into())
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(shown).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(shown).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn end(directory: &Path, own: &str, trusted: &str) -> Tls {
        let key = directory.join(own);
        certificate(&key, false).unwrap();
        let trust = directory.join(format!("{trusted}.pem"));
        fs::write(&trust, certificate(&directory.join(trusted), false).unwrap()).unwrap();
        Tls::open(&key, &[trust]).unwrap()
    }

    /// What the listening end says of a caller.
    async fn meet(listening: Tls, calling: Tls) -> io::Result<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let caller = tokio::spawn(async move {
            let mut stream = calling.connect(TcpStream::connect(address).await?).await?;
            stream.write_all(&[7]).await?;
            stream.flush().await?;
            stream.read_u8().await
        });
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = listening.accept(stream).await?;
        let heard = stream.read_u8().await?;
        stream.write_all(&[heard]).await?;
        stream.flush().await?;
        caller.await.unwrap()
    }

    #[tokio::test]
    async fn only_the_listed_certificates_are_believed_by_either_end() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        assert_eq!(meet(end(at, "w", "a"), end(at, "a", "w")).await.unwrap(), 7);
        let stranger = meet(end(at, "w", "a"), end(at, "x", "w")).await.unwrap_err();
        assert!(stranger.to_string().contains("tls.trust"), "{stranger}");
        // The caller refuses a false listener too.
        assert!(meet(end(at, "x", "a"), end(at, "a", "w")).await.is_err());
    }

    #[test]
    fn a_key_is_made_once_kept_private_and_replaced_when_asked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("own.key");
        let first = certificate(&path, false).unwrap();
        assert!(!first.contains("PRIVATE"), "{first}");
        assert_eq!(certificate(&path, false).unwrap(), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_ne!(certificate(&path, true).unwrap(), first);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(certificate(&path, false).unwrap_err().to_string().contains("chmod 600"));
    }
}
