//! Which files are read, and which directories may hold them: [`Patterns`].
//!
//! A pattern is matched against the whole path; `*`, `?` and `[…]` stop at a slash, `**` as a component of
//! its own stands for any number of directories, `{a,b}` for either. Only directories that a pattern can
//! reach are ever listed: [`Reach`] follows each pattern component by component.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use globset::{Glob, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

mod example;

pub(crate) use example::example;

/// The `include` and `exclude` lists of all tables, in their order.
#[derive(Debug)]
pub(crate) struct Patterns {
    tables: Vec<Table>,
    roots: Vec<(PathBuf, Reach)>,
}

/// How far some patterns have come in a directory: what of each is still ahead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    steps: Vec<(usize, usize, usize)>,
}

#[derive(Debug)]
struct Table {
    include: Vec<Pattern>,
    excluded_paths: GlobSet,
    excluded_names: GlobSet,
}

#[derive(Debug)]
struct Pattern {
    whole: GlobMatcher,
    steps: Vec<Step>,
}

/// A component of a pattern.
#[derive(Debug)]
enum Step {
    Literal(OsString),
    Glob(GlobMatcher),
    AnyDirectories,
    /// What cannot be followed by component, such as `{a,b/c}`: anything below.
    Anything,
}

impl Patterns {
    /// Compiles the (include, exclude) lists of each table. Relative patterns start in the current directory.
    ///
    /// # Errors
    ///
    /// A bad pattern, or no current directory.
    pub(crate) fn new<'a>(
        tables: impl IntoIterator<Item = (&'a [String], &'a [String])>,
    ) -> io::Result<Self> {
        let mut patterns = Self { tables: Vec::new(), roots: Vec::new() };
        for (include, exclude) in tables {
            let table = Table::new(include, exclude)?;
            patterns.tables.push(table);
        }
        for (table_index, table) in patterns.tables.iter().enumerate() {
            for (pattern_index, pattern) in table.include.iter().enumerate() {
                let literal =
                    pattern.steps.iter().take_while(|step| matches!(step, Step::Literal(_))).count();
                // The last component names files, even when it is literal.
                let depth = literal.min(pattern.steps.len() - 1);
                let mut root = PathBuf::from("/");
                for step in &pattern.steps[..depth] {
                    if let Step::Literal(name) = step {
                        root.push(name);
                    }
                }
                let step = (table_index, pattern_index, depth);
                match patterns.roots.iter_mut().find(|(path, _)| *path == root) {
                    Some((_, reach)) => reach.steps.push(step),
                    None => patterns.roots.push((root, Reach { steps: vec![step] })),
                }
            }
        }
        Ok(patterns)
    }

    /// The table that owns the file at `path`: the first that includes it and does not exclude it.
    pub(crate) fn owner(&self, path: &Path) -> Option<usize> {
        self.tables.iter().position(|table| table.selects(path))
    }

    /// The table that owns the log at `path`: of a log of which only compressed files are selected, theirs.
    pub(crate) fn owner_of_log(&self, path: &Path) -> Option<usize> {
        self.owner(path).or_else(|| {
            let mut compressed = path.as_os_str().to_owned();
            compressed.push(".gz");
            self.owner(Path::new(&compressed))
        })
    }

    /// The directories that exist whatever the patterns' wildcards stand for, and what is ahead there.
    pub(crate) fn roots(&self) -> &[(PathBuf, Reach)] {
        &self.roots
    }

    /// What is ahead in the directory `name` of a directory where `reach` is; `None` when no pattern goes
    /// there. `**` does not follow symbolic links: that is how loops come about.
    pub(crate) fn descend(&self, reach: &Reach, name: &OsStr, is_link: bool) -> Option<Reach> {
        let mut below = Vec::new();
        for &(table, pattern, at) in &reach.steps {
            let steps = &self.tables[table].include[pattern].steps;
            self.descend_step(steps, at, name, is_link, &mut |next| below.push((table, pattern, next)));
        }
        below.sort_unstable();
        below.dedup();
        (!below.is_empty()).then_some(Reach { steps: below })
    }

    fn descend_step(
        &self,
        steps: &[Step],
        at: usize,
        name: &OsStr,
        is_link: bool,
        add: &mut dyn FnMut(usize),
    ) {
        match steps.get(at) {
            Some(Step::AnyDirectories) => {
                if !is_link {
                    add(at);
                }
                self.descend_step(steps, at + 1, name, is_link, add);
            }
            Some(Step::Anything) if !is_link => add(at),
            // The last component names a file: a directory of that name is not entered.
            Some(Step::Literal(literal)) if at + 1 < steps.len() && literal == name => add(at + 1),
            Some(Step::Glob(glob)) if at + 1 < steps.len() && glob.is_match(Path::new(name)) => add(at + 1),
            _ => {}
        }
    }
}

impl Reach {
    /// Joins what two patterns have ahead in one directory; whether that is news.
    pub(crate) fn join(&mut self, other: &Reach) -> bool {
        let before = self.steps.len();
        for step in &other.steps {
            if !self.steps.contains(step) {
                self.steps.push(*step);
            }
        }
        self.steps.len() > before
    }
}

impl Table {
    fn new(include: &[String], exclude: &[String]) -> io::Result<Self> {
        let mut excluded_paths = GlobSetBuilder::new();
        let mut excluded_names = GlobSetBuilder::new();
        for pattern in exclude {
            if pattern.contains('/') {
                excluded_paths.add(glob(&absolute(pattern)?).map_err(io::Error::other)?);
            } else {
                excluded_names.add(glob(pattern).map_err(io::Error::other)?);
            }
        }
        Ok(Self {
            include: include.iter().map(|pattern| Pattern::new(pattern)).collect::<io::Result<_>>()?,
            excluded_paths: excluded_paths.build().map_err(io::Error::other)?,
            excluded_names: excluded_names.build().map_err(io::Error::other)?,
        })
    }

    fn selects(&self, path: &Path) -> bool {
        let excluded = self.excluded_paths.is_match(path)
            || path.file_name().is_some_and(|name| self.excluded_names.is_match(Path::new(name)));
        !excluded && self.include.iter().any(|pattern| pattern.whole.is_match(path))
    }
}

impl Pattern {
    fn new(pattern: &str) -> io::Result<Self> {
        let absolute = absolute(pattern)?;
        let whole = glob(&absolute).map_err(io::Error::other)?.compile_matcher();
        let mut steps = Vec::new();
        for component in absolute.split('/').skip(1) {
            let step = Step::new(component);
            let followed = !matches!(step, Step::Anything);
            steps.push(step);
            if !followed {
                break;
            }
        }
        Ok(Self { whole, steps })
    }
}

impl Step {
    fn new(component: &str) -> Self {
        if component == "**" {
            return Self::AnyDirectories;
        }
        if !component.contains(['*', '?', '[', ']', '{', '}', '\\']) {
            return Self::Literal(component.into());
        }
        let balanced = component.matches('{').count() == component.matches('}').count();
        match glob(component) {
            Ok(glob) if balanced => Self::Glob(glob.compile_matcher()),
            _ => Self::Anything,
        }
    }
}

/// Checks a pattern without touching anything.
pub(crate) fn check(pattern: &str) -> Result<(), String> {
    if pattern.is_empty() {
        return Err("a pattern is empty".to_owned());
    }
    if pattern.ends_with('/') {
        return Err(format!("`{pattern}` names a directory, not files"));
    }
    if pattern.contains('\0') {
        return Err("a pattern holds a NUL byte".to_owned());
    }
    glob(pattern).map(|_| ()).map_err(|error| format!("`{pattern}` is no pattern: {}", error.kind()))
}

fn glob(pattern: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(pattern).literal_separator(true).backslash_escape(true).build()
}

/// Makes a pattern absolute and plain: no doubled slashes, no `.`.
fn absolute(pattern: &str) -> io::Result<String> {
    let mut whole = String::new();
    if !pattern.starts_with('/') {
        let current = env::current_dir()?;
        for component in current.components() {
            if let Component::Normal(name) = component {
                let name = std::str::from_utf8(name.as_bytes()).map_err(|_| {
                    io::Error::other(format!("the current directory `{}` is not UTF-8", current.display()))
                })?;
                whole.push('/');
                whole.push_str(&globset::escape(name));
            }
        }
    }
    for component in pattern.split('/').filter(|component| !component.is_empty() && *component != ".") {
        whole.push('/');
        whole.push_str(component);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(tables: &[(&[&str], &[&str])]) -> Patterns {
        let owned = |list: &[&str]| list.iter().map(|text| text.to_string()).collect::<Vec<_>>();
        let tables: Vec<_> = tables.iter().map(|table| (owned(table.0), owned(table.1))).collect();
        Patterns::new(tables.iter().map(|table| (&table.0[..], &table.1[..]))).unwrap()
    }

    /// Whether the directory `path` would be listed.
    fn reaches(patterns: &Patterns, path: &str) -> bool {
        patterns.roots().iter().any(|(root, reach)| {
            let Ok(rest) = Path::new(path).strip_prefix(root) else { return false };
            let mut reach = Some(reach.clone());
            for name in rest.iter() {
                reach = reach.and_then(|reach| patterns.descend(&reach, name, false));
            }
            reach.is_some()
        })
    }

    #[test]
    fn the_first_table_to_match_owns_a_file() {
        let patterns =
            patterns(&[(&["/v/*.log", "/v/n/**/*.log"], &["*.gz", "/v/n/private/**"]), (&["/v/**"], &[])]);
        for (path, owner) in [
            ("/v/a.log", Some(0)),
            ("/v/n/x.log", Some(0)),
            ("/v/n/a/b/x.log", Some(0)),
            ("/v/n/private/x.log", Some(1)),
            ("/v/x.log.gz", Some(1)),
            ("/w/a.log", None),
        ] {
            assert_eq!(patterns.owner(Path::new(path)), owner, "{path}");
        }
    }

    #[test]
    fn only_directories_that_can_match_are_reached() {
        let patterns = patterns(&[(&["/v/*/log/*.log", "/w/**/x.log", "/e/{a,b/c}/*.log"], &[])]);
        for path in ["/v", "/v/a", "/v/a/log", "/w", "/w/a/b/c", "/e", "/e/b/c"] {
            assert!(reaches(&patterns, path), "{path}");
        }
        for path in ["/", "/u", "/v/a/other", "/v/a/log/deep"] {
            assert!(!reaches(&patterns, path), "{path}");
        }
    }

    #[test]
    fn a_double_star_does_not_follow_links() {
        let patterns = patterns(&[(&["/w/**/x.log", "/v/*/x.log"], &[])]);
        let reach =
            |root: &str| &patterns.roots().iter().find(|(path, _)| path == Path::new(root)).unwrap().1;
        assert!(patterns.descend(reach("/w"), OsStr::new("link"), true).is_none());
        assert!(patterns.descend(reach("/v"), OsStr::new("link"), true).is_some());
    }

    #[test]
    fn relative_patterns_start_in_the_current_directory() {
        let patterns = patterns(&[(&["./logs//*.log"], &[])]);
        let file = env::current_dir().unwrap().join("logs/a.log");
        assert_eq!(patterns.owner(&file), Some(0));
    }

    #[test]
    fn bad_patterns_are_named() {
        for (pattern, expected) in
            [("", "empty"), ("/v/[a", "`/v/[a` is no pattern"), ("/v/", "names a directory")]
        {
            let message = check(pattern).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
        check("/v/**/*.{log,txt}").unwrap();
    }
}
