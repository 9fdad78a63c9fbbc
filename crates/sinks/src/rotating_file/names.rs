//! Names of output files: [`FilePath`].

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fshipper_pipeline::Escaped;

/// The path of a file relative to the fixed part of `path`: one or more components joined by `/`, none of
/// them empty, `.` or `..`. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FilePath(Arc<[u8]>);

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
        bytes.split(|byte| *byte == b'/').all(sound).then(|| Self(bytes.into()))
    }

    /// The components joined by `/`.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components, the file's name last.
    pub(super) fn components(&self) -> Vec<&OsStr> {
        self.0.split(|byte| *byte == b'/').map(OsStr::from_bytes).collect()
    }

    /// The last component.
    pub(super) fn file_name(&self) -> &OsStr {
        let start = self.0.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        OsStr::from_bytes(&self.0[start..])
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
        Self([&*self.0, suffix.as_bytes()].concat().into())
    }
}

/// Printable whatever it holds.
impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Escaped(&self.0))
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
