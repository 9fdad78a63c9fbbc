//! What a start does before anything is written: it finishes or undoes what a crash interrupted, and brings
//! every file to its committed length.

use std::collections::HashMap;

use anyhow::{Context as _, Result};

use super::compress;
use super::disk::{Cure, Disk};
use super::in_place::warn_of_emptied_notes;
use super::ledger::{Entry, FileId, FileRecord, Intent, Ledger, Stage, State};
use super::names::FilePath;
use super::outputs::{OutputId, Outputs, losses_path};

/// Files that nobody knows, in folders in which one that is known is missing. Each folder is listed once, however many
/// are missing there.
#[derive(Default)]
struct Beside {
    /// By the folder, which may be the root itself, and then by identity.
    folders: HashMap<Option<FilePath>, HashMap<u64, FilePath>>,
}

/// Finishes or undoes what the ledger says was about to happen.
///
/// Whatever is found done already is made durable all the same, before the ledger forgets about it: who did it
/// may have been killed before its sync, and then a power cut would undo it, with nobody left who knows.
///
/// Returns the outputs of which a path cannot be looked at now, each with the reason: their intents stay.
pub(super) fn settle_intents(disk: &Disk, ledger: &mut Ledger) -> Result<Vec<(FilePath, String)>> {
    let intents: Vec<_> = ledger.state().intents.iter().map(|(id, intent)| (*id, intent.clone())).collect();
    let mut entries = Vec::new();
    let mut unsettled = Vec::new();
    for (id, intent) in intents {
        let record = ledger.state().files.get(id).cloned();
        let family = match (&intent, &record) {
            (Intent::Create(record) | Intent::Adopt(record), _) | (_, Some(record)) => record.family.clone(),
            (_, None) => {
                entries.push(Entry::Withdraw(id));
                continue;
            }
        };
        match settle(disk, ledger, id, intent, record) {
            Ok(settled) => entries.extend(settled),
            Err(error) if Cure::of(&error) == Cure::Hold => unsettled.push((family, format!("{error:#}"))),
            Err(error) => return Err(error),
        }
    }
    ledger.append(&mut entries)?;
    compress::remove_leftovers(disk)?;
    Ok(unsettled)
}

/// Finishes or undoes what was about to happen to one file; `None`: it is still to happen.
fn settle(
    disk: &Disk,
    ledger: &Ledger,
    id: FileId,
    intent: Intent,
    record: Option<FileRecord>,
) -> Result<Option<Entry>> {
    Ok(Some(match (intent, record) {
        (Intent::Create(new), _) => {
            undo_creation(disk, ledger, &new.path)?;
            Entry::Withdraw(id)
        }
        (Intent::Adopt(found), _) => {
            cut_for_good(disk, &found)?;
            Entry::Withdraw(id)
        }
        (Intent::Rotate { to, period_end, .. }, Some(record)) => {
            finish_rotation(disk, &record, to, period_end)?
                .map_or(Entry::Withdraw(id), |record| Entry::File(id, record))
        }
        (Intent::Compress { to, identity, length }, Some(record)) => {
            let copy = FileRecord { path: to, identity, length, stage: Stage::Compressed, ..record.clone() };
            match has_identity(disk, &copy.path, identity)? {
                true => {
                    disk.remove(&record.path, record.identity)?;
                    disk.sync_folder_of(&copy.path)?;
                    Entry::File(id, copy)
                }
                false => Entry::Withdraw(id),
            }
        }
        (Intent::Delete, Some(record)) => {
            disk.remove(&record.path, record.identity)?;
            disk.sync_folder_of(&record.path)?;
            Entry::Forget(id)
        }
        (Intent::Restore { length, tail }, Some(record)) => {
            let found = disk.stat(&record.path)?;
            let is_restored =
                found.is_some_and(|entry| entry.is(record.identity) && entry.length >= record.length);
            if !is_restored {
                return Ok(None);
            }
            Entry::File(id, FileRecord { length, tail, ..record })
        }
        (_, None) => Entry::Withdraw(id),
    }))
}

/// Removes a file that was created and never recorded; of ours that stands at the path it is none.
fn undo_creation(disk: &Disk, ledger: &Ledger, path: &FilePath) -> Result<()> {
    let Some(entry) = disk.stat(path)? else { return disk.sync_folder_of(path) };
    let state = ledger.state();
    let known = state.file_at(path).and_then(|id| state.files.get(id));
    if known.is_some_and(|record| entry.is(record.identity)) {
        return Ok(());
    }
    tracing::debug!(path = %disk.shown(path), bytes = entry.length, "removing a file that was never committed");
    disk.remove(path, entry.identity)?;
    disk.sync_folder_of(path)
}

/// The file as it is after its rotation; `None` when the rename did not happen.
fn finish_rotation(
    disk: &Disk,
    record: &FileRecord,
    to: FilePath,
    period_end: i64,
) -> Result<Option<FileRecord>> {
    if !has_identity(disk, &to, record.identity)? {
        return Ok(None);
    }
    // Where a file system cannot rename without replacing, a file may have both names for a moment.
    disk.remove(&record.path, record.identity)?;
    disk.sync_folder_of(&to)?;
    let period = (record.period.0, period_end);
    Ok(Some(FileRecord { path: to, period, stage: Stage::Rotated, ..record.clone() }))
}

fn has_identity(disk: &Disk, path: &FilePath, identity: u64) -> Result<bool> {
    Ok(disk.stat(path)?.is_some_and(|entry| entry.is(identity)))
}

/// Brings the files that lines still go to to their committed lengths, and finds out which of them others
/// have renamed, deleted or cut in the meantime.
pub(super) fn check_active_files(disk: &Disk, ledger: &mut Ledger, outputs: &mut Outputs) -> Result<()> {
    let mut beside = Beside::default();
    let mut entries = Vec::new();
    let mut restored = Vec::new();
    for (id, record) in ledger.state().files.iter().filter(|(_, record)| record.stage == Stage::Active) {
        let Some(output) = outputs.of_family(&record.family) else { continue };
        match stand(disk, ledger.state(), &mut beside, (id, record))? {
            Standing::InPlace => {}
            Standing::Restored(committed) => {
                entries.push(Entry::File(id, committed));
                restored.push(output);
            }
            Standing::Held(reason) => outputs.hold_until_mended(output, reason),
            Standing::Gone => {
                outputs.set_active(output, None);
                entries.push(Entry::Forget(id));
            }
        }
    }
    ledger.append(&mut entries)?;
    restored.into_iter().try_for_each(|output| check_held_file(disk, ledger, outputs, output))
}

/// Brings the files of outputs that the template no longer has to their committed lengths, durably: `changes` say
/// that nothing is written to them any more, so no later start will. One that cannot be looked at now is left for
/// the next start.
pub(super) fn finish_retired(
    disk: &Disk,
    state: &State,
    changes: &mut Vec<Entry>,
    single_syncs: usize,
) -> Result<()> {
    let mut beside = Beside::default();
    let mut retired = Vec::new();
    for entry in std::mem::take(changes) {
        let Entry::File(id, record) = entry else {
            changes.push(entry);
            continue;
        };
        match stand(disk, state, &mut beside, (id, &record))? {
            Standing::InPlace => retired.push((id, record)),
            // A moment ago it was not: the next start will see it.
            Standing::Restored(_) => {}
            Standing::Gone => changes.push(Entry::Forget(id)),
            Standing::Held(reason) => tracing::warn!("{reason}; no log of this `path` writes to it any more"),
        }
    }
    let is_many = retired.len() > single_syncs;
    for (_, record) in &retired {
        if is_many { cut(disk, record) } else { cut_for_good(disk, record) }?;
    }
    if is_many {
        disk.sync_everything()?;
    }
    changes.extend(retired.into_iter().map(|(id, record)| Entry::File(id, record)));
    Ok(())
}

/// Looks again at the file of an output that [`check_active_files`] has held: somebody may have mended it.
pub(super) fn check_held_file(
    disk: &Disk,
    ledger: &mut Ledger,
    outputs: &mut Outputs,
    output: OutputId,
) -> Result<()> {
    let file = outputs.active(output);
    let Some((id, record)) = file.and_then(|id| Some((id, ledger.state().files.get(id)?.clone()))) else {
        return Ok(());
    };
    match stand(disk, ledger.state(), &mut Beside::default(), (id, &record))? {
        Standing::InPlace => outputs.release(output),
        Standing::Restored(committed) => {
            ledger.append(&mut vec![Entry::File(id, committed)])?;
            // Now that the ledger knows, it can be cut.
            return check_held_file(disk, ledger, outputs, output);
        }
        Standing::Held(reason) => outputs.hold_until_mended(output, reason),
        Standing::Gone => {
            ledger.append(&mut vec![Entry::Forget(id)])?;
            outputs.set_active(output, None);
            outputs.release(output);
        }
    }
    Ok(())
}

fn stand(
    disk: &Disk,
    state: &State,
    beside: &mut Beside,
    (id, record): (FileId, &FileRecord),
) -> Result<Standing> {
    match check_active_file(disk, state, beside, id, record) {
        Err(error) if Cure::of(&error) == Cure::Hold => Ok(Standing::Held(format!("{error:#}"))),
        standing => standing,
    }
}

/// What became of an active file.
enum Standing {
    InPlace,
    /// Others had cut it, and somebody has put back what it held. As the ledger has to have it before it is cut.
    Restored(FileRecord),
    /// Nothing can be written to it, for this reason: it is shorter than what was committed, or cannot be used.
    Held(String),
    Gone,
}

fn check_active_file(
    disk: &Disk,
    state: &State,
    beside: &mut Beside,
    id: FileId,
    record: &FileRecord,
) -> Result<Standing> {
    let path = disk.shown(&record.path);
    let there = disk.stat(&record.path)?;
    let restore = match state.intents.get(&id) {
        Some(Intent::Restore { length, tail }) => Some((*length, *tail)),
        _ => None,
    };
    match there.filter(|entry| entry.is(record.identity)) {
        Some(entry) if entry.length < record.length => {
            if record.family == losses_path() {
                warn_of_emptied_notes(&path);
                return Ok(Standing::Gone);
            }
            let (found, written) = (entry.length, record.length);
            return Ok(Standing::Held(match restore {
                None => format!(
                    "`{path}` holds {found} bytes of the {written} that were committed: the disk has lost some, or somebody has cut it; restore it, or move it away to go on in a new one"
                ),
                Some((committed, _)) => format!(
                    "`{path}` holds {found} bytes of the {written} that were written to it, {committed} of them committed: somebody has cut it; put back all that it held, or move it away to go on in a new one"
                ),
            }));
        }
        Some(_) => {
            if let Some((length, tail)) = restore {
                return Ok(Standing::Restored(FileRecord { length, tail, ..record.clone() }));
            }
            cut(disk, record)?;
            return Ok(Standing::InPlace);
        }
        None => {}
    }
    let moved_to = beside.find(disk, state, record)?;
    match (&moved_to, there) {
        (Some(to), _) => {
            let to = disk.shown(to);
            tracing::info!("`{path}` was rotated to `{to}` by somebody else: going on in a new file");
        }
        (None, Some(_)) => {
            tracing::warn!("`{path}` was replaced by somebody else: going on in what is there");
        }
        (None, None) => {
            tracing::warn!("`{path}` has gone: going on in a new file, after what was committed");
        }
    }
    if let Some(path) = moved_to {
        let length = restore.map_or(record.length, |(length, _)| length);
        cut_for_good(disk, &FileRecord { path, length, ..record.clone() })?;
    }
    Ok(Standing::Gone)
}

/// Cuts off what was written and never committed, for a file that the ledger is about to forget.
fn cut_for_good(disk: &Disk, record: &FileRecord) -> Result<()> {
    cut(disk, record)?;
    match disk.open(&record.path)? {
        Some(file) if disk.look_at(&file)?.is(record.identity) => disk.sync(&file),
        _ => Ok(()),
    }
}

/// Cuts off what was written and never committed.
fn cut(disk: &Disk, record: &FileRecord) -> Result<()> {
    let Some(entry) = disk.stat(&record.path)? else { return Ok(()) };
    if !entry.is(record.identity) || entry.length <= record.length {
        return Ok(());
    }
    let path = disk.shown(&record.path);
    let file = disk.open(&record.path)?.with_context(|| format!("`{path}` has just gone"))?;
    if !disk.look_at(&file)?.is(record.identity) {
        return Ok(());
    }
    tracing::debug!(path, from = entry.length, to = record.length, "cutting off what was never committed");
    disk.truncate(&file, record.length).with_context(|| format!("cannot cut `{path}`"))
}

impl Beside {
    /// The file under another name of the same folder.
    fn find(&mut self, disk: &Disk, state: &State, record: &FileRecord) -> Result<Option<FilePath>> {
        let folder = FilePath::from_components(record.path.folder());
        if !self.folders.contains_key(&folder) {
            let strangers = strangers_beside(disk, state, &record.path)?;
            self.folders.insert(folder.clone(), strangers);
        }
        Ok(self.folders[&folder].get(&record.identity).cloned())
    }
}

/// The files in the folder of `path` by their identities, but those that the ledger knows under their names: a file
/// that is gone may have had the same inode.
fn strangers_beside(disk: &Disk, state: &State, path: &FilePath) -> Result<HashMap<u64, FilePath>> {
    let mut strangers = HashMap::new();
    for path in disk.list_beside(path)? {
        let Some(entry) = disk.stat(&path)?.filter(|entry| entry.is_file) else { continue };
        let known = state.file_at(&path).and_then(|id| state.files.get(id));
        if !known.is_some_and(|known| entry.is(known.identity)) {
            strangers.extend(entry.identities().map(|identity| (identity, path.clone())));
        }
    }
    Ok(strangers)
}
