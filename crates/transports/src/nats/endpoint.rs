//! Where to connect and as whom, from the table, the environment and the context: [`Endpoint`].

use std::ffi::OsString;
use std::path::PathBuf;

use async_nats::ServerAddr;
use fshipper_pipeline::config::{Environment, Secret};
use fshipper_pipeline::{Invalid, read_named_file};

use super::cli_context::CliContext;
use super::config::{Nats, Tls};
use super::login::Login;

/// What a table means, once everything it leaves out is filled in.
///
/// Each field is taken from the first place that has it: the table, the environment, the context. A login is
/// one field: whoever names one of any kind leaves the places behind it out.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// One or more, without credentials.
    pub(super) servers: Vec<ServerAddr>,
    /// How to log in.
    pub(super) login: Login,
    /// Certificates.
    pub(super) tls: Tls,
    /// Whether nothing may be sent unencrypted, whatever the scheme of the servers.
    pub(super) tls_required: bool,
    /// Whether the server expects TLS from the first byte on.
    pub(super) tls_first: bool,
    /// Where replies are expected, if not in the usual place.
    pub(super) inbox_prefix: Option<String>,
}

/// Where a server on this machine listens unless it was told otherwise.
const DEFAULT_SERVER: &str = "nats://127.0.0.1:4222";

/// A bundle of every authority that there is has about 250 KB.
const MAX_PEM_BYTES: u64 = 4 << 20;

impl Endpoint {
    /// Fills in what the table leaves out, and looks at the files that are named.
    ///
    /// # Errors
    ///
    /// A value that makes no sense, or a file that is not there, under the key it came from. For a variable of
    /// the environment that is the key it stands for, and the message names the variable.
    pub(super) fn resolve(nats: &Nats, environment: &Environment) -> Result<Self, Invalid> {
        let variable =
            |name: &str| -> Option<OsString> { environment.variable(name).filter(|text| !text.is_empty()) };
        let context = match &nats.context {
            Some(name) => CliContext::load(name, environment).map_err(|error| {
                Invalid::new("context", error).help("`nats context ls` shows the contexts that there are")
            })?,
            None => CliContext::default(),
        };

        let (servers_key, servers) = match (&nats.servers, variable("NATS_URL")) {
            (Some(servers), _) => ("servers", parse_servers("servers", servers.as_slice())?),
            (None, Some(url)) => ("NATS_URL", parse_servers("NATS_URL", &[url.to_string_lossy()])?),
            (None, None) if !context.url.is_empty() => {
                ("context", parse_servers("context", &[&context.url])?)
            }
            (None, None) => ("servers", parse_servers("servers", &[DEFAULT_SERVER])?),
        };
        let (servers, server_login) = take_login(servers_key, servers)?;
        if let (Some(key), Some(_), "servers") = (nats.logins().first(), &server_login, servers_key) {
            return Err(Invalid::new(
                *key,
                format!("`{key}` and the credentials in `servers` are two logins"),
            )
            .help("keep the one that the server asks for"));
        }

        let (login_key, login) = (table_login(nats))
            .or_else(|| Some((servers_key, server_login?)))
            .or_else(|| Some(("NATS_CREDS", Login::Creds(variable("NATS_CREDS")?.into()))))
            .or_else(|| context.login().map(|(_, login)| ("context", login)))
            .unwrap_or(("", Login::Anonymous));
        login.check().map_err(|error| invalid(login_key, error))?;

        let table = nats.tls.clone().unwrap_or_default();
        let file = |key, given: Option<PathBuf>, name, in_context: Option<PathBuf>| {
            (given.map(|path| (key, path)))
                .or_else(|| Some((name, variable(name)?.into())))
                .or_else(|| Some(("context", in_context?)))
        };
        let from_context = context.tls();
        let tls = check_tls(
            file("tls.ca", table.ca, "NATS_CA", from_context.ca),
            file("tls.cert", table.cert, "NATS_CERTIFICATE", from_context.cert),
            file("tls.key", table.key, "NATS_KEY", from_context.key),
        )?;

        let tls_required = nats.tls.is_some() || tls.ca.is_some() || tls.cert.is_some();
        let inbox_prefix = (!context.inbox_prefix.is_empty()).then_some(context.inbox_prefix);
        Ok(Self { servers, login, tls, tls_required, tls_first: context.tls_first, inbox_prefix })
    }

    /// The servers, comma separated.
    pub(super) fn shown(&self) -> String {
        self.servers.iter().map(ServerAddr::as_url_str).collect::<Vec<_>>().join(", ")
    }
}

/// A problem with what came from `source`: a key of the table, or a variable of the environment.
fn invalid(source: &str, message: impl Into<String>) -> Invalid {
    let key = match source {
        "NATS_URL" => "servers",
        "NATS_CREDS" => "creds",
        "NATS_CA" => "tls.ca",
        "NATS_CERTIFICATE" => "tls.cert",
        "NATS_KEY" => "tls.key",
        key => return Invalid::new(key, message),
    };
    Invalid::new(key, format!("the variable `{source}`: {}", message.into()))
}

fn table_login(nats: &Nats) -> Option<(&'static str, Login)> {
    if let Some(path) = &nats.creds {
        return Some(("creds", Login::Creds(path.clone())));
    }
    if let Some(nkey) = &nats.nkey {
        return Some(("nkey", Login::nkey(nkey)));
    }
    if let Some(token) = &nats.token {
        return Some(("token", Login::Token(token.clone())));
    }
    let (user, password) = (nats.user.clone()?, nats.password.clone()?);
    Some(("user", Login::Password { user, password }))
}

fn parse_servers(source: &str, texts: &[impl AsRef<str>]) -> Result<Vec<ServerAddr>, Invalid> {
    let texts = texts.iter().flat_map(|text| text.as_ref().split(',')).map(str::trim);
    let servers = texts.filter(|text| !text.is_empty()).map(|text| parse_server(source, text));
    let servers: Vec<ServerAddr> = servers.collect::<Result<_, _>>()?;
    if servers.is_empty() {
        return Err(invalid(source, "no server is named").help(format!("such as \"{DEFAULT_SERVER}\"")));
    }
    if servers.iter().any(|server| server.is_websocket() != servers[0].is_websocket()) {
        return Err(invalid(source, "some servers are WebSockets and some are not")
            .help("name servers of one kind: a connection moves among all of them"));
    }
    Ok(servers)
}

fn parse_server(source: &str, text: &str) -> Result<ServerAddr, Invalid> {
    // Credentials are not shown, wherever the address is wrong.
    let shown = text.rsplit_once('@').map_or(text, |(_, server)| server);
    let wrong = || {
        invalid(source, format!("`{shown}` is no address of a server"))
            .help("write a host, `host:port`, or a URL with nats://, tls://, ws:// or wss://")
    };
    let server: ServerAddr = text.parse().map_err(|_| wrong())?;
    if server.host().is_empty() {
        return Err(wrong());
    }
    Ok(server)
}

/// Takes the credentials out of the addresses.
fn take_login(source: &str, servers: Vec<ServerAddr>) -> Result<(Vec<ServerAddr>, Option<Login>), Invalid> {
    let mut bare = Vec::with_capacity(servers.len());
    let mut logins = Vec::new();
    for server in servers {
        let mut url = server.into_inner();
        let (user, password) = (decode(url.username()), url.password().map(decode));
        match password {
            Some(password) => logins.push(Login::Password { user, password: Secret::new(password) }),
            None if !user.is_empty() => logins.push(Login::Token(Secret::new(user))),
            None => {}
        }
        // Both only fail for a URL without a host, and such a one was refused.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        bare.push(ServerAddr::from_url(url).map_err(|error| invalid(source, error.to_string()))?);
    }
    logins.dedup();
    if logins.len() > 1 {
        return Err(invalid(source, "the servers' addresses hold different credentials")
            .help("a connection moves among all of them, so give them the same"));
    }
    Ok((bare, logins.pop()))
}

/// Undoes the percent-encoding of a user name or password in a URL.
fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A file and where it is named: a key of the table, or a variable of the environment.
type NamedFile = Option<(&'static str, PathBuf)>;

fn check_tls(ca: NamedFile, cert: NamedFile, key: NamedFile) -> Result<Tls, Invalid> {
    match (&cert, &key) {
        (Some((source, _)), None) => {
            return Err(invalid(source, "the certificate stands without its key")
                .help("add `key` to `tls`, or set `NATS_KEY`"));
        }
        (None, Some((source, _))) => {
            return Err(invalid(source, "the key stands without its certificate")
                .help("add `cert` to `tls`, or set `NATS_CERTIFICATE`"));
        }
        _ => {}
    }
    let open = |named: NamedFile| {
        let Some((source, path)) = named else { return Ok(None) };
        read_named_file(&path, MAX_PEM_BYTES)
            .map_err(|error| invalid(source, format!("cannot read `{}`: {error}", path.display())))?;
        Ok(Some(path))
    };
    Ok(Tls { ca: open(ca)?, cert: open(cert)?, key: open(key)? })
}

#[cfg(test)]
mod tests;
