//! Certificates of a test's own: [`Authority`].

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;

/// An authority, and the files of those it certifies, until it is dropped.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    /// An authority with a key of its own.
    ///
    /// # Panics
    ///
    /// As everything here, when a file cannot be written.
    #[expect(clippy::new_without_default, reason = "no two are the same")]
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority certifies itself");
        let directory = tempfile::tempdir().expect("a temporary directory can be created");
        let authority = Self { issuer, directory };
        fs::write(authority.ca(), authority.issuer.pem()).expect("the certificate can be written");
        authority
    }

    /// The file of its own certificate.
    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// The files of a certificate for `name`, valid until the year `until`, and of its key.
    pub fn certify(&self, name: &str, until: i32) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new([name.to_owned()]).expect("the name is valid");
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority certifies");
        let paths = ["cert", "key"].map(|kind| self.directory.path().join(format!("{name}-{until}.{kind}")));
        fs::write(&paths[0], certificate.pem()).expect("the certificate can be written");
        fs::write(&paths[1], key.serialize_pem()).expect("the key can be written");
        paths.into()
    }
}
