//! How a connection proves who it is: [`Login`].

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use async_nats::Auth;
use fshipper_pipeline::config::Secret;
use fshipper_pipeline::read_named_file;
use nkeys::KeyPair;

/// One way to log in. What stands in files is read for every connection, so that replaced credentials count
/// from the next one on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Login {
    /// Without.
    Anonymous,
    /// A user name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token.
    Token(Secret),
    /// The seed of a user's nkey.
    Seed(Secret),
    /// A file with such a seed.
    SeedFile(PathBuf),
    /// A credentials file: a JWT and the seed that belongs to it.
    Creds(PathBuf),
}

/// A file with more is something else, named by mistake.
const MAX_FILE_BYTES: u64 = 1 << 20;

impl Login {
    /// The nkey that `text` is, or the file that it names.
    pub(super) fn nkey(text: &Secret) -> Self {
        match KeyPair::from_seed(text.reveal()) {
            Ok(_) => Self::Seed(text.clone()),
            Err(_) => Self::SeedFile(text.reveal().into()),
        }
    }

    /// Whether the files are there and make sense.
    ///
    /// # Errors
    ///
    /// Says what is wrong, without a final period and without a secret.
    pub(super) fn check(&self) -> Result<(), String> {
        self.answer(b"").map(drop)
    }

    /// What to answer to the server's challenge. Reads small local files, so it may block for a moment.
    ///
    /// # Errors
    ///
    /// As [`Login::check`].
    pub(super) fn answer(&self, challenge: &[u8]) -> Result<Auth, String> {
        let mut auth = Auth::new();
        match self {
            Self::Anonymous => {}
            Self::Password { user, password } => {
                auth.username = Some(user.clone());
                auth.password = Some(password.reveal().to_owned());
            }
            Self::Token(token) => auth.token = Some(token.reveal().to_owned()),
            Self::Seed(seed) => sign_with_nkey(&mut auth, seed.reveal(), challenge)?,
            Self::SeedFile(path) => {
                // The path may be a mistyped seed, so it is not shown.
                let text = read(path).map_err(|error| {
                    format!("it is neither the seed of an nkey nor the path of a readable file ({error})")
                })?;
                let seed = text.lines().map(str::trim).find(|line| line.starts_with("SU"));
                let seed = seed.ok_or("the file that it names holds no seed of a user's nkey")?;
                sign_with_nkey(&mut auth, seed, challenge)?;
            }
            Self::Creds(path) => {
                let shown = path.display();
                let text = read(path).map_err(|error| format!("cannot read `{shown}`: {error}"))?;
                let jwt = block(&text, "JWT").ok_or_else(|| format!("`{shown}` holds no user JWT"))?;
                let seed = block(&text, "SEED").ok_or_else(|| format!("`{shown}` holds no nkey seed"))?;
                auth.jwt = Some(jwt.to_owned());
                auth.signature = Some(sign(&key_pair(seed)?, challenge)?);
            }
        }
        Ok(auth)
    }
}

fn sign_with_nkey(auth: &mut Auth, seed: &str, challenge: &[u8]) -> Result<(), String> {
    let key_pair = key_pair(seed)?;
    auth.nkey = Some(key_pair.public_key());
    auth.signature = Some(sign(&key_pair, challenge)?);
    Ok(())
}

fn key_pair(seed: &str) -> Result<KeyPair, String> {
    KeyPair::from_seed(seed).map_err(|error| format!("the nkey seed is damaged: {error}"))
}

fn sign(key_pair: &KeyPair, challenge: &[u8]) -> Result<Vec<u8>, String> {
    key_pair.sign(challenge).map_err(|error| format!("cannot sign with the nkey: {error}"))
}

fn read(path: &Path) -> std::io::Result<String> {
    let bytes = read_named_file(path, MAX_FILE_BYTES).map_err(|error| match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::FileTooLarge | ErrorKind::IsADirectory => {
            Error::new(error.kind(), format!("{error}: name a file of credentials"))
        }
        _ => error,
    })?;
    String::from_utf8(bytes).map_err(|_| Error::new(ErrorKind::InvalidData, "it is no text"))
}

/// The line after the one that begins the block of this `kind`, as in `-----BEGIN USER NKEY SEED-----`.
fn block<'a>(text: &'a str, kind: &str) -> Option<&'a str> {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.starts_with("---") && line.contains("BEGIN") && line.contains(kind))?;
    lines.next().filter(|line| !line.is_empty() && !line.starts_with("---"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn creds(seed: &str) -> String {
        format!(
            "-----BEGIN NATS USER JWT-----\nheader.claims.signature\n------END NATS USER JWT------\n\n\
             ****** IMPORTANT ******\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }

    #[test]
    fn an_nkey_is_a_seed_or_the_path_of_one() {
        let seed = KeyPair::new_user().seed().unwrap();
        assert_eq!(Login::nkey(&Secret::new(&seed)), Login::Seed(Secret::new(&seed)));

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("# web1\n{seed}\n")).unwrap();
        let login = Login::nkey(&Secret::new(file.path().to_str().unwrap()));
        assert_eq!(login, Login::SeedFile(file.path().to_owned()));
        let public_key = KeyPair::from_seed(&seed).unwrap().public_key();
        assert_eq!(login.answer(b"nonce").unwrap().nkey, Some(public_key));
    }

    #[test]
    fn a_mistyped_seed_is_not_shown() {
        let mut seed = KeyPair::new_user().seed().unwrap();
        seed.pop();
        let error = Login::nkey(&Secret::new(&seed)).check().unwrap_err();
        assert!(error.contains("neither the seed"), "{error}");
        assert!(!error.contains(&seed), "{error}");
    }

    #[test]
    fn credentials_are_read_again_for_every_connection() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let login = Login::Creds(file.path().to_owned());
        assert!(login.check().unwrap_err().contains("no user JWT"));

        for _ in 0..2 {
            let key_pair = KeyPair::new_user();
            std::fs::write(file.path(), creds(&key_pair.seed().unwrap())).unwrap();
            let auth = login.answer(b"nonce").unwrap();
            assert_eq!(auth.jwt.as_deref(), Some("header.claims.signature"));
            key_pair.verify(b"nonce", &auth.signature.unwrap()).unwrap();
        }
    }

    #[test]
    fn what_is_no_file_of_credentials_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let (fifo, huge) = (folder.path().join("fifo"), folder.path().join("huge"));
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        std::fs::File::create(&huge).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        for (path, said) in [
            (Path::new("/dev/zero"), "it is a device, not a regular file: name a file of credentials"),
            (&fifo, "it is a FIFO, not a regular file: name a file of credentials"),
            (folder.path(), "it is a directory: name a file of credentials"),
            (&huge, "it holds more than 1048576 bytes: name a file of credentials"),
        ] {
            let error = Login::Creds(path.to_owned()).check().unwrap_err();
            assert_eq!(error, format!("cannot read `{}`: {said}", path.display()));
            let error = Login::SeedFile(path.to_owned()).check().unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_missing_credentials_file_is_named() {
        let error = Login::Creds("/nowhere/nats.creds".into()).check().unwrap_err();
        assert!(error.contains("`/nowhere/nats.creds`"), "{error}");
    }
}
