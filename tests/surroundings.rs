//! What a process finds around it: a shell that limits it, a small disk, a namespace of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fshipper_testing::{Fshipper, Running};

use crate::support::{HOST, Scene};

/// Starts the binary from a shell: `"$0" "$@"` in the script is the binary with its arguments. A script that
/// ends in `exec "$0" "$@"` leaves nothing of the shell but what it set.
pub(crate) fn in_shell(scene: &Scene, script: &str, arguments: &[&str]) -> Fshipper {
    let shell = Fshipper::new("/bin/sh", scene.path("")).variable("HOSTNAME", HOST);
    shell.arguments(["-c", script, env!("CARGO_BIN_EXE_fshipper")]).arguments(arguments)
}

/// Whether a command of the system works here; a test that needs it says so and ends otherwise.
pub(crate) fn works(what: &str, program: &str, arguments: &[&str]) -> bool {
    let works = Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success());
    if !works {
        println!("skipped: {what}");
    }
    works
}

/// The files that a process has open, as the system shows them: a deleted one ends in ` (deleted)`.
pub(crate) fn open_files(process: u32) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let links = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    links.map(|link| link.to_string_lossy().into_owned()).collect()
}

/// Whether a process has a file open, under the name that it has now.
pub(crate) fn has_open(process: &Running, path: &Path) -> bool {
    let path = path.to_string_lossy();
    open_files(process.pid()).iter().any(|open| *open == path)
}

/// A file system of its own and of a few megabytes, at a directory of a scene.
pub(crate) struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `None`, with a message, where this process may not mount one.
    pub(crate) fn mount(scene: &Scene, name: &str, size: &str) -> Option<Self> {
        let path = scene.path(name);
        fs::create_dir_all(&path).expect("a directory can be created");
        let options = format!("size={size}");
        let at = path.to_str().expect("a path of ours");
        let what = "this process may not mount a small file system";
        works(what, "mount", &["-t", "tmpfs", "-o", &options, "fshipper-test", at]).then_some(Self { path })
    }

    /// Takes all the room that is left.
    pub(crate) fn fill(&self) {
        let filled = fs::write(self.path.join("hog"), vec![0; 64 << 20]);
        filled.expect_err("a small disk is full at some point");
    }

    pub(crate) fn make_room(&self) {
        fs::remove_file(self.path.join("hog")).expect("the hog is there");
    }

    pub(crate) fn remount(&self, options: &str) {
        let at = self.path.to_str().expect("a path of ours");
        assert!(works("it must", "mount", &["-o", &format!("remount,{options}"), at]), "cannot remount {at}");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a test that fails may still have files open there.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.path).status();
        if !std::thread::panicking() {
            assert!(unmounted.is_ok_and(|status| status.success()), "cannot unmount the small disk");
        }
    }
}
