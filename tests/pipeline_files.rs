//! The pipeline files that are shipped, and what users see when theirs is wrong.

use std::fs;
use std::path::PathBuf;

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
