//! Every way to reach a server and to log in there, through the binary and against a real server.

use std::fs;

use fshipper_testing::{Authority, DEADLINE, Finished, NatsOptions, NatsServer, Operator, wait_until};
use nkeys::KeyPair;

use crate::support::{HOST, Pipeline, Scene};

fn server(config_extra: impl Into<String>) -> NatsServer {
    NatsServer::start(NatsOptions { config_extra: config_extra.into(), ..NatsOptions::default() })
}

/// `check --connect` of a consumer with these keys in its `[transport]` and these variables in its environment.
fn check(scene: &Scene, keys: &str, variables: &[(&str, &str)]) -> Finished {
    let keys = format!("subject = 'shipper'\n{keys}");
    Pipeline::new().tail("*.log").table("transport", "nats", &keys).write(scene, "producer.toml");
    let check = scene.fshipper().arguments(["check", "--connect", "producer.toml"]);
    variables.iter().fold(check, |check, (name, value)| check.variable(name, value)).finish()
}

#[track_caller]
fn assert_reached(scene: &Scene, keys: &str, variables: &[(&str, &str)]) {
    let finished = check(scene, keys, variables).expect_code(0);
    let printed = String::from_utf8(finished.stdout).unwrap();
    for line in ["ok: connected to nats-server", "ok: a message to ourselves came back"] {
        assert!(printed.contains(line), "{keys} {variables:?}:\n{printed}");
    }
}

/// The server does not take the login, the message says where to look, and no secret is shown.
#[track_caller]
fn assert_refused(scene: &Scene, keys: &str, variables: &[(&str, &str)]) {
    let finished = check(scene, keys, variables).expect_code(1);
    let printed = finished.stderr + &String::from_utf8(finished.stdout).unwrap();
    assert!(printed.contains("the server does not accept this login: check `creds`"), "{keys}:\n{printed}");
    assert!(!printed.contains("secret"), "a secret is shown:\n{printed}");
}

#[test]
fn a_user_and_a_password_log_in() {
    let scene = Scene::new();
    let server = server("authorization: { user: alice, password: 'secret/p@ss' }");
    let (url, address) = (server.url(), server.address());
    let servers = format!("servers = '{url}'\n");
    assert_reached(&scene, &format!("{servers}user = 'alice'\npassword = 'secret/p@ss'"), &[]);
    let password = [("NATS_PASSWORD", "secret/p@ss")];
    assert_reached(&scene, &format!("{servers}user = 'alice'\npassword = '${{NATS_PASSWORD}}'"), &password);
    assert_reached(&scene, &format!("servers = 'nats://alice:secret%2Fp%40ss@{address}'"), &[]);
    assert_reached(&scene, "", &[("NATS_URL", &format!("alice:secret%2Fp%40ss@{address}"))]);

    let context = format!(r#"{{ "url": "{url}", "user": "alice", "password": "secret/p@ss" }}"#);
    scene.write(".config/nats/context/prod.json", context);
    assert_reached(&scene, "context = 'prod'", &[]);

    assert_refused(&scene, &servers, &[]);
    assert_refused(&scene, &format!("{servers}user = 'alice'\npassword = 'secret'"), &[]);
    assert_refused(&scene, &format!("servers = 'nats://alice:secret@{address}'"), &[]);
}

#[test]
fn a_token_logs_in() {
    let scene = Scene::new();
    let server = server("authorization: { token: 'secret-token' }");
    let (url, address) = (server.url(), server.address());
    assert_reached(&scene, &format!("servers = '{url}'\ntoken = 'secret-token'"), &[]);
    assert_reached(&scene, &format!("servers = 'secret-token@{address}'"), &[]);
    scene.write(".config/nats/context/prod.json", r#"{ "token": "secret-token" }"#);
    assert_reached(&scene, "context = 'prod'", &[("NATS_URL", &url)]);
    assert_refused(&scene, &format!("servers = '{url}'\ntoken = 'secret-other'"), &[]);
}

#[test]
fn an_nkey_logs_in() {
    let scene = Scene::new();
    let key = KeyPair::new_user();
    let seed = key.seed().unwrap();
    let server = server(format!("authorization: {{ users: [{{ nkey: {} }}] }}", key.public_key()));
    let servers = format!("servers = '{}'\n", server.url());
    assert_reached(&scene, &format!("{servers}nkey = '{seed}'"), &[]);
    scene.write("web1.nk", format!("{seed}\n"));
    assert_reached(&scene, &format!("{servers}nkey = 'web1.nk'"), &[]);
    scene.write(".config/nats/context/prod.json", r#"{ "nkey": "~/web1.nk" }"#);
    assert_reached(&scene, &format!("{servers}context = 'prod'"), &[]);
    scene.write("web1.nk", KeyPair::new_user().seed().unwrap());
    assert_refused(&scene, &format!("{servers}nkey = 'web1.nk'"), &[]);
}

#[test]
fn a_credentials_file_logs_in_where_an_operator_signs() {
    let scene = Scene::new();
    let operator = Operator::new();
    let server = server(operator.server_config());
    let servers = format!("servers = '{}'\n", server.url());
    scene.write("nats.creds", operator.credentials());
    assert_reached(&scene, &format!("{servers}creds = 'nats.creds'"), &[]);
    assert_reached(&scene, &servers, &[("NATS_CREDS", "nats.creds")]);
    scene.write(".config/nats/context/prod.json", r#"{ "creds": "~/nats.creds" }"#);
    assert_reached(&scene, &format!("{servers}context = 'prod'"), &[]);

    scene.write("others.creds", Operator::new().credentials());
    assert_refused(&scene, &format!("{servers}creds = 'others.creds'"), &[]);
}

#[test]
fn any_of_several_servers_will_do() {
    let (scene, server) = (Scene::new(), NatsServer::core());
    // Nobody listens on port 1.
    let several = format!("127.0.0.1:1, {}", server.url());
    assert_reached(&scene, &format!("servers = '{several}'"), &[]);
    assert_reached(&scene, &format!("servers = ['127.0.0.1:1', '{}']", server.address()), &[]);
    assert_reached(&scene, "", &[("NATS_URL", &several)]);
    let finished = check(&scene, "servers = '127.0.0.1:1,127.0.0.1:2'", &[]).expect_code(1);
    assert!(finished.stderr.contains("127.0.0.1:1, nats://127.0.0.1:2"), "{}", finished.stderr);
}

#[test]
fn tls_is_used_where_it_is_asked_for() {
    let (scene, authority) = (Scene::new(), Authority::new());
    let ca = authority.ca().into_os_string().into_string().unwrap();
    let (cert, key) = authority.certify("127.0.0.1", 4000);
    let tls = format!("tls: {{ cert_file: {cert:?}, key_file: {key:?}, ca_file: {ca:?}, verify: true }}");
    let server = server(tls);
    let (cert, key) = authority.certify("web1", 4000);
    let files = [
        ("NATS_CA", &*ca),
        ("NATS_CERTIFICATE", cert.to_str().unwrap()),
        ("NATS_KEY", key.to_str().unwrap()),
    ];
    let keys = format!("tls = {{ ca = '{ca}', cert = {cert:?}, key = {key:?} }}");
    for scheme in ["nats://", "tls://", ""] {
        let servers = format!("servers = '{scheme}{}'\n", server.address());
        assert_reached(&scene, &(servers.clone() + &keys), &[]);
        assert_reached(&scene, &servers, &files);
    }
    let context =
        format!(r#"{{ "url": "{}", "ca": {ca:?}, "cert": {cert:?}, "key": {key:?} }}"#, server.url());
    scene.write(".config/nats/context/prod.json", context);
    assert_reached(&scene, "context = 'prod'", &[]);

    // The system knows nothing of an authority that a test made.
    let finished = check(&scene, &format!("servers = '{}'", server.url()), &[]).expect_code(1);
    assert!(finished.stderr.contains("not from a trusted authority"), "{}", finished.stderr);
}

#[test]
fn nothing_is_sent_unencrypted_where_tls_is_asked_for() {
    let (scene, server) = (Scene::new(), NatsServer::core());
    let address = server.address();
    for keys in [format!("servers = '{address}'\ntls = {{}}"), format!("servers = 'tls://{address}'")] {
        let finished = check(&scene, &keys, &[]).expect_code(1);
        assert!(finished.stderr.contains("cannot connect"), "{keys}:\n{}", finished.stderr);
    }
}

#[test]
fn websockets_carry_lines() {
    let (scene, authority) = (Scene::new(), Authority::new());
    let (cert, key) = authority.certify("127.0.0.1", 4000);
    let tls = format!("tls: {{ cert_file: {cert:?}, key_file: {key:?} }}");
    let plain = server("websocket: { listen: '127.0.0.1:-1', no_tls: true }");
    let encrypted = server(format!("websocket: {{ listen: '127.0.0.1:-1', {tls} }}"));
    let ca = format!("tls = {{ ca = {:?} }}", authority.ca());
    for (server, scheme, keys) in [(&plain, "ws", ""), (&encrypted, "wss", &*ca)] {
        let url = format!("{scheme}://{}", server.websocket_address());
        assert_reached(&scene, &format!("servers = '{url}'\n{keys}"), &[]);

        let output = format!("{scheme}/{{host}}");
        Pipeline::new().nats(&url, keys).rotating_file(&output).write(&scene, "consumer.toml");
        let consuming = scene.run(&["consumer.toml"]).start();
        wait_until(DEADLINE, "the consumer has subscribed", || server.subscribers("shipper") == 1);
        Pipeline::new().tail("*.log").nats(&url, keys).write(&scene, "producer.toml");
        let mut log = scene.log(&format!("{scheme}.log"), 1);
        log.write_lines(100);
        let producing = scene.run(&["--state-dir", scheme, "producer.toml"]).start();
        scene.assert_arrives(log.expected(), &format!("{scheme}/{HOST}"));
        producing.stop(DEADLINE).expect_code(0);
        consuming.stop(DEADLINE).expect_code(0);
        fs::remove_file(log.path()).unwrap();
    }
}

#[test]
fn a_server_that_retires_sends_its_clients_to_another() {
    let scene = Scene::new();
    // The shortest that a server takes; it is over as soon as the clients are gone.
    let lame_duck = "lame_duck_duration: 30s\nlame_duck_grace_period: 1s";
    let mut servers = [server(lame_duck), server(lame_duck)];
    let urls = servers.each_ref().map(NatsServer::url).join(",");
    Pipeline::new().nats(&urls, "").rotating_file("out/{host}").write(&scene, "consumer.toml");
    let consuming = scene.run(&["consumer.toml"]).start();
    let mut first = None;
    wait_until(DEADLINE, "the consumer has subscribed", || {
        first = servers.iter().position(|server| server.subscribers("shipper") == 1);
        first.is_some()
    });
    let first = first.unwrap();
    servers[first].retire();
    wait_until(DEADLINE, "the consumer has moved", || servers[1 - first].subscribers("shipper") == 1);
    let said = consuming.stderr();
    assert!(said.contains("is shutting down; moving to another or waiting for it"), "{said}");
    consuming.stop(DEADLINE).expect_code(0);
}
