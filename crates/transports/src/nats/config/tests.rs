use std::path::PathBuf;
use std::time::Duration;

use super::*;

fn settings(once: bool) -> Settings {
    Settings {
        name: "test".to_owned(),
        host: "web1".to_owned(),
        state_dir: PathBuf::from("/nowhere"),
        commit_interval: Duration::from_secs(1),
        commit_bytes: 8 << 20,
        max_batch_bytes: 1_000_000,
        drain_timeout: Duration::from_secs(30),
        once,
    }
}

fn check(table: &str) -> Result<(), Invalid> {
    let nats: Nats = serde_json::from_str(table).unwrap();
    nats.check(&settings(false), Ends::Both)
}

#[test]
fn what_the_contract_shows_is_valid() {
    check(r#"{ "subject": "shipper" }"#).unwrap();
    check(
        r#"{ "servers": ["nats://127.0.0.1:4222"], "subject": "shipper", "partitions": 8,
             "read_partitions": [0, 1], "framing": "batch", "compression": "zstd",
             "creds": "/etc/fshipper/nats.creds", "tls": { "ca": "/etc/fshipper/ca.pem" },
             "stream": { "name": "LOGS", "create": true, "storage": "file", "replicas": 3,
                         "max_age": "7d", "max_bytes": "10GiB" } }"#,
    )
    .unwrap();
}

#[test]
fn what_makes_no_sense_is_refused_under_its_key() {
    for (table, key, message) in [
        (r#""subject": """#, "subject", "empty token"),
        (r#""subject": "a..b""#, "subject", "empty token"),
        (r#""subject": "logs.>""#, "subject", "wildcard"),
        (r#""subject": "logs web""#, "subject", "space"),
        (r#""subject": "$JS.x""#, "subject", "NATS itself"),
        (r#""subject": "_INBOX.x""#, "subject", "NATS itself"),
        (r#""subject": "s", "partitions": 0"#, "partitions", "`0`"),
        (r#""subject": "s", "partitions": 1025"#, "partitions", "`1025`"),
        (r#""subject": "s", "read_partitions": [0]"#, "read_partitions", "no partitions"),
        (r#""subject": "s", "partitions": 2, "read_partitions": []"#, "read_partitions", "reads nothing"),
        (r#""subject": "s", "partitions": 2, "read_partitions": [0, 2]"#, "read_partitions[1]", "`2`"),
        (r#""subject": "s", "partitions": 2, "read_partitions": [1, 1]"#, "read_partitions[1]", "twice"),
        (r#""subject": "s", "framing": "line", "compression": "zstd""#, "compression", "line"),
        (r#""subject": "s", "user": "u""#, "user", "without a `password`"),
        (r#""subject": "s", "password": "p""#, "password", "without a `user`"),
        (r#""subject": "s", "creds": "/c", "token": "t""#, "token", "`creds` and `token`"),
        (r#""subject": "s", "stream": { "name": "a.b" }"#, "stream.name", "`a.b`"),
        (r#""subject": "s", "stream": { "name": "" }"#, "stream.name", "no name"),
        (r#""subject": "s", "stream": { "name": "A", "replicas": 6 }"#, "stream.replicas", "`6`"),
        (r#""subject": "s", "stream": { "name": "A", "max_bytes": 0 }"#, "stream.max_bytes", "so many"),
        (r#""subject": "s", "stream": { "name": "A", "max_age": "0s" }"#, "stream.max_age", "no time"),
        (
            r#""subject": "s", "stream": { "name": "A", "purge": true, "floor": false }"#,
            "stream.purge",
            "does not go with",
        ),
    ] {
        let invalid = check(&format!("{{ {table} }}")).unwrap_err();
        assert_eq!(invalid.key, key, "{table}");
        assert!(invalid.message.contains(message), "{table}: {}", invalid.message);
        assert!(invalid.help.is_some(), "{table}");
    }
}

#[test]
fn core_nats_has_no_end_to_receive_to() {
    let core: Nats = serde_json::from_str(r#"{ "subject": "s" }"#).unwrap();
    assert!(core.check(&settings(true), Ends::Receiver).unwrap_err().message.contains("has no end"));
    core.check(&settings(true), Ends::Sender).unwrap();
    let stream: Nats = serde_json::from_str(r#"{ "subject": "s", "stream": { "name": "A" } }"#).unwrap();
    stream.check(&settings(true), Ends::Receiver).unwrap();
}

#[test]
fn a_host_too_long_for_a_subject_is_refused() {
    let nats: Nats = serde_json::from_str(r#"{ "subject": "s", "stream": { "name": "A" } }"#).unwrap();
    let settings = Settings { host: "ü".repeat(200), ..settings(false) };
    assert!(nats.check(&settings, Ends::Sender).unwrap_err().message.contains("1024 are allowed"));
}
