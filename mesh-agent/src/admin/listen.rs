//! Opening the listeners: the unix socket with its manners, and TLS.

use super::config::{AdminError, TlsConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::net::UnixListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{RootCertStore, ServerConfig, crypto::ring::default_provider, server::WebPkiClientVerifier},
};

/// A bound unix socket. Dropping it removes the file, if it is still ours.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    pub(crate) listener: UnixListener,
    pub(crate) path: PathBuf,
    /// Device and inode of the socket file, so that a successor's is left alone.
    identity: (u64, u64),
    /// Held while we live: two agents that start at once cannot both find the other's socket stale.
    _lock: File,
}

impl UnixSocket {
    /// Binds `path` with mode 0600. A socket that nobody answers on is replaced; a live one, or a file that is no
    /// socket, is refused.
    pub(crate) fn bind(path: &Path) -> Result<UnixSocket, AdminError> {
        let fail = |problem: String| AdminError::Unix { path: path.to_owned(), problem };
        let system = |what: &str, e: &io::Error| fail(format!("{what}: {e}"));
        // sun_path has 108 bytes, the closing zero included, and the temporary name is 4 longer.
        if path.as_os_str().len() > 103 {
            return Err(fail("the path is too long for a unix socket: use at most 103 bytes".to_owned()));
        }
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            fs::create_dir_all(folder)
                .map_err(|e| system(&format!("cannot make the folder {}", folder.display()), &e))?;
        }
        let lock_path = with_suffix(path, ".lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(|e| system(&format!("cannot write {}", lock_path.display()), &e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(fail(IN_USE.to_owned())),
            Err(TryLockError::Error(e)) => return Err(system("cannot lock", &e)),
        }
        match fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(system("cannot look at it", &e)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(fail("there is a file that is no socket: move it away".to_owned()));
            }
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => return Err(fail(IN_USE.to_owned())),
                // Nobody listens: its agent is dead.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
                // Whoever owns it may live, as when it is another user's.
                Err(e) => return Err(system("there is a socket that cannot be tried", &e)),
            },
        }
        // Bound under another name and renamed once its mode is right: nobody else can connect in between, and
        // a stale socket is replaced in one step.
        let temporary = with_suffix(path, ".new");
        let _ = fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary).map_err(|e| system("cannot bind", &e))?;
        let ready = fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::symlink_metadata(&temporary))
            .and_then(|m| fs::rename(&temporary, path).map(|()| (m.dev(), m.ino())));
        match ready {
            Ok(identity) => Ok(UnixSocket { listener, path: path.to_owned(), identity, _lock: lock }),
            Err(e) => {
                let _ = fs::remove_file(&temporary);
                Err(system("cannot put it in place", &e))
            }
        }
    }
}

const IN_USE: &str = "another agent answers there: stop it, or give this one another path";

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Reads the PEM files and makes the acceptor.
pub(crate) fn tls(config: &TlsConfig) -> Result<TlsAcceptor, AdminError> {
    let fail = |field: &'static str, path: &Path, problem: String| AdminError::File {
        field,
        path: path.to_owned(),
        problem,
    };
    let certs = |field: &'static str, path: &Path| -> Result<Vec<CertificateDer<'static>>, AdminError> {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let list = read.map_err(|e| fail(field, path, e.to_string()))?;
        if list.is_empty() {
            return Err(fail(field, path, "holds no PEM certificate".to_owned()));
        }
        Ok(list)
    };
    let chain = certs("admin.tls.cert", &config.cert)?;
    let key = PrivateKeyDer::from_pem_file(&config.key)
        .map_err(|e| fail("admin.tls.key", &config.key, e.to_string()))?;
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| fail("admin.tls.cert", &config.cert, e.to_string()))?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let field = "admin.tls.client_ca";
            let mut roots = RootCertStore::empty();
            for cert in certs(field, path)? {
                roots.add(cert).map_err(|e| fail(field, path, e.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|e| fail(field, path, e.to_string()))?)
        }
    };
    let mut server = builder
        .with_single_cert(chain, key)
        .map_err(|e| fail("admin.tls.key", &config.key, format!("does not fit the certificate: {e}")))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/admin.sock");
        let first = UnixSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(UnixSocket::bind(&path).unwrap_err().to_string().contains("another agent"));
        drop(first);
        assert!(!path.exists());

        // A dead agent's socket: bound once, its listener gone, its file left.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = UnixSocket::bind(&path).unwrap();
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());

        // A successor's socket is not removed.
        fs::remove_file(&path).unwrap();
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(second);
        assert!(path.exists());
        // Live, though it holds no lock.
        assert!(UnixSocket::bind(&path).unwrap_err().to_string().contains("another agent"));
        drop(other);

        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        assert!(UnixSocket::bind(&path).unwrap_err().to_string().contains("no socket"));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn bad_tls_files_name_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let cert = dir.path().join("cert.pem");
        let config = TlsConfig { cert: cert.clone(), key: dir.path().join("key.pem"), client_ca: None };
        let error = tls(&config).err().unwrap().to_string();
        assert!(error.starts_with("admin.tls.cert: "), "{error}");
        fs::write(&cert, "no pem").unwrap();
        assert!(tls(&config).err().unwrap().to_string().contains("no PEM certificate"));
    }
}
