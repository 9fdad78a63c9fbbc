//! Encrypted connections to a real server: certificates that fit, and what is said of those that do not.

use std::path::{Path, PathBuf};

use fshipper_pipeline::{Checkpoint, Transport, testing};
use fshipper_testing::{Authority, NatsOptions, NatsServer};
use fshipper_transports::Nats;

/// A server that shows `certificate`, and wants clients certified by `client_ca`.
fn server((cert, key): &(PathBuf, PathBuf), client_ca: Option<&Path>) -> NatsServer {
    let clients = client_ca.map_or(String::new(), |ca| format!("ca_file: {ca:?}, verify: true"));
    let tls = format!("tls: {{ cert_file: {cert:?}, key_file: {key:?}, {clients} }}");
    NatsServer::start(NatsOptions { config_extra: tls, ..NatsOptions::default() })
}

/// Connects, and goes to the server and back; says why not.
async fn connect(url: &str, tls: &str) -> Result<(), String> {
    let table = format!(r#"{{ "servers": "{url}", "subject": "shipper", "tls": {{ {tls} }} }}"#);
    let nats: Nats = serde_json::from_str(&table).expect("the table is valid");
    let sender = nats.open_sender(testing::context("/nowhere".as_ref())).await;
    let mut sender = sender.map_err(|error| format!("{error:#}"))?;
    sender.commit(&Checkpoint::default()).await.map_err(|error| format!("{error:#}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_thing_wrong_with_a_certificate_has_words_of_its_own() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let ca = |authority: &Authority| format!("\"ca\": {:?}", authority.ca());
    let error = async |server: NatsServer, tls: String| connect(&server.url(), &tls).await.unwrap_err();

    let valid = ours.certify("127.0.0.1", 4000);
    connect(&server(&valid, None).url(), &ca(&ours)).await.unwrap();

    let unknown = error(server(&valid, None), ca(&theirs)).await;
    assert!(unknown.contains("not from a trusted authority"), "{unknown}");
    let expired = error(server(&ours.certify("127.0.0.1", 2001), None), ca(&ours)).await;
    assert!(expired.contains("out of date"), "{expired}");
    let other = error(server(&ours.certify("nats.example.net", 4000), None), ca(&ours)).await;
    assert!(other.contains("for another name"), "{other}");
    let plaintext = error(NatsServer::core(), ca(&ours)).await;
    assert!(plaintext.contains("does not speak TLS"), "{plaintext}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_shows_its_certificate_where_the_server_wants_one() {
    let authority = Authority::new();
    let server = server(&authority.certify("127.0.0.1", 4000), Some(&authority.ca()));
    let ca = format!("\"ca\": {:?}", authority.ca());
    let (cert, key) = authority.certify("web1", 4000);
    connect(&server.url(), &format!("{ca}, \"cert\": {cert:?}, \"key\": {key:?}")).await.unwrap();

    let refused = connect(&server.url(), &ca).await.unwrap_err();
    assert!(refused.contains("set `tls.cert` and `tls.key`"), "{refused}");
}
