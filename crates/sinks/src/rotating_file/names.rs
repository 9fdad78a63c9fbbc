//! Names of output files: [`FilePath`].

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use fshipper_pipeline::Escaped;
use triomphe::ThinArc;

/// The path of a file relative to the fixed part of `path`: one or more components joined by `/`, none of
/// them empty, `.` or `..`. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FilePath(ThinArc<(), u8>);

impl FilePath {
    /// Joins components; `None` when one of them is no name for a file.
    pub(super) fn from_components<'a>(components: impl IntoIterator<Item = &'a OsStr>) -> Option<Self> {
        let components: Vec<&[u8]> = components.into_iter().map(OsStrExt::as_bytes).collect();
        let slash = components.iter().any(|component| component.contains(&b'/'));
        if slash { None } else { Self::from_bytes(&components.join(&b'/')) }
    }

    /// Reads what [`FilePath::as_bytes`] gave; `None` when it is no relative path below the root.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let sound = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
        bytes.split(|byte| *byte == b'/').all(sound).then(|| Self::of_sound(bytes))
    }

    /// The components joined by `/`.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0.slice
    }

    /// The components, the file's name last.
    pub(super) fn components(&self) -> Vec<&OsStr> {
        self.as_bytes().split(|byte| *byte == b'/').map(OsStr::from_bytes).collect()
    }

    /// The last component.
    pub(super) fn file_name(&self) -> &OsStr {
        let bytes = self.as_bytes();
        let start = bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        OsStr::from_bytes(&bytes[start..])
    }

    /// The components of the folder it stands in; none for the root itself.
    pub(super) fn folder(&self) -> Vec<&OsStr> {
        let mut components = self.components();
        components.pop();
        components
    }

    /// The path with `suffix`, which holds no slash, at the end of the file's name.
    pub(super) fn with_suffix(&self, suffix: &str) -> Self {
        assert!(!suffix.contains('/'), "the suffix `{suffix}` would leave the folder");
        Self::of_sound(&[self.as_bytes(), suffix.as_bytes()].concat())
    }

    fn of_sound(bytes: &[u8]) -> Self {
        Self(ThinArc::from_header_and_slice((), bytes))
    }
}

/// Printable whatever it holds.
impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Escaped(self.as_bytes()))
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_only_paths_below_the_root() {
        for wrong in ["", "/", "/a", "a/", "a//b", ".", "a/../b", "a/./b", "a\0b"] {
            assert!(FilePath::from_bytes(wrong.as_bytes()).is_none(), "{wrong:?}");
        }
        let path = FilePath::from_components(["web1", "app.log"].map(OsStr::new)).unwrap();
        assert_eq!((path.file_name(), path.folder()), (OsStr::new("app.log"), vec![OsStr::new("web1")]));
        assert_eq!(path.with_suffix(".1").to_string(), "web1/app.log.1");
    }
}
