use super::*;

fn resolve<const COUNT: usize>(table: &str, environment: [(&str, &str); COUNT]) -> Result<Endpoint, Invalid> {
    let nats: Nats = serde_json::from_str(&format!("{{ \"subject\": \"s\", {table} }}")).unwrap();
    Endpoint::resolve(&nats, &Environment::from(environment))
}

fn servers(table: &str) -> String {
    resolve(&format!("\"servers\": {table}"), []).unwrap().shown()
}

fn password(user: &str, password: &str) -> Login {
    Login::Password { user: user.to_owned(), password: Secret::new(password) }
}

#[test]
fn a_bare_host_is_enough_and_commas_separate() {
    assert_eq!(servers(r#""localhost""#), "nats://localhost");
    assert_eq!(servers(r#"["a:4223, tls://b", "[::1]:1"]"#), "nats://a:4223, tls://b, nats://[::1]:1");
    assert_eq!(servers(r#""wss://a/x,ws://b""#), "wss://a/x, ws://b/");
}

#[test]
fn the_table_goes_before_the_environment_and_that_before_the_default() {
    let shown = |table: &str, url: &str| {
        resolve(&format!("{table} \"partitions\": 1"), [("NATS_URL", url)]).unwrap().shown()
    };
    assert_eq!(shown("\"servers\": \"a\",", "b"), "nats://a");
    assert_eq!(shown("", "b,c"), "nats://b, nats://c");
    assert_eq!(shown("", ""), "nats://127.0.0.1:4222");
}

#[test]
fn credentials_in_an_address_log_in_and_are_not_shown() {
    let endpoint = resolve(r#""servers": "nats://u:p%40ss@a,nats://u:p%40ss@b""#, []).unwrap();
    assert_eq!(endpoint.login, password("u", "p@ss"));
    assert_eq!(endpoint.shown(), "nats://a, nats://b");
    let endpoint = resolve(r#""partitions": 1"#, [("NATS_URL", "t0ken@a")]).unwrap();
    assert_eq!(endpoint.login, Login::Token(Secret::new("t0ken")));
}

#[test]
fn a_login_in_the_table_leaves_the_environment_out() {
    let environment = [("NATS_CREDS", "/nowhere"), ("NATS_URL", "nats://x:y@a")];
    assert_eq!(resolve(r#""user": "u", "password": "p""#, environment).unwrap().login, password("u", "p"));
    let missing = resolve(r#""servers": "a""#, environment).unwrap_err();
    assert_eq!(missing.key, "creds");
    assert!(missing.message.starts_with("the variable `NATS_CREDS`: cannot read `/nowhere`"));
}

#[test]
fn addresses_that_make_no_sense_are_refused_without_their_credentials() {
    for (table, key) in [
        (r#""servers": """#, "servers"),
        (r#""servers": []"#, "servers"),
        (r#""servers": "http://u:hunter2@a""#, "servers"),
        (r#""servers": "nats://u:hunter2@a:port""#, "servers"),
        (r#""servers": "nats://""#, "servers"),
        (r#""servers": "ws://a,nats://b""#, "servers"),
        (r#""servers": "u:hunter2@a,v:hunter2@b""#, "servers"),
        (r#""servers": "u:hunter2@a", "token": "t""#, "token"),
    ] {
        let invalid = resolve(table, []).unwrap_err();
        assert_eq!(invalid.key, key, "{table}");
        assert!(!format!("{invalid:?}").contains("hunter2"), "{table}: {invalid:?}");
    }
    let invalid = resolve(r#""partitions": 1"#, [("NATS_URL", "http://a")]).unwrap_err();
    assert!(invalid.message.contains("`NATS_URL`"));
}

#[test]
fn certificates_are_filled_in_one_by_one_and_must_be_there() {
    let directory = tempfile::tempdir().unwrap();
    let paths = ["ca", "cert", "key"].map(|name| directory.path().join(name).display().to_string());
    let [ca, cert, key] = &paths;
    for path in &paths {
        std::fs::write(path, "").unwrap();
    }
    let environment = [("NATS_CERTIFICATE", cert.as_str()), ("NATS_KEY", key), ("NATS_CA", "/nowhere")];
    let endpoint = resolve(&format!(r#""tls": {{ "ca": "{ca}" }}"#), environment).unwrap();
    let expected = Tls { ca: Some(ca.into()), cert: Some(cert.into()), key: Some(key.into()) };
    assert_eq!(endpoint.tls, expected);

    assert_eq!(resolve(r#""partitions": 1"#, environment).unwrap_err().key, "tls.ca");
    assert_eq!(resolve(r#""partitions": 1"#, [("NATS_KEY", key.as_str())]).unwrap_err().key, "tls.key");
    assert_eq!(resolve(r#""creds": "/nowhere""#, []).unwrap_err().key, "creds");
    let device = resolve(r#""tls": { "ca": "/dev/zero" }"#, []).unwrap_err().message;
    assert_eq!(device, "cannot read `/dev/zero`: it is a device, not a regular file");
}

#[test]
fn a_context_fills_in_what_is_left() {
    let home = tempfile::tempdir().unwrap();
    let contexts = home.path().join(".config/nats/context");
    std::fs::create_dir_all(&contexts).unwrap();
    std::fs::write(contexts.join("prod.json"), r#"{ "url": "a,b", "user": "u", "password": "p" }"#).unwrap();
    let home = home.path().to_str().unwrap();

    let endpoint = resolve(r#""context": "prod""#, [("HOME", home)]).unwrap();
    assert_eq!((endpoint.shown().as_str(), endpoint.login), ("nats://a, nats://b", password("u", "p")));
    let endpoint =
        resolve(r#""context": "prod", "token": "t""#, [("HOME", home), ("NATS_URL", "c")]).unwrap();
    assert_eq!((endpoint.shown().as_str(), endpoint.login), ("nats://c", Login::Token(Secret::new("t"))));
    assert_eq!(resolve(r#""context": "test""#, [("HOME", home)]).unwrap_err().key, "context");
}
