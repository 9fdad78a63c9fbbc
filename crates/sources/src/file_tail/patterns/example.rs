//! A path that a pattern stands for: [`example`].

use std::path::PathBuf;
use std::str::Chars;

/// What stands for any name, or a part of one.
const ANYTHING: char = 'x';

/// A path such as `pattern` matches. It may fail to find one, and what it finds may not match after all: try it.
pub(crate) fn example(pattern: &str) -> Option<PathBuf> {
    let absolute = super::absolute(pattern).ok()?;
    // No directories are any number of them too.
    let shallow = absolute.replace("/**/", "/");
    let mut path = String::new();
    let mut rest = shallow.chars();
    while let Some(character) = rest.next() {
        match character {
            '*' if path.ends_with(ANYTHING) => {}
            '*' | '?' => path.push(ANYTHING),
            '[' => path.push(one_of(&mut rest)?),
            '\\' => path.push(rest.next()?),
            // The first alternative is read on as it comes; those after it are passed over.
            '{' | '}' => {}
            ',' if shallow.contains('{') => rest.find(|character| *character == '}').map(drop)?,
            _ => path.push(character),
        }
    }
    Some(PathBuf::from(path))
}

/// A character that a class, of which the bracket was read, stands for.
fn one_of(rest: &mut Chars<'_>) -> Option<char> {
    let first = rest.next()?;
    rest.find(|character| *character == ']')?;
    Some(if matches!(first, '!' | '^') { ANYTHING } else { first })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Patterns;
    use super::*;

    #[test]
    fn an_example_matches_its_pattern() {
        for (pattern, expected) in [
            ("/var/log/syslog", "/var/log/syslog"),
            ("/var/log/**/*.log", "/var/log/x.log"),
            ("/var/log/**", "/var/log/x"),
            ("/v/*/log/app-??.log", "/v/x/log/app-xx.log"),
            ("/v/[ab]/[!c]z/*.{log,txt}.1", "/v/a/xz/x.log.1"),
            (r"/v/\[a\]", "/v/[a]"),
            ("/v/{a/b,c}/*", "/v/a/b/x"),
        ] {
            let found = example(pattern).unwrap();
            assert_eq!(found, Path::new(expected));
            let list = [pattern.to_owned()];
            let patterns = Patterns::new([(&list[..], &[][..])]).unwrap();
            assert_eq!(patterns.owner(&found), Some(0), "{pattern}");
        }
        assert_eq!(example("/v/[a"), None);
    }
}
