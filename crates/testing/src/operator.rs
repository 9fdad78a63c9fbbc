//! Decentralised accounts: [`Operator`].

use nkeys::KeyPair;

/// An operator with one account, whose users log in with credentials files. It does what `nsc` does.
#[derive(Debug)]
pub struct Operator {
    operator: KeyPair,
    account: KeyPair,
}

impl Operator {
    /// An operator and an account with keys of their own.
    #[expect(clippy::new_without_default, reason = "no two are the same")]
    pub fn new() -> Self {
        Self { operator: KeyPair::new_operator(), account: KeyPair::new_account() }
    }

    /// What a server's configuration file says so that it takes users of this operator, and nobody else.
    pub fn server_config(&self) -> String {
        let operator = token(&self.operator, &self.operator, r#""type":"operator","version":2"#);
        let limits = r#""subs":-1,"data":-1,"payload":-1,"imports":-1,"exports":-1,"wildcards":true,"conn":-1,"leaf":-1"#;
        let claims = format!(r#""type":"account","version":2,"limits":{{{limits}}}"#);
        let account = token(&self.account, &self.operator, &claims);
        let account_key = self.account.public_key();
        format!("operator: {operator}\nresolver: MEMORY\nresolver_preload: {{ {account_key}: {account} }}\n")
    }

    /// The text of a credentials file for a new user of the account.
    ///
    /// # Panics
    ///
    /// When no key can be made.
    pub fn credentials(&self) -> String {
        let user = KeyPair::new_user();
        let claims = r#""type":"user","version":2,"subs":-1,"data":-1,"payload":-1"#;
        let token = token(&user, &self.account, claims);
        let seed = user.seed().expect("a new key has its seed");
        format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }
}

/// What `issuer` says about `subject`, signed.
fn token(subject: &KeyPair, issuer: &KeyPair, claims: &str) -> String {
    let header = base64(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let (issued_by, about) = (issuer.public_key(), subject.public_key());
    let payload = format!(
        r#"{{"jti":"{about}","iat":1700000000,"iss":"{issued_by}","name":"test","sub":"{about}","nats":{{{claims}}}}}"#
    );
    let signed = format!("{header}.{}", base64(payload.as_bytes()));
    let signature = issuer.sign(signed.as_bytes()).expect("a key signs");
    format!("{signed}.{}", base64(&signature))
}

/// Base64 in the alphabet for URLs, without padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, index| bits << 8 | chunk.get(index).copied().map_or(0, usize::from));
        let sextets = (0..=chunk.len()).map(|index| bits >> (18 - 6 * index) & 63);
        text.extend(sextets.map(|sextet| char::from(ALPHABET[sextet])));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_urls() {
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg"), (b"fo", "Zm8"), (b"foo", "Zm9v"), (b"\xfb\xff\xfe", "-__-")]
        {
            assert_eq!(base64(bytes), text);
        }
    }
}
