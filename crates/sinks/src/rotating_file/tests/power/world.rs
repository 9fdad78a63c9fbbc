//! A scenario in all the worlds that can be: [`World`].

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use anyhow::{Result, ensure};
use fastrand::Rng;
use fshipper_pipeline::{Checkpoint, Written};
use rustix::io::Errno;
use tempfile::TempDir;

use super::super::bench::{Session, folder, owner};
use super::oracle::{Output, histories, output, shown};
use super::scenario::{Scenario, Step};
use crate::rotating_file::RotatingFile;
use crate::rotating_file::config::{Keep, Plan};
use crate::rotating_file::confined::Root;
use crate::rotating_file::disk::Disk;
use crate::rotating_file::disk::simulated::{Loss, Model, Operation, Recorder, Tree, Trouble};
use crate::rotating_file::stop::Stop;
use crate::rotating_file::writer::Writer;

/// A folder, what happens in it, and what has to come of it.
pub(super) struct World {
    pub(super) scenario: Scenario,
    plan: Plan,
    pub(super) root: PathBuf,
    expected: Output,
    /// By output, everything that was ever written to it.
    pub(super) streams: BTreeMap<String, Vec<u8>>,
    /// Where the pump stands in the end.
    end: Checkpoint,
    /// The life in peace.
    peace: Record,
    _folder: TempDir,
}

/// The disk at the beginning of a life, and what was done to it.
struct Record {
    before: Model,
    operations: Vec<Operation>,
    after: Model,
}

/// Says when a check fails what was going on.
struct Now<'a>(&'a dyn Fn() -> String);

impl Drop for Now<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("failed: {}", (self.0)());
        }
    }
}

impl World {
    pub(super) fn new(scenario: Scenario) -> Self {
        let folder = folder();
        let root = folder.path().join("out");
        std::fs::create_dir(&root).unwrap();
        let path = root.join(scenario.path);
        let table = format!("path = {:?}\ntimezone = \"UTC\"\n{}", path.to_str().unwrap(), scenario.keys);
        let mut plan = toml::from_str::<RotatingFile>(&table).unwrap().plan().unwrap();
        plan.limits = scenario.limits;
        let none = Record {
            before: Model::of(&Tree::default()),
            operations: Vec::new(),
            after: Model::of(&Tree::default()),
        };
        let mut world = Self {
            scenario,
            plan,
            root,
            expected: Output::new(),
            streams: BTreeMap::new(),
            end: Checkpoint::default(),
            peace: none,
            _folder: folder,
        };
        world.live_in_peace();
        world
    }

    /// Finds out what has to come of it.
    fn live_in_peace(&mut self) {
        let keep = std::mem::take(&mut self.plan.keep);
        let beginning = Tree::of(self.scenario.before);
        for keep in [Keep::default(), keep] {
            self.plan.keep = keep;
            beginning.write(&self.root);
            let (recorder, session) = self.open(Model::of(&beginning), Trouble::None);
            let mut session = session.unwrap();
            self.run(&mut session, &recorder).unwrap();
            if self.streams.is_empty() {
                self.streams = self.streams(session.writer.ledger.state());
            }
            self.end = session.checkpoint.clone();
            drop(session);
            self.peace = self.record(&recorder);
        }
        self.expected = output(&self.peace.after.tree());
        assert!(self.expected.len() > 2, "{:?}", self.expected.keys());
        let compacted = |operation: &&Operation| matches!(operation, Operation::Rename { to, .. } if to.starts_with(".fshipper/ledger."));
        let ledgers = self.peace.operations.iter().filter(compacted).count();
        assert!(ledgers > 1, "the ledger is written anew on the way");
    }

    /// For every change: the power fails after it.
    pub(super) fn cut_power_after_every_change(&self, seeds: u64) {
        let mut seen = HashSet::new();
        self.after_every_change(|at, model, promised| {
            for loss in losses(at, seeds) {
                let tree = model.after_power_cut(loss);
                if seen.insert(hash(&tree)) {
                    let _now = Now(&|| format!("the power fails after {at} changes, {loss:?}"));
                    self.recover(&tree, promised);
                }
            }
        });
        let (name, changes) = (self.scenario.name, self.peace.operations.len());
        println!("{name}: a power cut after each of {changes} changes left {} states", seen.len());
    }

    /// For every change: the power fails after it, and while the next life recovers, or some time later, it
    /// fails again, or the sink is killed, or the disk fails once.
    pub(super) fn crash_again_after_every_change(&self, seeds: u64) {
        let mut count = 0;
        self.after_every_change(|at, model, promised| {
            for seed in 0..seeds {
                let mut random = Rng::with_seed(at as u64 * 1_000_003 + seed);
                let loss = any_loss(&mut random);
                let tree = model.after_power_cut(loss);
                // Most of the changes of a start, and some of the time after.
                let span = if random.bool() { 25 } else { 120 };
                let moment = random.usize(..span);
                let error = Errno::IO.raw_os_error();
                let trouble = [Trouble::None, Trouble::Kill(moment), Trouble::Fail(moment, error)];
                let trouble = trouble[random.usize(..3)];
                let _now = Now(&|| {
                    format!("the power fails after {at} changes, seed {seed}: {loss:?}, then {trouble:?}")
                });
                count += 1;

                tree.write(&self.root);
                let (recorder, session) = self.open(Model::of(&tree), trouble);
                let lived = session.and_then(|mut session| self.run(&mut session, &recorder));
                assert!(lived.is_ok() || recorder.happened(), "{lived:?}");
                let life = self.record(&recorder);
                let mut before = promised.cloned();
                if trouble != Trouble::None {
                    life.operations.iter().for_each(|operation| note_promise(operation, &mut before));
                    self.go_on(life.after.clone(), before.as_ref(), &mut random);
                }

                // And the power fails in the middle of it.
                let moment = moment.min(life.operations.len());
                let (mut model, mut promised) = (life.before, promised.cloned());
                for operation in &life.operations[..moment] {
                    model.apply(operation);
                    note_promise(operation, &mut promised);
                }
                let loss = any_loss(&mut random);
                let _now = Now(&|| format!("... and again after {moment} changes, {loss:?}"));
                self.recover(&model.after_power_cut(loss), promised.as_ref());
            }
        });
        println!("{}: {count} second crashes", self.scenario.name);
    }

    /// For every change: the sink is killed before it, started again, and when all is done the power fails.
    pub(super) fn kill_before_every_change(&self) {
        let changes = self.peace.operations.len();
        for (at, operation) in self.peace.operations.iter().enumerate() {
            if matches!(operation, Operation::Promised(_) | Operation::Opened) {
                continue;
            }
            let _now = Now(&|| format!("killed before change {at}"));
            let mut random = Rng::with_seed(at as u64);
            let life = self.live_with(Trouble::Kill(at));
            let mut promised = None;
            life.operations.iter().for_each(|operation| note_promise(operation, &mut promised));
            self.go_on(life.after, promised.as_ref(), &mut random);
        }
        println!("{}: killed before each of {changes} changes", self.scenario.name);
    }

    /// For every change: it fails once.
    pub(super) fn let_every_change_fail(&self) {
        let mut count = 0;
        for (at, operation) in self.peace.operations.iter().enumerate() {
            for trouble in troubles(at, operation) {
                let _now = Now(&|| format!("{trouble:?} in {operation:?}"));
                let mut random = Rng::with_seed(at as u64);
                let life = self.live_with(trouble);
                let mut promised = None;
                life.operations.iter().for_each(|operation| note_promise(operation, &mut promised));
                if let Some(Operation::SyncFailed(file)) = life.operations.get(at) {
                    let again = life.operations[at..]
                        .iter()
                        .any(|next| matches!(next, Operation::Sync(synced) if synced == file));
                    assert!(!again, "a sync that failed is never tried again");
                }
                count += 1;
                if matches!(life.operations.get(at), Some(Operation::SyncFailed(_))) {
                    self.recover(&life.after.after_power_cut(any_loss(&mut random)), promised.as_ref());
                    life.after.tree().write(&self.root);
                }
                self.go_on(life.after, promised.as_ref(), &mut random);
            }
        }
        println!("{}: {count} errors", self.scenario.name);
    }

    /// Calls `look` with the number of changes so far, the disk then, and what was promised by then.
    fn after_every_change(&self, mut look: impl FnMut(usize, &Model, Option<&Checkpoint>)) {
        let (mut model, mut promised) = (self.peace.before.clone(), None);
        look(0, &model, None);
        for (at, operation) in self.peace.operations.iter().enumerate() {
            model.apply(operation);
            note_promise(operation, &mut promised);
            look(at + 1, &model, promised.as_ref());
        }
    }

    /// From the beginning, with trouble on the way.
    fn live_with(&self, trouble: Trouble) -> Record {
        let beginning = Tree::of(self.scenario.before);
        beginning.write(&self.root);
        let (recorder, session) = self.open(Model::of(&beginning), trouble);
        // What came of it shows on the disk: not every error ends a life, a full disk is waited for.
        let _ = session.and_then(|mut session| self.run(&mut session, &recorder));
        assert!(recorder.happened(), "it met no trouble");
        self.record(&recorder)
    }

    /// The next life, in the folder as it is; when all is done the power fails.
    fn go_on(&self, model: Model, promised: Option<&Checkpoint>, random: &mut Rng) {
        let life = self.recover_in_place(model, promised);
        let loss = any_loss(random);
        let _now = Now(&|| format!("... and in the end the power fails, {loss:?}"));
        self.recover(&life.after.after_power_cut(loss), Some(&self.end));
    }

    /// A start on `tree`, after which everything comes to a good end.
    fn recover(&self, tree: &Tree, promised: Option<&Checkpoint>) {
        tree.write(&self.root);
        self.recover_in_place(Model::of(tree), promised);
    }

    fn recover_in_place(&self, model: Model, promised: Option<&Checkpoint>) -> Record {
        let (recorder, session) = self.open(model, Trouble::None);
        let mut session = session.unwrap();
        self.check(&session, &recorder, promised);
        self.run(&mut session, &recorder).unwrap();
        assert_eq!(
            histories(&session.checkpoint),
            histories(&self.end),
            "the pump stands elsewhere in the end"
        );
        drop(session);
        let life = self.record(&recorder);
        let found = output(&life.after.tree());
        if found != self.expected {
            panic!("the output is wrong: {:#?} instead of {:#?}", shown(&found), shown(&self.expected));
        }
        life
    }

    fn open(&self, model: Model, trouble: Trouble) -> (Arc<Recorder>, Result<Session>) {
        let recorder = Arc::new(Recorder::new(&self.root, model, trouble));
        let open = || {
            let root = Root::open_or_create(self.plan.template.fixed(), 0o750)?;
            let disk = Arc::new(Disk::recorded(root, self.plan.mode, recorder.clone()));
            let writer =
                Writer::open_on(disk.clone(), self.plan.clone(), owner("test"), Arc::new(Stop::default()))?;
            recorder.note(Operation::Opened);
            let checkpoint = writer.checkpoint();
            Ok(Session { writer, disk, checkpoint, begun: None })
        };
        (recorder.clone(), open())
    }

    /// The whole script: of what is there already nothing comes to the sink.
    fn run(&self, session: &mut Session, recorder: &Recorder) -> Result<()> {
        let note = |durable: Option<Checkpoint>| {
            durable.into_iter().for_each(|durable| recorder.note(Operation::Promised(Box::new(durable))));
        };
        session.writer.syncs_late = self.scenario.beside;
        for (number, step) in self.scenario.steps.iter().enumerate() {
            match step {
                Step::Write(batch) => {
                    let written = session.feed(batch.clone())?;
                    ensure!(written == Written::Accepted, "{written:?}");
                    // A cursor never goes back.
                    if session.cursor_position().is_none_or(|position| position < number) {
                        session.cursor(number);
                    }
                    if self.scenario.beside {
                        // As the thread does when nothing more waits; it may have to wait for the record itself.
                        session.writer.flush()?;
                        note(session.take_durable()?);
                    }
                }
                Step::Commit => {
                    note(session.begin_commit()?);
                    if !self.scenario.beside {
                        note(session.finish_commit()?);
                    }
                }
                Step::Maintain => {
                    note(session.finish_commit()?);
                    session.maintain()?;
                }
            }
        }
        note(session.finish_commit()?);
        Ok(())
    }

    /// What was done to the disk, which is what its model says.
    fn record(&self, recorder: &Recorder) -> Record {
        let (before, operations, after) = recorder.finish();
        let (told, found) = (after.tree(), Tree::read(&self.root));
        assert!(told.is_like(&found), "a change went past the recorder: {told:?} {found:?}");
        Record { before, operations, after }
    }
}

/// Everything, nothing and the like, and some of it as often as there are seeds.
fn losses(at: usize, seeds: u64) -> impl Iterator<Item = Loss> {
    let random = (0..seeds).map(move |seed| Loss::Some(at as u64 * 1_000_003 + seed));
    [Loss::Nothing, Loss::Everything, Loss::Names, Loss::Bytes, Loss::Contents].into_iter().chain(random)
}

fn any_loss(random: &mut Rng) -> Loss {
    match random.u8(0..6) {
        0 => Loss::Everything,
        1 => Loss::Names,
        2 => Loss::Bytes,
        _ => Loss::Some(random.u64(..)),
    }
}

/// The errors that this change can meet.
fn troubles(at: usize, operation: &Operation) -> Vec<Trouble> {
    let (io, full, denied) =
        (Errno::IO.raw_os_error(), Errno::NOSPC.raw_os_error(), Errno::ACCESS.raw_os_error());
    match operation {
        Operation::Append { .. } => {
            let appending = [Trouble::Short(at, full), Trouble::Stuck(at, full)];
            appending.into_iter().chain([Trouble::Fail(at, io), Trouble::Fail(at, denied)]).collect()
        }
        Operation::Write { .. } => vec![Trouble::Fail(at, io), Trouble::Fail(at, full)],
        Operation::Create(_) | Operation::CreateFolders(_) => {
            vec![Trouble::Fail(at, io), Trouble::Fail(at, full), Trouble::Fail(at, denied)]
        }
        Operation::Promised(_) | Operation::Opened | Operation::Nothing => Vec::new(),
        _ => vec![Trouble::Fail(at, io)],
    }
}

fn note_promise(operation: &Operation, promised: &mut Option<Checkpoint>) {
    if let Operation::Promised(checkpoint) = operation {
        *promised = Some((**checkpoint).clone());
    }
}

fn hash(tree: &Tree) -> u64 {
    let mut hasher = DefaultHasher::new();
    tree.hash(&mut hasher);
    hasher.finish()
}
