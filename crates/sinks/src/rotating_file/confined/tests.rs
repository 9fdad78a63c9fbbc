use std::fs as plain;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tempfile::TempDir;

use super::*;

/// A folder `root`, next to it a folder `outside` with a folder in it, and the root opened with and without
/// `openat2`.
struct Place {
    folder: TempDir,
    roots: [Root; 2],
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        plain::create_dir_all(folder.path().join("outside/sub")).unwrap();
        let open = || Root::open_or_create(&folder.path().join("root"), 0o750).unwrap();
        let stepwise = Root { has_openat2: false, ..open() };
        let roots = [open(), stepwise];
        Self { folder, roots }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn outside(&self) -> PathBuf {
        self.folder.path().join("outside")
    }

    /// Runs a check once with each way to resolve paths; nothing may come to lie outside.
    fn each(check: impl Fn(&Self, &Root)) {
        for index in 0..2 {
            let place = Self::new();
            check(&place, &place.roots[index]);
            assert_eq!(plain::read_dir(place.outside()).unwrap().count(), 1);
            assert_eq!(plain::read_dir(place.outside().join("sub")).unwrap().count(), 0);
        }
    }
}

/// A file to append to, and whether it was created.
fn append(root: &Root, path: &FilePath, mode: u32) -> Result<(plain::File, bool), Failure> {
    match root.open_append(path)? {
        Some(file) => Ok((file, false)),
        None => Ok((root.create_append(path, mode)?.0, true)),
    }
}

fn number(failure: &Failure) -> Option<i32> {
    failure.source.raw_os_error()
}

fn path(text: &str) -> FilePath {
    FilePath::from_bytes(text.as_bytes()).unwrap()
}

fn mode(path: impl AsRef<Path>) -> u32 {
    plain::metadata(path).unwrap().permissions().mode() & PERMISSIONS
}

#[test]
fn modes_are_those_asked_for() {
    Place::each(|place, root| {
        // Whoever runs this has a umask that would take some of these bits away.
        root.create_folders(&path("a/b/c"), 0o777).unwrap();
        assert!(append(root, &path("a/b/c"), 0o666).unwrap().1);
        let existing = append(root, &path("a/b/c"), 0o600).unwrap();
        assert!(!existing.1);
        let modes = ["a", "a/b", "a/b/c"].map(|name| mode(place.root().join(name)));
        assert_eq!(modes, [0o777, 0o777, 0o666]);
    });
    assert_eq!([folder_mode(0o640), folder_mode(0o444), folder_mode(0o600)], [0o750, 0o755, 0o700]);
}

#[test]
fn the_fixed_part_is_created_and_its_links_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    plain::create_dir(folder.path().join("disk")).unwrap();
    symlink("disk", folder.path().join("logs")).unwrap();
    let root = Root::open_or_create(&folder.path().join("logs/a/b"), 0o755).unwrap();
    assert!(root.has_openat2 || cfg!(not(target_os = "linux")));
    assert!(folder.path().join("disk/a/b").is_dir());
    assert_eq!(mode(folder.path().join("disk/a")), 0o755);
    let failure = Root::open_or_create(&folder.path().join("logs/a/b\n/x\0"), 0o755).unwrap_err();
    assert!(failure.to_string().contains(r"b\n/x\u{0}"), "{failure}");
}

#[test]
fn appends_whatever_the_position() {
    Place::each(|place, root| {
        let mut opened = append(root, &path("x"), 0o600).unwrap();
        opened.0.write_all(b"one\n").unwrap();
        let mut again = append(root, &path("x"), 0o600).unwrap();
        again.0.write_all(b"two\n").unwrap();
        opened.0.write_all(b"three\n").unwrap();
        assert_eq!(plain::read_to_string(place.root().join("x")).unwrap(), "one\ntwo\nthree\n");
    });
}

#[test]
fn no_link_below_the_root_is_followed() {
    Place::each(|place, root| {
        symlink(place.outside(), place.root().join("folder")).unwrap();
        symlink(place.outside().join("new"), place.root().join("dangling")).unwrap();
        symlink("../outside", place.root().join("relative")).unwrap();
        let names_it = |failure: Failure, link: &str| {
            let expected = place.root().join(link).display().to_string();
            assert!(failure.to_string().contains(&format!("`{expected}` is a symbolic link")), "{failure}");
        };
        names_it(root.create_folders(&path("folder/a/x"), 0o700).unwrap_err(), "folder");
        names_it(root.create_folders(&path("relative/x"), 0o700).unwrap_err(), "relative");
        names_it(append(root, &path("folder/x"), 0o600).unwrap_err(), "folder");
        names_it(append(root, &path("folder/sub/x"), 0o600).unwrap_err(), "folder");
        names_it(append(root, &path("dangling"), 0o600).unwrap_err(), "dangling");
        names_it(root.open_existing(&path("dangling")).unwrap_err(), "dangling");
        names_it(root.stat(&path("relative/x")).unwrap_err(), "relative");
        names_it(root.list(Some(&path("folder"))).unwrap_err(), "folder");
        names_it(root.handle(&path("folder/x")).unwrap_err(), "folder");
        names_it(root.sync_folder_of(&path("folder/x")).unwrap_err(), "folder");
        names_it(root.sync_folders([&path("folder/x")]).unwrap_err(), "folder");
        names_it(root.remove_file(&path("folder/x")).unwrap_err(), "folder");
        names_it(root.rename_noreplace(&path("dangling"), &path("folder/x")).unwrap_err(), "folder");
        assert_eq!(
            number(&root.create_new(&path("dangling"), 0o600).unwrap_err()),
            Some(Errno::EXIST.raw_os_error())
        );
        // A link itself can be looked at and removed.
        assert!(!root.stat(&path("dangling")).unwrap().unwrap().is_file);
        assert!(root.remove_file(&path("dangling")).unwrap());
    });
}

#[test]
fn a_link_that_comes_and_goes_is_never_followed() {
    const TRIES: usize = 3_000;
    Place::each(|place, root| {
        plain::create_dir(place.root().join("host")).unwrap();
        symlink(place.outside(), place.root().join("link")).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let folder = fs::open(place.root(), READABLE_FOLDER, Mode::empty()).unwrap();
                while !done.load(Ordering::Relaxed) {
                    fs::renameat_with(&folder, "host", &folder, "link", RenameFlags::EXCHANGE).unwrap();
                }
            });
            let mut created = 0;
            for attempt in 0..TRIES {
                let file = path(&format!("host/{}/x{attempt}", ["sub", "new"][attempt % 2]));
                let opened = root.create_folders(&file, 0o700).and_then(|_| append(root, &file, 0o600));
                created += usize::from(opened.is_ok());
            }
            done.store(true, Ordering::Relaxed);
            assert!(created > 0);
        });
    });
}

#[test]
fn what_is_no_file_is_refused_without_waiting() {
    Place::each(|place, root| {
        let fifo = place.root().join("fifo");
        fs::mknodat(fs::CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        plain::create_dir(place.root().join("folder")).unwrap();
        plain::write(place.root().join("file"), "x").unwrap();
        let failure = append(root, &path("fifo"), 0o600).unwrap_err();
        assert!(failure.to_string().contains("is no regular file"), "{failure}");
        let failure = append(root, &path("folder"), 0o600).unwrap_err();
        assert!(failure.to_string().contains("is a folder where a file should be"), "{failure}");
        let failure = root.create_folders(&path("file/x"), 0o700).unwrap_err();
        assert!(failure.to_string().contains("is a file where a folder should be"), "{failure}");
        assert_eq!(number(&failure), Some(Errno::NOTDIR.raw_os_error()));
    });
}

#[test]
fn errors_keep_their_number_and_name_the_file() {
    Place::each(|place, root| {
        let long = path(&"x".repeat(300));
        let failure = append(root, &long, 0o600).unwrap_err();
        assert_eq!(number(&failure), Some(Errno::NAMETOOLONG.raw_os_error()));
        assert!(failure.to_string().starts_with(&format!("cannot open `{}/xxx", place.root().display())));
        let folders = root.sync_folders([&path("no/x")]).unwrap_err();
        let error = fshipper_pipeline::anyhow::Error::new(folders);
        let number = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error());
        assert_eq!(number, Some(Errno::NOENT.raw_os_error()));
    });
}

#[test]
fn a_folder_that_has_gone_is_made_durable_where_it_stood() {
    Place::each(|place, root| {
        std::fs::create_dir(place.root().join("there")).unwrap();
        for path in ["there/gone/x", "gone/too/x", "x"].map(path) {
            root.sync_folder_of(&path).unwrap();
        }
        std::fs::write(place.root().join("file"), "").unwrap();
        let failure = root.sync_folder_of(&path("file/x")).unwrap_err();
        assert_eq!(number(&failure), Some(Errno::NOTDIR.raw_os_error()));
    });
}

#[test]
fn renaming_never_replaces() {
    Place::each(|place, root| {
        let read = |name: &str| plain::read_to_string(place.root().join(name)).unwrap();
        plain::write(place.root().join("a"), "a").unwrap();
        plain::write(place.root().join("b"), "b").unwrap();
        let failure = root.rename_noreplace(&path("a"), &path("b")).unwrap_err();
        assert_eq!(number(&failure), Some(Errno::EXIST.raw_os_error()));
        assert_eq!((read("a"), read("b")), ("a".to_owned(), "b".to_owned()));
        root.rename_noreplace(&path("a"), &path("c")).unwrap();
        assert_eq!((root.stat(&path("a")).unwrap(), read("c")), (None, "a".to_owned()));
    });
}

#[test]
fn renaming_by_a_link_never_replaces_either() {
    let place = Place::new();
    let folder = place.roots[0].open_folder(b"", FOLDER).unwrap();
    plain::write(place.root().join("a"), "a").unwrap();
    plain::write(place.root().join("b"), "b").unwrap();
    assert_eq!(link_and_unlink(&folder, b"a", &folder, b"b"), Err(Errno::EXIST));
    link_and_unlink(&folder, b"a", &folder, b"c").unwrap();
    assert_eq!(place.roots[0].stat(&path("a")).unwrap(), None);
    assert_eq!(plain::read_to_string(place.root().join("c")).unwrap(), "a");
}

#[test]
fn looks_at_lists_and_removes() {
    Place::each(|place, root| {
        root.create_folders(&path("a/b/x"), 0o700).unwrap();
        plain::write(place.root().join("a/b/x"), "four").unwrap();
        let entry = root.stat(&path("a/b/x")).unwrap().unwrap();
        assert_eq!((entry.length, entry.is_file, entry.is_folder), (4, true, false));
        assert!(root.stat(&path("a/b")).unwrap().unwrap().is_folder);
        assert_eq!(root.stat(&path("no/x")).unwrap(), None);
        assert_eq!(root.list(None).unwrap(), [path("a")]);
        assert_eq!(root.list(Some(&path("a/b"))).unwrap(), [path("a/b/x")]);
        assert_eq!(root.list(Some(&path("no"))).unwrap(), []);
        root.sync_folder_of(&path("a/b/x")).unwrap();
        root.sync_folders(&[path("a/b/x"), path("a/y"), path("z")]).unwrap();
        root.remove_empty_folders(&path("a/b/x")).unwrap();
        assert!(root.remove_file(&path("a/b/x")).unwrap());
        assert!(!root.remove_file(&path("a/b/x")).unwrap());
        root.remove_empty_folders(&path("a/b/x")).unwrap();
        assert_eq!(root.list(None).unwrap(), []);
        assert!(root.path().is_dir());
    });
}

#[test]
fn opens_what_is_there_and_creates_what_is_not() {
    Place::each(|place, root| {
        assert!(root.open_existing(&path("x")).unwrap().is_none());
        assert!(root.open_existing(&path("no/x")).unwrap().is_none());
        root.create_new(&path("x"), 0o640).unwrap().write_all(b"x").unwrap();
        assert!(root.open_existing(&path("x")).unwrap().is_some());
        assert_eq!(
            number(&root.create_new(&path("x"), 0o640).unwrap_err()),
            Some(Errno::EXIST.raw_os_error())
        );
        assert_eq!(mode(place.root().join("x")), 0o640);
    });
}

#[test]
fn a_handle_stays_in_its_folder() {
    Place::each(|place, root| {
        root.create_folders(&path("a/x"), 0o700).unwrap();
        plain::write(place.root().join("a/x"), "x").unwrap();
        let handle = root.handle(&path("a/x")).unwrap();
        plain::rename(place.root().join("a"), place.root().join("b")).unwrap();
        symlink(place.outside(), place.root().join("a")).unwrap();
        plain::rename(handle.path(), handle.path().with_file_name("y")).unwrap();
        assert!(place.root().join("b/y").is_file());
    });
}
