//! A disk in memory that knows what is durable: [`Model`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use fastrand::Rng;

use super::file::{File, What};
use super::tree::Tree;
use super::{FileId, Operation};

/// Files and folders, with everything that is not durable yet.
#[derive(Clone, Debug)]
pub(in crate::rotating_file) struct Model {
    files: Vec<File>,
    /// The first one is the root.
    folders: Vec<Folder>,
    /// How many namings there were.
    sequence: u64,
}

/// What a power cut takes of that which is not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rotating_file) enum Loss {
    Nothing,
    Everything,
    /// The names, and no bytes.
    Names,
    /// The bytes, and no names.
    Bytes,
    /// The bytes, and neither names nor lengths: zeros stand in their place.
    Contents,
    /// A part, drawn from this seed.
    Some(u64),
}

#[derive(Clone, Debug, Default)]
struct Folder {
    now: Names,
    durable: Names,
    pending: Vec<Naming>,
}

type Names = BTreeMap<String, Target>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    File(FileId),
    Folder(usize),
}

/// Names of one folder that change together.
#[derive(Clone, Debug)]
struct Naming {
    sequence: u64,
    changes: Vec<(String, Option<Target>)>,
}

impl Model {
    /// A disk on which all of `tree` is durable.
    pub(in crate::rotating_file) fn of(tree: &Tree) -> Self {
        let mut model = Self { files: Vec::new(), folders: vec![Folder::default()], sequence: 0 };
        for path in &tree.folders {
            model.make_folder(path);
        }
        let mut known: HashMap<u64, FileId> = HashMap::new();
        for (path, (number, content)) in &tree.files {
            let file = *known.entry(*number).or_insert_with(|| {
                model.files.push(File::durable(*number, content));
                model.files.len() - 1
            });
            let (folder, name) = model.parent(path);
            model.name(folder, vec![(name, Some(Target::File(file)))]);
        }
        model.apply(&Operation::SyncEverything);
        model
    }

    /// The inode's number of a file.
    pub(super) fn number(&self, file: FileId) -> u64 {
        self.files[file].number
    }

    /// The file at `path` now.
    pub(super) fn file_at(&self, path: &str) -> Option<FileId> {
        let (folder, name) = self.parent(path);
        match self.folders[folder].now.get(&name) {
            Some(Target::File(file)) => Some(*file),
            _ => None,
        }
    }

    /// All files that have a name now.
    pub(super) fn files(&self) -> Vec<(String, FileId)> {
        let mut files = Vec::new();
        let names: Vec<Rc<Names>> = self.folders.iter().map(|folder| Rc::new(folder.now.clone())).collect();
        walk(&names, |path, target| {
            if let Target::File(file) = target {
                files.push((path, file));
            }
        });
        files
    }

    /// What stands there now.
    pub(in crate::rotating_file) fn tree(&self) -> Tree {
        self.after_power_cut(Loss::Nothing)
    }

    /// What a power cut leaves.
    pub(in crate::rotating_file) fn after_power_cut(&self, loss: Loss) -> Tree {
        let mut random = Rng::with_seed(if let Loss::Some(seed) = loss { seed } else { 0 });
        let in_order = random.bool();
        let cut = random.u64(..=self.sequence);
        let mut survives = |naming: &Naming| match loss {
            Loss::Nothing | Loss::Bytes | Loss::Contents => true,
            Loss::Everything | Loss::Names => false,
            Loss::Some(_) if in_order => naming.sequence < cut,
            Loss::Some(_) => random.bool(),
        };
        let mut names = Vec::new();
        for folder in &self.folders {
            let mut left = folder.durable.clone();
            folder
                .pending
                .iter()
                .filter(|naming| survives(naming))
                .for_each(|naming| naming.apply(&mut left));
            names.push(Rc::new(left));
        }
        let mut tree = Tree::default();
        let mut contents: HashMap<FileId, Vec<u8>> = HashMap::new();
        walk(&names, |path, target| match target {
            Target::Folder(_) => {
                tree.folders.insert(path);
            }
            Target::File(id) => {
                let file = &self.files[id];
                let content = contents.entry(id).or_insert_with(|| file.after_power_cut(loss, &mut random));
                tree.files.insert(path, (file.number, content.clone()));
            }
        });
        tree
    }

    /// Does what was done.
    pub(in crate::rotating_file) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::CreateFolders(path) => {
                for (end, _) in path.match_indices('/') {
                    self.make_folder(&path[..end]);
                }
            }
            Operation::Create(path) => {
                let number = self.free_number();
                self.files.push(File::durable(number, &[]));
                let (folder, name) = self.parent(path);
                self.name(folder, vec![(name, Some(Target::File(self.files.len() - 1)))]);
            }
            Operation::Append { file, offset, bytes } | Operation::Write { file, offset, bytes } => {
                self.files[*file].edit(What::Write(*offset, bytes.clone().into()));
            }
            Operation::Truncate { file, length } => self.files[*file].edit(What::Truncate(*length)),
            Operation::Sync(file) => self.files[*file].sync(),
            Operation::SyncFailed(file) => self.files[*file].fail_to_sync(),
            Operation::SyncEverything => {
                self.files.iter_mut().for_each(File::sync);
                self.folders.iter_mut().for_each(Folder::sync);
            }
            Operation::SyncFolders(paths) => {
                for path in paths {
                    let ends = path.match_indices('/').map(|(end, _)| end + 1);
                    for end in ends.chain([0]) {
                        let folder = self.parent(&path[..end]).0;
                        self.folders[folder].sync();
                    }
                }
            }
            Operation::SyncFolderOf(path) => {
                let folders =
                    path.match_indices('/').rev().filter_map(|(end, _)| self.folder_at(&path[..end]));
                let nearest = { folders }.next().unwrap_or(0);
                self.folders[nearest].sync();
            }
            Operation::Rename { from, to } => {
                let ((from_folder, from_name), (to_folder, to_name)) = (self.parent(from), self.parent(to));
                let target = self.folders[from_folder].now[&from_name];
                if from_folder == to_folder {
                    self.name(from_folder, vec![(from_name, None), (to_name, Some(target))]);
                } else {
                    self.name(to_folder, vec![(to_name, Some(target))]);
                    self.name(from_folder, vec![(from_name, None)]);
                }
            }
            Operation::Remove(path) => {
                let (folder, name) = self.parent(path);
                self.name(folder, vec![(name, None)]);
            }
            Operation::RemoveFolders(path) => {
                for (end, _) in path.match_indices('/').rev() {
                    // Some of them may have gone before.
                    let Some(inner) = self.folder_at(&path[..end]) else { continue };
                    if !self.folders[inner].now.is_empty() {
                        break;
                    }
                    let (outer, name) = self.parent(&path[..end]);
                    self.name(outer, vec![(name, None)]);
                }
            }
            Operation::Nothing | Operation::Promised(_) | Operation::Opened => {}
        }
    }

    fn name(&mut self, folder: usize, changes: Vec<(String, Option<Target>)>) {
        let naming = Naming { sequence: self.sequence, changes };
        self.sequence += 1;
        naming.apply(&mut self.folders[folder].now);
        self.folders[folder].pending.push(naming);
    }

    fn make_folder(&mut self, path: &str) {
        let (parent, name) = self.parent(path);
        if !self.folders[parent].now.contains_key(&name) {
            self.folders.push(Folder::default());
            let folder = Target::Folder(self.folders.len() - 1);
            self.name(parent, vec![(name, Some(folder))]);
        }
    }

    /// The folder that `path` stands in, which is there, and its name in it.
    fn parent(&self, path: &str) -> (usize, String) {
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        let folder = self.folder_at(folders).unwrap_or_else(|| panic!("`{path}` stands in no folder"));
        (folder, name.to_owned())
    }

    fn folder_at(&self, path: &str) -> Option<usize> {
        path.split('/').filter(|part| !part.is_empty()).try_fold(0, |folder, part| {
            match self.folders[folder].now.get(part)? {
                Target::Folder(inner) => Some(*inner),
                Target::File(_) => None,
            }
        })
    }

    /// The lowest number of an inode whose file has no name, and will have none after a power cut.
    fn free_number(&self) -> u64 {
        let mut used = BTreeSet::new();
        let mut note = |target: &Target| {
            if let Target::File(file) = target {
                used.insert(self.files[*file].number);
            }
        };
        for folder in &self.folders {
            folder.now.values().chain(folder.durable.values()).for_each(&mut note);
            let pending = folder.pending.iter().flat_map(|naming| &naming.changes);
            pending.filter_map(|(_, target)| target.as_ref()).for_each(&mut note);
        }
        (1..).find(|number| !used.contains(number)).expect("there are more numbers than files")
    }
}

impl Folder {
    fn sync(&mut self) {
        for naming in self.pending.drain(..) {
            naming.apply(&mut self.durable);
        }
    }
}

impl Naming {
    fn apply(&self, names: &mut Names) {
        for (name, target) in &self.changes {
            match target {
                Some(target) => names.insert(name.clone(), *target),
                None => names.remove(name),
            };
        }
    }
}

/// Visits everything below the root, folders first.
fn walk(names: &[Rc<Names>], mut visit: impl FnMut(String, Target)) {
    let mut folders = vec![(String::new(), 0)];
    while let Some((path, folder)) = folders.pop() {
        for (name, target) in names[folder].iter() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            visit(path.clone(), *target);
            if let Target::Folder(inner) = target {
                folders.push((path, *inner));
            }
        }
    }
}
