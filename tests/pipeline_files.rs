//! The pipeline files that are shipped, and what users see when theirs is wrong.

use std::fs;
use std::path::PathBuf;

use fshipper_testing::Operator;

use crate::support::Scene;

fn shipped() -> Vec<PathBuf> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../pipelines");
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.collect()
}

#[test]
fn every_shipped_file_passes_check() {
    let scene = Scene::new();
    let files = shipped();
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        let check = scene.fshipper().argument("check").argument(&file);
        let check = check.variable("SHIPPER_FILE", "/var/log/syslog").variable("SHIPPER_SUBJECT", "shipper");
        check.variable("SHIPPER_OUTPUT", "/tmp/logfile").finish().expect_code(0);
    }
}

#[test]
fn the_first_command_of_the_readme_ships_real_files() {
    let scene = Scene::new();
    let local = format!("{}/../../pipelines/local.toml", env!("CARGO_MANIFEST_DIR"));
    let mut log = scene.log("app.log", 1);
    log.write_lines(100);
    let run = scene.run(&["--once", &local]).variable("SHIPPER_FILE", log.path());
    run.finish().expect_code(0);
    let files = scene.files_below("out/logs");
    let mine = files.iter().filter(|file| file.contains("/app.log."));
    let verdict =
        fshipper_testing::compare(log.expected(), mine.map(|file| scene.path("out/logs").join(file)));
    assert!(verdict.is_identical(), "{files:?}: {verdict}");
}

#[test]
fn the_files_in_the_readme_pass_check() {
    let scene = Scene::new();
    let readme = fs::read_to_string(format!("{}/../../README.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let blocks = readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut names = Vec::new();
    // The others belong to a plugin's crate.
    for block in blocks.filter(|block| !block.starts_with("[dependencies]")) {
        let name = format!("{}.toml", names.len() + 1);
        scene.write(&name, block);
        names.push(name);
    }
    assert!(names.len() >= 2, "{names:?}");
    scene.fshipper().argument("check").arguments(names).finish().expect_code(0);
}

/// Every key there is, each with a value of its own.
#[test]
fn a_file_with_every_key_passes_check() {
    let scene = Scene::new();
    let operator = Operator::new();
    scene.write("nats.creds", operator.credentials());
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        scene.write(name, "");
    }
    let file = r#"
        [pipeline]
        name            = "producer"
        host            = "web1"
        state_dir       = "state"
        commit_interval = "1s"
        commit_bytes    = "8MiB"
        max_batch_bytes = "1MB"
        drain_timeout   = "30s"

        [source]
        type           = "file_tail"
        include        = ["/var/log/*.log", "/var/log/nginx/**/*.log"]
        exclude        = ["*.gz"]
        start_at       = "beginning"
        max_line_bytes = "1MB"
        rotate_wait    = "5s"
        ignore_older   = "7d"

        [transport]
        type            = "nats"
        servers         = ["nats://127.0.0.1:4222"]
        subject         = "shipper"
        partitions      = 8
        read_partitions = [0, 1]
        framing         = "batch"
        compression     = "zstd"
        creds           = "nats.creds"
        tls             = { ca = "ca.pem", cert = "cert.pem", key = "key.pem" }

        [transport.stream]
        name      = "LOGS"
        create    = true
        storage   = "file"
        replicas  = 3
        max_age   = "30d"
        max_bytes = "10GiB"

        [sink]
        type     = "rotating_file"
        path     = "/var/log/remote/{host}/{file}.%Y%m%d"
        rotate   = { every = "1d", max_bytes = "1GiB" }
        keep     = { age = "7d", files = 100, bytes = "100GiB" }
        compress = "gzip"
        timezone = "local"
        mode     = "0640"
    "#;
    scene.write("all.toml", file);
    scene.fshipper().arguments(["check", "all.toml"]).finish().expect_code(0);
}
