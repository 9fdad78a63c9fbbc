//! A context of the `nats` command line tool: [`CliContext`].

use std::path::PathBuf;

use fshipper_pipeline::config::{Environment, Secret};
use fshipper_pipeline::read_named_file;
use serde::Deserialize;

use super::config::Tls;
use super::login::Login;

/// The tool writes about a kilobyte.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What a context says of the connection. Fields without meaning for it are passed over.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct CliContext {
    /// Servers, comma separated.
    pub(super) url: String,
    /// Where replies are expected; empty for the usual place.
    pub(super) inbox_prefix: String,
    /// Whether the server expects TLS from the first byte on.
    pub(super) tls_first: bool,
    user: String,
    password: String,
    token: String,
    creds: String,
    nkey: String,
    cert: String,
    key: String,
    ca: String,
    nsc: String,
    user_jwt: String,
    user_seed: String,
    jetstream_domain: String,
    jetstream_api_prefix: String,
    socks_proxy: String,
    #[serde(skip)]
    home: Option<PathBuf>,
}

impl CliContext {
    /// Reads the context `name` from where the tool keeps it: `$XDG_CONFIG_HOME/nats/context/NAME.json`, else
    /// below `~/.config`.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the name or the file, without a secret.
    pub(super) fn load(name: &str, environment: &Environment) -> Result<Self, String> {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(format!("`{name}` is no name of a context"));
        }
        let directory = |name: &str| environment.variable(name).filter(|value| !value.is_empty());
        let home = directory("HOME").map(PathBuf::from);
        let config = directory("XDG_CONFIG_HOME").map(PathBuf::from);
        let config = config.or_else(|| Some(home.as_ref()?.join(".config")));
        let config = config.ok_or("neither `XDG_CONFIG_HOME` nor `HOME` is set, so there are no contexts")?;
        let path = config.join("nats/context").join(format!("{name}.json"));
        let shown = path.display();
        let text = read_named_file(&path, MAX_FILE_BYTES).map_err(|error| {
            format!("cannot read `{shown}`: {error}; `nats context save {name}` writes a context")
        })?;
        // The error's own words could quote a value, so only the place is told.
        let context: Self = serde_json::from_slice(&text).map_err(|error| {
            format!("`{shown}` is no context: line {}, column {}", error.line(), error.column())
        })?;
        if let Some(field) = context.unsupported() {
            return Err(format!("`{shown}` uses `{field}`, which is not supported"));
        }
        Ok(Self { home, ..context })
    }

    /// How it logs in, if it does, with the field that says so.
    pub(super) fn login(&self) -> Option<(&'static str, Login)> {
        if !self.creds.is_empty() {
            return Some(("creds", Login::Creds(self.path(&self.creds))));
        }
        if !self.nkey.is_empty() {
            return Some(("nkey", Login::SeedFile(self.path(&self.nkey))));
        }
        if !self.token.is_empty() {
            return Some(("token", Login::Token(Secret::new(&self.token))));
        }
        if !self.user.is_empty() {
            let (user, password) = (self.user.clone(), Secret::new(&self.password));
            return Some(("user", Login::Password { user, password }));
        }
        None
    }

    /// The certificates that it names.
    pub(super) fn tls(&self) -> Tls {
        let named = |path: &str| (!path.is_empty()).then(|| self.path(path));
        Tls { ca: named(&self.ca), cert: named(&self.cert), key: named(&self.key) }
    }

    /// A field that is filled in and that this program would have to obey, but does not know how to.
    fn unsupported(&self) -> Option<&'static str> {
        let fields = [
            ("nsc", &self.nsc),
            ("user_jwt", &self.user_jwt),
            ("user_seed", &self.user_seed),
            ("jetstream_domain", &self.jetstream_domain),
            ("jetstream_api_prefix", &self.jetstream_api_prefix),
            ("socks_proxy", &self.socks_proxy),
        ];
        fields.into_iter().find(|(_, value)| !value.is_empty()).map(|(field, _)| field)
    }

    /// A path as the tool reads it: `~/` is the home directory.
    fn path(&self, text: &str) -> PathBuf {
        match (text.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => text.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn load(json: &str) -> Result<CliContext, String> {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("nats/context");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("prod.json"), json).unwrap();
        let environment =
            Environment::from([("XDG_CONFIG_HOME", home.path().as_os_str()), ("HOME", "/root".as_ref())]);
        CliContext::load("prod", &environment)
    }

    #[test]
    fn reads_what_concerns_the_connection() {
        let context = load(
            r#"{ "description": "x", "url": "tls://a,b", "creds": "~/prod.creds", "token": "",
                 "ca": "/etc/ca.pem", "color_scheme": "red", "inbox_prefix": "_INBOX.me" }"#,
        );
        let context = context.unwrap();
        assert_eq!((context.url.as_str(), context.inbox_prefix.as_str()), ("tls://a,b", "_INBOX.me"));
        assert_eq!(context.login(), Some(("creds", Login::Creds("/root/prod.creds".into()))));
        assert_eq!(context.tls(), Tls { ca: Some("/etc/ca.pem".into()), ..Tls::default() });
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("nats/context");
        std::fs::create_dir_all(&directory).unwrap();
        let context = |name| directory.join(format!("{name}.json"));
        std::os::unix::fs::symlink("/dev/zero", context("device")).unwrap();
        assert!(Command::new("mkfifo").arg(context("fifo")).status().unwrap().success());
        std::fs::File::create(context("huge")).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        let environment = Environment::from([("XDG_CONFIG_HOME", home.path())]);
        for (name, said) in
            [("device", "it is a device"), ("fifo", "it is a FIFO"), ("huge", "it holds more than")]
        {
            let error = CliContext::load(name, &environment).err().unwrap();
            assert!(error.contains(said) && error.contains(&format!("{name}.json`")), "{error}");
            assert!(error.ends_with(&format!("`nats context save {name}` writes a context")), "{error}");
        }
    }

    #[test]
    fn says_what_it_cannot_do() {
        let error = |json| load(json).err().unwrap();
        assert!(error(r#"{ "jetstream_domain": "hub" }"#).contains("`jetstream_domain`"));
        let damaged = error(r#"{ "token": hunter2 }"#);
        assert!(damaged.contains("line 1") && !damaged.contains("hunter2"), "{damaged}");
        let none = CliContext::load("absent", &Environment::from([("HOME", "/nowhere")]));
        assert!(none.err().unwrap().contains("/nowhere/.config/nats/context/absent.json"));
        assert!(CliContext::load("../x", &Environment::from([("HOME", "/")])).is_err());
    }
}
