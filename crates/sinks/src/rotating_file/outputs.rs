//! Which origins write to which files: [`Outputs`].
//!
//! An *output* is the series of files that one rendered path becomes over time. All origins share one when
//! the template has no placeholder; otherwise each origin has its own, and a second one that renders to the
//! same path gets a suffix, which the ledger remembers.

use std::collections::{HashMap, HashSet};

use fshipper_pipeline::Origin;

use super::ledger::{Entry, FileId, OriginId, OriginRecord, Stage, State, own};
use super::names::FilePath;
use super::path::{Template, collision_suffix};

/// All outputs, and who writes to them.
#[derive(Debug)]
pub(super) struct Outputs {
    outputs: Vec<Output>,
    families: HashMap<FilePath, OutputId>,
    origins: HashMap<Origin, Author>,
    /// By [`OriginId`].
    records: Vec<OriginRecord>,
    shared: bool,
    /// Held after bytes for them were taken: what was taken since the last record does not count.
    lost: HashSet<OutputId>,
}

/// The number of an output in this session.
pub(super) type OutputId = usize;

/// The output that takes the notes of losses.
pub(super) const LOSSES: OutputId = 0;

/// One series of files.
#[derive(Debug)]
pub(super) struct Output {
    /// What its files have in common in all periods, with the suffix of its origin.
    pub(super) family: FilePath,
    /// The suffix alone.
    pub(super) suffix: Box<str>,
    /// The file that the next line goes to; `None`: to a new one.
    pub(super) active: Option<FileId>,
    /// Why nothing can be written to it in this session.
    pub(super) held: Option<String>,
}

/// An origin, as one that writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Author {
    pub(super) id: OriginId,
    pub(super) output: OutputId,
}

/// Where losses are noted, for people to read.
pub(super) fn losses_path() -> FilePath {
    own("losses.log")
}

impl Outputs {
    /// The outputs of all origins in the ledger. Returns as well what has changed since, because the template
    /// is another one: suffixes, and files that nobody writes to any more.
    pub(super) fn new(template: &Template, state: &State) -> (Self, Vec<Entry>) {
        let mut outputs = Self {
            outputs: Vec::new(),
            families: HashMap::new(),
            origins: HashMap::with_capacity(state.origins.len()),
            records: Vec::with_capacity(state.origins.len()),
            shared: template.is_shared(),
            lost: HashSet::new(),
        };
        outputs.add(losses_path(), "".into());
        let mut changes = Vec::new();
        for record in &state.origins {
            let before = record.suffix.clone();
            let author = outputs.register(template, record.clone());
            let suffix = &outputs.records[author.id as usize].suffix;
            if *suffix != before {
                changes.push(Entry::Suffix(author.id, suffix.clone()));
            }
        }
        for (id, record) in state.files.iter().filter(|(_, record)| record.stage == Stage::Active) {
            match outputs.families.get(&record.family) {
                Some(&output) => outputs.outputs[output].active = Some(*id),
                None => {
                    let mut record = record.clone();
                    record.stage = Stage::Rotated;
                    changes.push(Entry::File(*id, record));
                }
            }
        }
        (outputs, changes)
    }

    pub(super) fn get(&self, output: OutputId) -> &Output {
        &self.outputs[output]
    }

    pub(super) fn get_mut(&mut self, output: OutputId) -> &mut Output {
        &mut self.outputs[output]
    }

    /// The outputs that have lost what was taken for them; mostly none.
    pub(super) fn lost(&self) -> impl Iterator<Item = OutputId> {
        self.lost.iter().copied()
    }

    /// Nothing more can be written to an output in this session, and what was taken for it since the last
    /// record is lost.
    pub(super) fn lose(&mut self, output: OutputId, reason: &str) {
        self.outputs[output].held = Some(reason.to_owned());
        self.lost.insert(output);
    }

    /// Whether what was taken for an output is lost.
    pub(super) fn is_lost(&self, output: OutputId) -> bool {
        self.lost.contains(&output)
    }

    /// The output that `family` is.
    pub(super) fn of_family(&self, family: &FilePath) -> Option<OutputId> {
        self.families.get(family).copied()
    }

    /// Who `origin` is, if it has written.
    pub(super) fn author(&self, origin: &Origin) -> Option<Author> {
        self.origins.get(origin).copied()
    }

    /// How many origins have written.
    pub(super) fn count_origins(&self) -> usize {
        self.records.len()
    }

    /// The origin with this number.
    pub(super) fn origin(&self, id: OriginId) -> &Origin {
        &self.records[id as usize].origin
    }

    /// Who `origin` is; a new one comes with the entry that makes the ledger know it.
    pub(super) fn author_or_new(&mut self, template: &Template, origin: &Origin) -> (Author, Option<Entry>) {
        if let Some(author) = self.author(origin) {
            return (author, None);
        }
        let author = self.register(template, OriginRecord { origin: origin.clone(), suffix: "".into() });
        let record = self.records[author.id as usize].clone();
        if !record.suffix.is_empty() {
            let family = &self.outputs[author.output].family;
            tracing::info!(%origin, "another log has the same output: its own is `{family}`");
        }
        (author, Some(Entry::Origin(record)))
    }

    fn register(&mut self, template: &Template, mut record: OriginRecord) -> Author {
        let id = self.records.len() as OriginId;
        let series = template.series(&record.origin);
        let output = if self.shared {
            let known = self.of_family(&series);
            known.unwrap_or_else(|| self.add(series, "".into()))
        } else {
            let mut attempt = 0;
            let mut family = series.with_suffix(&record.suffix);
            while self.families.contains_key(&family) {
                record.suffix = collision_suffix(&record.origin, attempt).into();
                family = series.with_suffix(&record.suffix);
                attempt += 1;
            }
            self.add(family, record.suffix.clone())
        };
        let author = Author { id, output };
        self.origins.insert(record.origin.clone(), author);
        self.records.push(record);
        author
    }

    fn add(&mut self, family: FilePath, suffix: Box<str>) -> OutputId {
        let output = self.outputs.len();
        self.families.insert(family.clone(), output);
        self.outputs.push(Output { family, suffix, active: None, held: None });
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suffixes(template: &str, origins: &[(&str, &str)]) -> Vec<String> {
        let template = Template::parse(template, None).unwrap();
        let (mut outputs, _) = Outputs::new(&template, &State::default());
        let suffix = |(host, path): &(&str, &str)| {
            let (author, entry) = outputs.author_or_new(&template, &Origin::new(host, path));
            assert!(entry.is_some());
            outputs.get(author.output).suffix.to_string()
        };
        origins.iter().map(suffix).collect()
    }

    #[test]
    fn only_a_second_origin_on_one_path_gets_a_suffix() {
        let origins = [("h", "/a/app.log"), ("h", "/b/app.log"), ("i", "/b/app.log")];
        let found = suffixes("/out/{host}/{file}", &origins);
        assert_eq!(found[0], "");
        assert!(found[1].starts_with('~') && found[1].len() == 9, "{found:?}");
        assert_eq!(found[2], "");
        assert_eq!(suffixes("/out/all.log", &origins), ["", "", ""], "shared on purpose");
        let one_path = suffixes("/out/{file}", &origins);
        assert!(one_path[1] != one_path[2] && !one_path[2].is_empty(), "{one_path:?}");
    }

    #[test]
    fn a_suffix_is_remembered_whoever_comes_first_the_next_time() {
        let template = Template::parse("/out/{file}", None).unwrap();
        let (first, second) = (Origin::new("h", "/a/x"), Origin::new("h", "/b/x"));
        let suffix: Box<str> = collision_suffix(&second, 0).into();
        let mut state = State::default();
        state.origins.push(OriginRecord { origin: second.clone(), suffix: suffix.clone() });
        let (mut outputs, changes) = Outputs::new(&template, &state);
        assert!(changes.is_empty());
        let (author, _) = outputs.author_or_new(&template, &first);
        assert_eq!(&*outputs.get(author.output).suffix, "");
        let (author, entry) = outputs.author_or_new(&template, &second);
        assert_eq!((&outputs.get(author.output).suffix, entry), (&suffix, None));
    }
}
