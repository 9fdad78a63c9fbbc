//! What a folder holds: [`Tree`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The folders and files below one folder, by their paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::rotating_file) struct Tree {
    pub(in crate::rotating_file) folders: BTreeSet<String>,
    /// The number of the inode, and the bytes.
    pub(in crate::rotating_file) files: BTreeMap<String, (u64, Vec<u8>)>,
}

impl Tree {
    /// Files of these contents, and the folders they stand in.
    pub(in crate::rotating_file) fn of(files: &[(&str, &str)]) -> Self {
        let mut tree = Self::default();
        for (number, (path, content)) in files.iter().enumerate() {
            let ends = path.match_indices('/').map(|(end, _)| end);
            tree.folders.extend(ends.map(|end| path[..end].to_owned()));
            tree.files.insert((*path).to_owned(), (number as u64 + 1, content.as_bytes().to_vec()));
        }
        tree
    }

    /// What stands below `root`, with real inodes.
    pub(in crate::rotating_file) fn read(root: &Path) -> Self {
        let mut tree = Self::default();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                if path.is_dir() {
                    tree.folders.insert(name);
                    folders.push(path);
                } else {
                    tree.files.insert(name, (path.metadata().unwrap().ino(), fs::read(&path).unwrap()));
                }
            }
        }
        tree
    }

    /// Puts all of it into `root`, instead of what stands there.
    pub(in crate::rotating_file) fn write(&self, root: &Path) {
        fs::remove_dir_all(root).unwrap();
        fs::create_dir(root).unwrap();
        for folder in &self.folders {
            fs::create_dir(root.join(folder)).unwrap();
        }
        let mut first_names: HashMap<u64, &str> = HashMap::new();
        for (path, (number, content)) in &self.files {
            match first_names.get(number) {
                Some(first) => fs::hard_link(root.join(first), root.join(path)).unwrap(),
                None => {
                    fs::write(root.join(path), content).unwrap();
                    first_names.insert(*number, path);
                }
            }
        }
    }

    /// Whether both hold the same under the same names, whatever the inodes.
    pub(in crate::rotating_file) fn is_like(&self, other: &Self) -> bool {
        self.folders == other.folders && self.contents().eq(other.contents())
    }

    fn contents(&self) -> impl Iterator<Item = (&String, &[u8])> {
        self.files.iter().map(|(path, (_, content))| (path, &content[..]))
    }
}
