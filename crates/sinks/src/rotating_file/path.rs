//! Where lines go: [`Template`].
//!
//! A template is a path with placeholders (`{host}`, `{file}`, `{path}`) and the fields of a date (`%Y`).
//! The folders before the first of them are its [fixed](Template::fixed) part: the operator's own, trusted,
//! links and all. What lies below comes off the wire: each value is [encoded](super::encode) so that
//! whatever it holds, it is one component (`{path}`: one for each folder) that nothing else encodes to.
//!
//! # Names of this sink's own
//!
//! Invariant: no template renders any origin to a name that this sink gives to something else. Those names
//! are, and may only be
//!
//! - whatever begins with [`OWN_PREFIX`], in any folder: the ledger, the lock, temporary files;
//! - a rendered path followed, in this order, by any of a [collision suffix](collision_suffix); the time of a
//!   rotation, `.20261123T000000`; a number, `.1`, without leading zeros and at most [`MAX_NUMBER`]; `.gz`.
//!
//! So a template may not end in `.gz`, and a value at the end of a path is encoded when it ends in one of
//! them: the log `app.log.1` under `{host}/{file}` goes to `app.log%2E1`, and to `app.log.1.20261123` under
//! `{host}/{file}.%Y%m%d`, where no suffix could be meant.

use std::path::{Path, PathBuf};

use fshipper_pipeline::Origin;

use super::encode;
use super::names::FilePath;
use super::period::{Field, Period};

mod parse;

/// What the names of this sink's own files begin with.
pub(super) const OWN_PREFIX: &str = ".fshipper";

/// The highest number that may be appended to a rendered path. It has fewer digits than a date.
pub(super) const MAX_NUMBER: u32 = 999_999;

/// A rendered component is at most this long, so that the sink's own suffixes fit in the 255 bytes that a
/// file system allows.
const MAX_COMPONENT_BYTES: usize = 200;

/// The folders that a value of `{path}` may become; what lies deeper becomes one component, with a hash.
const MAX_FOLDERS: usize = 32;

/// The bytes that a value of `{path}` may become, so that the whole stays below the 4,096 of the kernel.
const MAX_PATH_BYTES: usize = 2_048;

/// The folder under which `{path}` puts a path that does not begin with a slash.
const RELATIVE: &str = "%relative";

/// A path with placeholders and fields of a date.
#[derive(Clone, Debug)]
pub(super) struct Template {
    fixed: PathBuf,
    components: Vec<Component>,
    finest: Option<Field>,
}

/// What one component of a template is made of; with `{path}` it renders to several.
#[derive(Clone, Debug, Default)]
struct Component {
    pieces: Vec<Piece>,
    /// How many bytes each value may take.
    value_bytes: usize,
    /// Whether the last value ends the path, or as good as.
    guarded: bool,
    /// The piece after which the offset goes when the clock shows a time twice.
    offset_after: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Value),
    /// A conversion of a date, such as `%Y`.
    Date(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Host,
    File,
    Path,
}

impl Template {
    /// Reads a template. `date_suffix` is appended to a `text` without fields of a date.
    ///
    /// Braces and percent signs that stand for themselves are doubled. A relative path begins in the
    /// current directory.
    ///
    /// # Errors
    ///
    /// Says what is wrong and what to write instead.
    pub(super) fn parse(text: &str, date_suffix: Option<&str>) -> Result<Self, String> {
        parse::template(text, date_suffix)
    }

    /// The folders before the first placeholder or date: absolute, not of our making, trusted.
    pub(super) fn fixed(&self) -> &Path {
        &self.fixed
    }

    /// The finest field of a date in it; `None` when names carry no period.
    pub(super) fn finest(&self) -> Option<Field> {
        self.finest
    }

    /// Whether all origins go to the same file, because no placeholder tells them apart.
    pub(super) fn is_shared(&self) -> bool {
        let pieces = self.components.iter().flat_map(|component| &component.pieces);
        !pieces.into_iter().any(|piece| matches!(piece, Piece::Value(_)))
    }

    /// The file for the lines of `origin` in `period`.
    pub(super) fn render(&self, origin: &Origin, period: &Period) -> FilePath {
        self.render_with(origin, |date, offset_follows, rendered| {
            rendered.push_str(&period.name().strftime(date).to_string());
            if offset_follows && period.is_repeated() {
                rendered.push_str(&period.name().strftime("%z").to_string());
            }
        })
    }

    /// What the files of `origin` have in common in all periods: the fields of a date stand as they are.
    ///
    /// Origins whose series differ go to different files. There is one exception, made on purpose by
    /// whoever calls a host `a-20261123-b`: a date between two values of the same component.
    pub(super) fn series(&self, origin: &Origin) -> FilePath {
        self.render_with(origin, |date, _, rendered| rendered.push_str(date))
    }

    fn render_with(
        &self,
        origin: &Origin,
        mut date: impl FnMut(&'static str, bool, &mut String),
    ) -> FilePath {
        let mut rendered = String::with_capacity(64);
        for component in &self.components {
            if !rendered.is_empty() {
                rendered.push('/');
            }
            let last_value = component.pieces.iter().rposition(|piece| matches!(piece, Piece::Value(_)));
            for (index, piece) in component.pieces.iter().enumerate() {
                let guarded = component.guarded && last_value == Some(index);
                match piece {
                    Piece::Text(text) => rendered.push_str(text),
                    Piece::Date(field) => date(field, component.offset_after == Some(index), &mut rendered),
                    Piece::Value(value) => {
                        value.render(origin, component.value_bytes, guarded, &mut rendered);
                    }
                }
            }
        }
        FilePath::from_bytes(rendered.as_bytes()).expect("every piece renders to proper components")
    }
}

impl Value {
    const ALL: [(&'static str, Self); 3] = [("host", Self::Host), ("file", Self::File), ("path", Self::Path)];

    fn render(self, origin: &Origin, limit: usize, guarded: bool, rendered: &mut String) {
        match self {
            Self::Host => rendered.push_str(&encode::component(origin.host(), limit, guarded)),
            Self::File => rendered.push_str(&encode::component(origin.file(), limit, guarded)),
            Self::Path => rendered.push_str(&folders(origin.path(), limit, guarded)),
        }
    }
}

/// A whole path as folders, joined by slashes.
fn folders(path: &[u8], limit: usize, guarded: bool) -> String {
    let (mut rendered, below) = match path.strip_prefix(b"/") {
        Some(below) => (String::new(), below),
        None => (format!("{RELATIVE}/"), path),
    };
    let count = below.split(|&byte| byte == b'/').count();
    for (index, part) in below.split(|&byte| byte == b'/').enumerate() {
        let is_last = index + 1 == count;
        let component = encode::component(part, limit, guarded && is_last);
        if !is_last && index + 1 >= MAX_FOLDERS || rendered.len() + component.len() > MAX_PATH_BYTES {
            rendered.push_str(&encode::shortened("", path));
            return rendered;
        }
        rendered.push_str(&component);
        if !is_last {
            rendered.push('/');
        }
    }
    rendered
}

/// What tells `origin` from others that render to the same path, appended to the last component: `~` and 8
/// hexadecimal digits.
///
/// The first `attempt` is 0 and hashes the origin's path; when that is taken too, by a host with a log of
/// the same path, later ones hash the host and the attempt's number as well.
pub(super) fn collision_suffix(origin: &Origin, attempt: u32) -> String {
    if attempt == 0 {
        return format!("~{:08x}", encode::fnv1a_32(origin.path()));
    }
    let mut hashed = origin.path().to_vec();
    // A path holds no NUL, or has none that matters: an unlucky hash only costs one more attempt.
    hashed.push(0);
    hashed.extend_from_slice(origin.host());
    hashed.extend_from_slice(&attempt.to_be_bytes());
    format!("~{:08x}", encode::fnv1a_32(&hashed))
}

#[cfg(test)]
mod tests;
