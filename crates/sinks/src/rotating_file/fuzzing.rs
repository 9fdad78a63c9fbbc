//! Fuzz targets: names off the wire and templates, ledgers, whole starts. Each panics when a promise does not hold.

mod start;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use fshipper_pipeline::Origin;
use fshipper_pipeline::testing::fuzz::Input;
use jiff::Timestamp;
use jiff::tz::TimeZone;

pub use super::ledger::fuzzing::ledger;
pub use start::sink_start;

use super::ledger::State;
use super::outputs::Outputs;
use super::path::{OWN_PREFIX, Template};
use super::period::{Calendar, Every};

/// A file system takes 255, and the sink appends at most 35 of its own.
const MAX_COMPONENT_BYTES: usize = 220;

/// What the sink itself appends to the names of files; times of a rotation besides where names have no date.
const ENDINGS: [&str; 6] = ["", ".1", ".12", ".999999", ".gz", ".1.gz"];
const ENDINGS_WITH_TIMES: [&str; 3] = [".20261123T000000", ".20261123T000000.1", ".20261123T000000.1.gz"];

/// A template and some logs: every file is below the fixed folder, none is the sink's own, and no two logs
/// have one file, whatever the sink appends to their names.
///
/// # Panics
///
/// This is not so.
pub fn output_path(data: &[u8]) {
    let mut input = Input::new(data);
    let text = input.text();
    let date_suffix = input.flag().then(|| input.text());
    let Ok(template) = Template::parse(&text, date_suffix.as_deref()) else { return };
    assert!(template.fixed().is_absolute());

    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone with summer time");
    let calendar = Calendar::new(zone, template.finest().map(Every::of));
    let second = |number: u64| Timestamp::from_second((number % 20_000_000_000) as i64);
    let periods = [input.number(), input.number()]
        .map(|number| calendar.period_at(second(number).expect("a time that can be written")));
    let count = if periods[0].start() == periods[1].start() { 1 } else { 2 };

    let mut origins: HashSet<Origin> = HashSet::new();
    let host = input.bytes();
    let path = input.bytes();
    for ending in ENDINGS.iter().chain(&ENDINGS_WITH_TIMES) {
        origins.insert(Origin::new(host, [path, ending.as_bytes()].concat()));
        origins.insert(Origin::new([host, ending.as_bytes()].concat(), path));
    }
    for _ in 0..4 {
        origins.insert(Origin::new(input.bytes(), input.bytes()));
    }
    let mut origins: Vec<_> = origins.into_iter().collect();
    origins.sort();

    let state = State::default();
    let (mut outputs, _) = Outputs::new(&template, &state);
    let has_date = template.finest().is_some();
    let endings = ENDINGS.iter().chain(if has_date { &[][..] } else { &ENDINGS_WITH_TIMES });
    let mut seen = HashMap::new();
    for origin in &origins {
        let (author, _) = outputs.author_or_new(&template, &state, origin);
        let suffix = outputs.suffix(author.output);
        for (number, period) in periods[..count].iter().enumerate() {
            let rendered = template.render(origin, period).with_suffix(suffix);
            let place = template.fixed().join(Path::new(&rendered.to_string()));
            assert!(place.starts_with(template.fixed()));
            for component in rendered.as_bytes().split(|byte| *byte == b'/') {
                assert!(!matches!(component, b"" | b"." | b".."), "{rendered}");
                assert!(component.len() <= MAX_COMPONENT_BYTES, "{rendered}");
                assert!(!component.starts_with(OWN_PREFIX.as_bytes()), "{rendered}");
                assert!(!component.contains(&0), "{rendered}");
            }
            if template.is_shared() || holds_date_between_values(&text) {
                continue;
            }
            for ending in endings.clone() {
                let who = (origin, number, ending);
                if let Some(other) = seen.insert(rendered.with_suffix(ending), who) {
                    panic!("`{text}`: {who:?} and {other:?} are both `{rendered}{ending}`");
                }
            }
        }
    }
}

/// Whoever calls a host `a-20261123-b` on purpose gets what [`Template::series`] warns of.
fn holds_date_between_values(text: &str) -> bool {
    text.split('/').any(|part| {
        let values = part.find('{').zip(part.rfind('{'));
        values.is_some_and(|(first, last)| part[first..last].contains('%'))
    })
}

#[cfg(test)]
mod tests {
    use fshipper_pipeline::testing::fuzz::replay;

    #[test]
    fn the_corpus_of_paths_holds() {
        replay("output_path", super::output_path);
    }

    #[test]
    fn the_corpus_of_starts_holds() {
        let folder = tempfile::tempdir().unwrap();
        replay("sink_start", |data| super::sink_start(folder.path(), data));
    }
}
