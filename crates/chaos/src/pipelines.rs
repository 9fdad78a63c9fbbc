//! The pipeline files of a scenario.

use std::path::Path;
use std::time::Duration;

use crate::scenario::{Producer, Scenario};

/// How long a stopped pipeline may go on delivering. Short, because brokers are down and disks are full: what
/// is left stays in the source.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Longer than any pause that a writer makes between the renaming of a file and its last write to it.
const ROTATE_WAIT: &str = "3s";

/// What a producer runs.
pub(crate) fn producer(scenario: &Scenario, producer: &Producer, logs: &Path, url: &str) -> String {
    let star = if producer.rotated_match { "*" } else { "" };
    let include = producer.logs.iter().map(|log| format!("'{}/{}{star}'", logs.display(), log.name));
    let include = include.collect::<Vec<_>>().join(", ");
    let source = format!(
        "\n[source]\ntype = 'file_tail'\ninclude = [{include}]\n\
         max_line_bytes = {}\nrotate_wait = '{ROTATE_WAIT}'\n",
        scenario.max_line_bytes,
    );
    settings(scenario, &producer.host) + &source + &transport(scenario, url, None)
}

/// What a consumer runs.
pub(crate) fn consumer(scenario: &Scenario, number: usize, output: &Path, url: &str) -> String {
    let mut text = settings(scenario, &format!("central-{number}"));
    text += &transport(scenario, url, scenario.partitions_of(number));
    let name = if scenario.output.whole_path { "{path}" } else { "{file}" };
    let date = if scenario.output.dated { ".%Y%m%d%H%M" } else { "" };
    let output = output.display();
    text += &format!(
        "\n[sink]\ntype = 'rotating_file'\npath = '{output}/{{host}}/{name}{date}'\ntimezone = 'UTC'\n"
    );
    if let Some(bytes) = scenario.output.max_bytes {
        text += &format!("rotate = {{ max_bytes = {bytes} }}\n");
    }
    if scenario.output.gzip {
        text += "compress = 'gzip'\n";
    }
    text
}

fn settings(scenario: &Scenario, host: &str) -> String {
    format!(
        "[pipeline]\nhost = '{host}'\nmax_batch_bytes = {}\n\
         commit_interval = '{}ms'\ndrain_timeout = '{}s'\n",
        scenario.max_batch_bytes,
        scenario.commit_interval.as_millis(),
        DRAIN_TIMEOUT.as_secs(),
    )
}

fn transport(scenario: &Scenario, url: &str, read_partitions: Option<Vec<u32>>) -> String {
    let mut text = format!(
        "\n[transport]\ntype = 'nats'\nservers = '{url}'\nsubject = 'shipper'\n\
         stream = {{ name = 'LOGS', create = true }}\n"
    );
    if let Some(partitions) = scenario.partitions {
        text += &format!("partitions = {partitions}\n");
    }
    if let Some(partitions) = read_partitions {
        text += &format!("read_partitions = {partitions:?}\n");
    }
    if scenario.line_framing {
        text += "framing = 'line'\n";
    }
    if scenario.zstd {
        text += "compression = 'zstd'\n";
    }
    text
}
