//! Which origins write to which files: [`Outputs`].
//!
//! An *output* is the series of files that one rendered path becomes over time. All origins share one when
//! the template has no placeholder; otherwise each origin has its own, and a second one that renders to the
//! same path gets a suffix, which the ledger remembers.

use std::collections::{HashMap, HashSet};

use fshipper_pipeline::{CompactMap, Origin};
use jiff::Timestamp;

use super::ledger::{Entry, FileId, OriginId, OriginRecord, Stage, State, own};
use super::names::FilePath;
use super::path::{Template, collision_suffix};

/// All outputs, and who writes to them.
#[derive(Debug)]
pub(super) struct Outputs {
    /// The file that the next line of each goes to, if there is one, by what its files have in common in all
    /// periods, with the suffix of its origin; an [`OutputId`] is the number.
    outputs: CompactMap<FilePath, Option<FileId>>,
    /// What keeps the files of some apart from those of an origin that renders to the same path.
    suffixes: HashMap<OutputId, Box<str>>,
    /// That of each origin; an [`OriginId`] is the index.
    of_origins: Vec<OutputId>,
    /// The origins that the ledger does not know yet.
    unrecorded: HashMap<Origin, OriginId>,
    shared: bool,
    /// Why nothing can be written to some of them in this session.
    held: HashMap<OutputId, String>,
    /// Those of them that nothing was taken for since: whoever writes may find them mended.
    mendable: HashSet<OutputId>,
    /// Held after bytes for them were taken: what was taken since the last record does not count.
    lost: HashSet<OutputId>,
}

/// The number of an output in this session.
pub(super) type OutputId = u32;

/// The output that takes the notes of losses.
pub(super) const LOSSES: OutputId = 0;

/// An origin, as one that writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Author {
    pub(super) id: OriginId,
    pub(super) output: OutputId,
}

/// In seconds since 1970.
fn now() -> i64 {
    Timestamp::now().as_second()
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
            outputs: CompactMap::default(),
            suffixes: HashMap::new(),
            of_origins: Vec::new(),
            unrecorded: HashMap::new(),
            shared: template.is_shared(),
            held: HashMap::new(),
            mendable: HashSet::new(),
            lost: HashSet::new(),
        };
        outputs.add(losses_path(), "".into());
        let mut changes = Vec::new();
        for (id, origin, before) in state.origins() {
            let author = outputs.register(template, origin, before);
            debug_assert_eq!(id, author.id, "the ledger knows them by the same numbers");
            let suffix = outputs.suffix(author.output);
            if !outputs.shared && suffix != before {
                changes.push(Entry::Suffix(id, suffix.into()));
            }
        }
        for (id, record) in state.files.iter().filter(|(_, record)| record.stage == Stage::Active) {
            match outputs.outputs.get_mut(&record.family) {
                Some(active) => *active = Some(id),
                None => {
                    let mut record = record.clone();
                    record.stage = Stage::Rotated;
                    // Its period may be all of time, which never ends.
                    record.period.1 = record.period.1.min(now());
                    changes.push(Entry::File(id, record));
                }
            }
        }
        (outputs, changes)
    }

    /// The file that the next line of an output goes to; `None`: to a new one.
    pub(super) fn active(&self, output: OutputId) -> Option<FileId> {
        *self.output(output).1
    }

    /// From now on the lines of an output go to this file.
    pub(super) fn set_active(&mut self, output: OutputId, file: Option<FileId>) {
        *self.outputs.value_mut(output).expect("an output is never forgotten") = file;
    }

    /// What the files of an output have in common in all periods.
    pub(super) fn family(&self, output: OutputId) -> &FilePath {
        self.output(output).0
    }

    /// What keeps the files of an output apart from those of an origin that renders to the same path.
    pub(super) fn suffix(&self, output: OutputId) -> &str {
        self.suffixes.get(&output).map_or("", |suffix| suffix)
    }

    fn output(&self, output: OutputId) -> (&FilePath, &Option<FileId>) {
        self.outputs.entry(output).expect("an output is never forgotten")
    }

    /// The files that are written to.
    pub(super) fn active_files(&self) -> impl Iterator<Item = (FileId, OutputId)> {
        let outputs = self.outputs.iter().zip(0..);
        outputs.filter_map(|((_, active), id)| active.map(|file| (file, id)))
    }

    /// Why nothing can be written to an output in this session, if nothing can.
    pub(super) fn held(&self, output: OutputId) -> Option<&str> {
        self.held.get(&output).map(String::as_str)
    }

    /// Nothing more can be written to an output in this session; the first reason counts.
    pub(super) fn hold(&mut self, output: OutputId, reason: String) {
        self.mendable.remove(&output);
        self.held.entry(output).or_insert(reason);
    }

    /// Nothing can be written to an output for this reason, unless somebody mends it. What was held before for good
    /// stays so.
    pub(super) fn hold_until_mended(&mut self, output: OutputId, reason: String) {
        if !self.held.contains_key(&output) || self.mendable.contains(&output) {
            self.mendable.insert(output);
            self.held.insert(output, reason);
        }
    }

    /// Whether it is worth a look why an output is held.
    pub(super) fn is_mendable(&self, output: OutputId) -> bool {
        self.mendable.contains(&output)
    }

    /// An output was mended.
    pub(super) fn release(&mut self, output: OutputId) {
        self.mendable.remove(&output);
        self.held.remove(&output);
    }

    /// The outputs that have lost what was taken for them; mostly none.
    pub(super) fn lost(&self) -> impl Iterator<Item = OutputId> {
        self.lost.iter().copied()
    }

    /// Nothing more can be written to an output in this session, and what was taken for it since the last
    /// record is lost.
    pub(super) fn lose(&mut self, output: OutputId, reason: &str) {
        self.mendable.remove(&output);
        self.held.insert(output, reason.to_owned());
        self.lost.insert(output);
    }

    /// Whether what was taken for an output is lost.
    pub(super) fn is_lost(&self, output: OutputId) -> bool {
        self.lost.contains(&output)
    }

    /// The output that `family` is.
    pub(super) fn of_family(&self, family: &FilePath) -> Option<OutputId> {
        self.outputs.number_of(family)
    }

    /// Who `origin` is, if it has written.
    pub(super) fn author(&self, state: &State, origin: &Origin) -> Option<Author> {
        let id = state.number_of(origin).or_else(|| self.unrecorded.get(origin).copied())?;
        Some(Author { id, output: self.output_of(id) })
    }

    /// How many origins have written.
    pub(super) fn count_origins(&self) -> usize {
        self.of_origins.len()
    }

    /// The output of an origin.
    pub(super) fn output_of(&self, id: OriginId) -> OutputId {
        self.of_origins[id as usize]
    }

    /// Who `origin` is; a new one comes with the entry that makes the ledger know it.
    pub(super) fn author_or_new(
        &mut self,
        template: &Template,
        state: &State,
        origin: &Origin,
    ) -> (Author, Option<Entry>) {
        if let Some(author) = self.author(state, origin) {
            return (author, None);
        }
        let author = self.register(template, origin, "");
        self.unrecorded.insert(origin.clone(), author.id);
        let suffix: Box<str> = self.suffix(author.output).into();
        if !suffix.is_empty() {
            let family = self.family(author.output);
            tracing::info!(%origin, "another log has the same output: its own is `{family}`");
        }
        (author, Some(Entry::Origin(OriginRecord { origin: origin.clone(), suffix })))
    }

    /// The ledger has the entries of all new origins.
    pub(super) fn forget_unrecorded(&mut self) {
        self.unrecorded = HashMap::new();
    }

    /// Gives an origin its output, with `suffix` unless somebody else has that already.
    fn register(&mut self, template: &Template, origin: &Origin, suffix: &str) -> Author {
        let series = template.series(origin);
        let output = if self.shared {
            let known = self.of_family(&series);
            known.unwrap_or_else(|| self.add(series, "".into()))
        } else {
            let mut suffix: Box<str> = suffix.into();
            let mut attempt = 0;
            let mut family = series.with_suffix(&suffix);
            while self.of_family(&family).is_some() {
                suffix = collision_suffix(origin, attempt).into();
                family = series.with_suffix(&suffix);
                attempt += 1;
            }
            self.add(family, suffix)
        };
        let id = OriginId::try_from(self.of_origins.len()).expect("2³² origins");
        self.of_origins.push(output);
        Author { id, output }
    }

    fn add(&mut self, family: FilePath, suffix: Box<str>) -> OutputId {
        let output = self.outputs.insert(family, None);
        if !suffix.is_empty() {
            self.suffixes.insert(output, suffix);
        }
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suffixes(template: &str, origins: &[(&str, &str)]) -> Vec<String> {
        let template = Template::parse(template, None).unwrap();
        let state = State::default();
        let (mut outputs, _) = Outputs::new(&template, &state);
        let suffix = |(host, path): &(&str, &str)| {
            let (author, entry) = outputs.author_or_new(&template, &state, &Origin::new(host, path));
            assert!(entry.is_some());
            outputs.suffix(author.output).to_owned()
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
        let record = OriginRecord { origin: second.clone(), suffix: suffix.clone() };
        let state = State::of([Entry::Origin(record)]);
        let (mut outputs, changes) = Outputs::new(&template, &state);
        assert!(changes.is_empty());
        let (author, _) = outputs.author_or_new(&template, &state, &first);
        assert_eq!(outputs.suffix(author.output), "");
        let (author, entry) = outputs.author_or_new(&template, &state, &second);
        assert_eq!((outputs.suffix(author.output), entry), (&*suffix, None));
    }
}
