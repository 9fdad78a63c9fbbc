//! What a start does before anything is written: it finishes or undoes what a crash interrupted, and brings
//! every file to its committed length.

use anyhow::{Context as _, Result};

use super::compress;
use super::disk::{Cure, Disk};
use super::ledger::{Entry, FileId, FileRecord, Intent, Ledger, Stage, State};
use super::names::FilePath;
use super::outputs::{OutputId, Outputs};

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
            Ok(entry) => entries.push(entry),
            Err(error) if Cure::of(&error) == Cure::Hold => unsettled.push((family, format!("{error:#}"))),
            Err(error) => return Err(error),
        }
    }
    ledger.append(&mut entries)?;
    compress::remove_leftovers(disk)?;
    Ok(unsettled)
}

/// Finishes or undoes what was about to happen to one file.
fn settle(
    disk: &Disk,
    ledger: &Ledger,
    id: FileId,
    intent: Intent,
    record: Option<FileRecord>,
) -> Result<Entry> {
    Ok(match (intent, record) {
        (Intent::Create(new), _) => {
            undo_creation(disk, ledger, &new.path)?;
            Entry::Withdraw(id)
        }
        (Intent::Adopt(found), _) => {
            cut_for_good(disk, &found)?;
            Entry::Withdraw(id)
        }
        (Intent::Rotate { to, period_end }, Some(record)) => finish_rotation(disk, &record, to, period_end)?
            .map_or(Entry::Withdraw(id), |record| Entry::File(id, record)),
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
        (_, None) => Entry::Withdraw(id),
    })
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
    let mut gone = Vec::new();
    for (id, record) in ledger.state().files.iter().filter(|(_, record)| record.stage == Stage::Active) {
        let Some(output) = outputs.of_family(&record.family) else { continue };
        match stand(disk, ledger.state(), record)? {
            Standing::InPlace => {}
            Standing::Held(reason) => outputs.hold_until_mended(output, reason),
            Standing::Gone => {
                outputs.set_active(output, None);
                gone.push(Entry::Forget(id));
            }
        }
    }
    ledger.append(&mut gone)
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
    match stand(disk, ledger.state(), &record)? {
        Standing::InPlace => outputs.release(output),
        Standing::Held(reason) => outputs.hold_until_mended(output, reason),
        Standing::Gone => {
            ledger.append(&mut vec![Entry::Forget(id)])?;
            outputs.set_active(output, None);
            outputs.release(output);
        }
    }
    Ok(())
}

fn stand(disk: &Disk, state: &State, record: &FileRecord) -> Result<Standing> {
    match check_active_file(disk, state, record) {
        Err(error) if Cure::of(&error) == Cure::Hold => Ok(Standing::Held(format!("{error:#}"))),
        standing => standing,
    }
}

/// What became of an active file.
enum Standing {
    InPlace,
    /// Nothing can be written to it, for this reason: it is shorter than what was committed, or cannot be used.
    Held(String),
    Gone,
}

fn check_active_file(disk: &Disk, state: &State, record: &FileRecord) -> Result<Standing> {
    let path = disk.shown(&record.path);
    let there = disk.stat(&record.path)?;
    match there {
        Some(entry) if entry.is(record.identity) && entry.length < record.length => {
            return Ok(Standing::Held(format!(
                "`{path}` holds {} bytes of the {} that were committed: the disk has lost some, or somebody has cut it; restore it, or move it away to go on in a new one",
                entry.length, record.length
            )));
        }
        Some(entry) if entry.is(record.identity) => {
            cut(disk, record)?;
            return Ok(Standing::InPlace);
        }
        _ => {}
    }
    let moved_to = find_beside(disk, state, record)?;
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
        cut_for_good(disk, &FileRecord { path, ..record.clone() })?;
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

/// The file under another name of the same folder. One that the ledger knows under that name is another one, which
/// was given the same inode.
fn find_beside(disk: &Disk, state: &State, record: &FileRecord) -> Result<Option<FilePath>> {
    let is_known = |path: &FilePath| {
        let known = state.file_at(path).and_then(|id| state.files.get(id));
        known.is_some_and(|known| known.identity == record.identity)
    };
    for path in disk.list_beside(&record.path)? {
        if !is_known(&path)
            && disk.stat(&path)?.is_some_and(|entry| entry.is_file && entry.is(record.identity))
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
