//! Secrets never leave: [`Redactor`].
//!
//! Invariant: nothing of a file reaches an error but through here. When in doubt, more is starred out
//! rather than less: a reader who sees too many stars looks into the file.

use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::document::{Value, scalar};
use super::error::{ConfigError, Finding};
use super::schema::Names;

/// A shorter secret is replaced in a message only where it stands alone in quotes: it may be part of any word.
const MIN_FREE_SECRET_BYTES: usize = 4;

/// What a message shows in the place of a secret.
const HIDDEN: &str = "***";

/// Knows the secrets of one file, and takes them out of its text and of messages.
pub(super) struct Redactor {
    text: String,
    /// Where the text became shorter, for a star takes one byte and the character in its place took more: the end
    /// of such a character in the file, and how many bytes are missing up to there.
    shortened: Vec<(usize, usize)>,
    secrets: Vec<String>,
}

impl Redactor {
    /// For a file of which nothing is known or shown.
    pub(super) fn nothing() -> Self {
        Self { text: String::new(), shortened: Vec::new(), secrets: Vec::new() }
    }

    /// For a file that parsed. `root` is its tree, with the environment filled in.
    pub(super) fn parsed(text: &str, root: &DeTable<'_>, names: &Names) -> Self {
        let mut search = Search::new(text, names);
        search.table(root, false);
        search.comments();
        search.finish()
    }

    /// For a file that did not: `root` holds what could be made out. Whatever follows a word that may be the
    /// name of a secret is one.
    pub(super) fn broken(text: &str, root: &DeTable<'_>, names: &Names) -> Self {
        let mut search = Search::new(text, names);
        search.table(root, false);
        search.lines();
        search.finish()
    }

    /// Adds secrets that are not in the text.
    pub(super) fn hide(&mut self, secrets: impl IntoIterator<Item = String>) {
        self.secrets.extend(secrets);
        self.sort();
    }

    /// A message without secrets and without anything that a terminal would obey.
    pub(super) fn redact(&self, message: &str) -> String {
        let mut message = message.to_owned();
        for secret in &self.secrets {
            if secret.len() >= MIN_FREE_SECRET_BYTES {
                message = message.replace(secret.as_str(), HIDDEN);
                continue;
            }
            for quote in ['`', '"', '\''] {
                message =
                    message.replace(&format!("{quote}{secret}{quote}"), &format!("{quote}{HIDDEN}{quote}"));
            }
        }
        let ends_a_url = |character: char| character.is_whitespace() || "`\"'<>()".contains(character);
        let shown: String = message.split_inclusive(ends_a_url).map(hide_credentials).collect();
        crate::Escaped(shown.as_bytes()).to_string()
    }

    /// The error that these findings make. Their spans are those of the file.
    pub(super) fn report(self, file: &Path, mut findings: Vec<Finding>) -> ConfigError {
        for finding in &mut findings {
            finding.move_span(|offset| self.shown_offset(offset));
        }
        let message = |text: &str| self.redact(text);
        ConfigError::new(file, self.text.clone(), findings, message)
    }

    /// Where a byte of the file stands in the text that is shown.
    fn shown_offset(&self, offset: usize) -> usize {
        let before = self.shortened.partition_point(|(end, _)| *end <= offset);
        let missing = before.checked_sub(1).map_or(0, |last| self.shortened[last].1);
        offset - missing
    }

    /// The longest first: one secret may be a part of another.
    fn sort(&mut self) {
        self.secrets.retain(|secret| !secret.is_empty());
        self.secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        self.secrets.dedup();
    }
}

/// The way to a [`Redactor`].
struct Search<'t> {
    text: &'t str,
    names: &'t Names,
    secrets: Vec<String>,
    /// What to star out.
    hidden: Vec<Range<usize>>,
    /// Where values stand, in which a `#` starts no comment.
    values: Vec<Range<usize>>,
}

impl<'t> Search<'t> {
    fn new(text: &'t str, names: &'t Names) -> Self {
        Self { text, names, secrets: Vec::new(), hidden: Vec::new(), values: Vec::new() }
    }

    fn table(&mut self, table: &DeTable<'_>, secret: bool) {
        for (key, value) in table {
            self.value(value, secret || self.names.is_secret(key.get_ref()));
        }
    }

    fn value(&mut self, value: &Value<'_>, secret: bool) {
        match value.get_ref() {
            DeValue::Table(table) => return self.table(table, secret),
            DeValue::Array(values) => return values.iter().for_each(|value| self.value(value, secret)),
            _ => {}
        }
        let span = value.span();
        // There are two of them: neither is a secret, and messages hold both.
        let secret = secret && !matches!(value.get_ref(), DeValue::Boolean(_));
        let inner = inside_quotes(self.text, span.clone());
        self.values.push(span);
        let shown = scalar(value.get_ref()).unwrap_or_default();
        if secret {
            // An error may quote the value as Rust does.
            self.secrets.extend([shown.escape_debug().to_string(), shown]);
            self.secrets.push(self.text[inner.clone()].to_owned());
            self.hidden.push(inner);
            return;
        }
        self.hide_within(inner);
        // With the environment filled in there may be more in it than the file shows.
        let credentials = credentials(&shown).into_iter().chain(assigned(&shown, self.names, false));
        self.secrets.extend(credentials.map(|range| shown[range].to_owned()));
    }

    /// Hides what looks like a secret in a part of the text that is none as a whole.
    fn hide_within(&mut self, part: Range<usize>) {
        let text = &self.text[part.clone()];
        let found = credentials(text).into_iter().chain(assigned(text, self.names, false));
        let shifted = found.map(|range| range.start + part.start..range.end + part.start);
        self.hidden.extend(shifted);
    }

    fn comments(&mut self) {
        self.values.sort_by_key(|span| span.start);
        for line in line_ranges(self.text) {
            let hashes = self.text[line.clone()].match_indices('#').map(|(at, _)| line.start + at);
            let starts_comment = |at: &usize| !self.is_in_a_value(*at);
            if let Some(start) = hashes.into_iter().find(starts_comment) {
                self.hide_within(start..line.end);
                let secret = assigned(&self.text[start..line.end], self.names, true);
                self.hidden.extend(secret.map(|range| start + range.start..start + range.end));
            }
        }
    }

    fn is_in_a_value(&self, at: usize) -> bool {
        let after = self.values.partition_point(|span| span.start <= at);
        after > 0 && self.values[after - 1].contains(&at)
    }

    fn lines(&mut self) {
        // What ends a value of several lines that started with a secret key; empty: the next line is it.
        let mut open: Option<&str> = None;
        for line in line_ranges(self.text) {
            let text = &self.text[line.clone()];
            if let Some(end) = open {
                self.hidden.push(line.clone());
                let closed = if end.is_empty() { !text.trim().is_empty() } else { text.contains(end) };
                open = if closed { None } else { open };
                continue;
            }
            self.hide_within(line.clone());
            let Some(value) = assigned(text, self.names, true) else { continue };
            let (before, shown) = text.split_at(value.start);
            open = match shown {
                _ if text.contains("\"\"\"") => Some("\"\"\""),
                _ if text.contains("'''") => Some("'''"),
                _ if shown.starts_with('[') && !shown.contains(']') => Some("]"),
                _ if shown.starts_with('{') && !shown.contains('}') => Some("}"),
                "" if before.contains('=') => Some(""),
                _ => None,
            };
            self.hidden.push(line.start + value.start..line.end);
        }
    }

    fn finish(self) -> Redactor {
        let mut is_hidden = vec![false; self.text.len()];
        for byte in self.hidden.into_iter().flatten() {
            is_hidden[byte] = true;
        }
        // One character for each, so that columns are those of the file.
        let (mut text, mut shortened) = (String::with_capacity(self.text.len()), Vec::new());
        for (start, character) in self.text.char_indices() {
            let shown = match character {
                '\r' | '\n' => character,
                _ if is_hidden[start] => '*',
                '\t' => character,
                // A terminal would obey it.
                _ if character.is_control() => '?',
                _ => character,
            };
            text.push(shown);
            if shown != character && character.len_utf8() > 1 {
                let end = start + character.len_utf8();
                shortened.push((end, end - text.len()));
            }
        }
        let mut redactor = Redactor { text, shortened, secrets: self.secrets };
        redactor.sort();
        redactor
    }
}

/// A value's span without its quotes, one or three at each end.
fn inside_quotes(text: &str, span: Range<usize>) -> Range<usize> {
    let raw = &text[span.clone()];
    for quotes in ["\"\"\"", "'''", "\"", "'"] {
        if raw.len() >= 2 * quotes.len() && raw.starts_with(quotes) && raw.ends_with(quotes) {
            return span.start + quotes.len()..span.end - quotes.len();
        }
    }
    span
}

/// Stars out what precedes the `@` in a URL, which a plugin may have spelt in its own way. What is hidden
/// already ends a URL's credentials: another address may follow.
fn hide_credentials(word: &str) -> String {
    let mut shown = String::with_capacity(word.len());
    let mut rest = word;
    while let Some((scheme, address)) = rest.split_once("://") {
        shown.extend([scheme, "://"]);
        let hidden = address.starts_with(HIDDEN) && address[HIDDEN.len()..].starts_with('@');
        rest = match credentials(rest).into_iter().find(|range| range.start == scheme.len() + 3) {
            Some(range) if !hidden => {
                shown.push_str(HIDDEN);
                &rest[range.end..]
            }
            _ => address,
        };
    }
    shown + rest
}

/// Where credentials stand in a value: `user:password` of `nats://user:password@host`, with or without
/// the scheme.
fn credentials(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let schemes: Vec<usize> = text.match_indices("://").map(|(at, _)| at).collect();
    for (index, scheme) in schemes.iter().enumerate() {
        let start = scheme + 3;
        let next = schemes[index + 1..].iter().find_map(|next| url_start(text, start, *next));
        let end = next.unwrap_or(text.len());
        if let Some(at) = text[start..end].rfind('@') {
            found.push(start..start + at);
        }
    }
    let bare = &text[..schemes.first().copied().unwrap_or(text.len())];
    let mut start = 0;
    for word in bare.split_inclusive(char::is_whitespace) {
        let Some(at) = word.rfind('@') else {
            start += word.len();
            continue;
        };
        let is_path = word.starts_with(['/', '.', '~', '*']);
        if !is_path && (word[..at].contains(':') || !word[..at].contains('/')) {
            found.push(start..start + at);
        }
        start += word.len();
    }
    found
}

/// Where the URL starts whose `://` stands at `scheme`, if a comma or a blank separates it from the one
/// before.
fn url_start(text: &str, after: usize, scheme: usize) -> Option<usize> {
    let name_bytes = text[after..scheme].bytes().rev().take_while(u8::is_ascii_alphanumeric).count();
    let start = scheme - name_bytes;
    let separated = text[after..start].ends_with(|mark: char| mark == ',' || mark.is_whitespace());
    separated.then_some(start)
}

/// What follows the name of a secret: `token=…`, `password: …`, and with `loosely` whatever comes after the
/// name. The name of a variable with its default is such a case: `${TOKEN:-…}`.
fn assigned(text: &str, names: &Names, loosely: bool) -> Option<Range<usize>> {
    let is_part = |character: char| character.is_alphanumeric() || matches!(character, '_' | '-');
    let mut start = 0;
    while start < text.len() {
        let rest = &text[start..];
        let Some(word_start) = rest.find(is_part) else { break };
        let word = &rest[word_start..];
        let word = &word[..word.find(|character| !is_part(character)).unwrap_or(word.len())];
        let word_end = start + word_start + word.len();
        start = word_end;
        // `--token`, `api-token-`: the dashes around a name are none of it.
        if !names.is_secret(word.trim_matches('-')) {
            continue;
        }
        let after = text[word_end..].trim_start_matches([' ', '\t', '"', '\'']);
        let value = after.strip_prefix(['=', ':']);
        if let Some(value) = value.or(loosely.then_some(after)) {
            let value = value.trim_start_matches([' ', '\t', '=', ':', '"', '\'']);
            return Some(text.len() - value.len()..text.len());
        }
    }
    None
}

/// The lines of a text, without their ends.
fn line_ranges(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    text.split('\n').map(move |line| {
        let range = start..start + line.len();
        start = range.end + 1;
        range
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let root = DeTable::parse(text).unwrap().into_inner();
        Redactor::parsed(text, &root, &Names::default()).text
    }

    fn shown_broken(text: &str) -> String {
        let root = DeTable::parse_recoverable(text).0.into_inner();
        Redactor::broken(text, &root, &Names::default()).text
    }

    #[test]
    fn values_of_secret_keys_are_starred_out() {
        assert_eq!(shown("password = \"hunter2\""), "password = \"*******\"");
        assert_eq!(shown("password = 12345 # x"), "password = ***** # x");
        assert_eq!(shown("token = '''\na\nb'''"), "token = '''\n*\n*'''");
        assert_eq!(shown("token = ['ab', { x = 'cd' }]"), "token = ['**', { x = '**' }]");
        assert_eq!(shown("[nkey]\nx = 1\n[other]\nx = 1"), "[nkey]\nx = *\n[other]\nx = 1");
        assert_eq!(shown("x.secret = 'é'"), "x.secret = '*'");
    }

    #[test]
    fn what_follows_a_shorter_text_is_found_in_it() {
        let text = "token = 'é€😀' # \u{85}é\nx = 1";
        let root = DeTable::parse_recoverable(text).0.into_inner();
        let redactor = Redactor::parsed(text, &root, &Names::default());
        assert_eq!(redactor.text, "token = '***' # ?é\nx = 1");
        let mut shown = redactor.text.char_indices();
        for (at, _) in text.char_indices() {
            assert_eq!(redactor.shown_offset(at), shown.next().unwrap().0, "byte {at}");
        }
        assert_eq!(redactor.shown_offset(text.len()), redactor.text.len());
    }

    #[test]
    fn credentials_in_urls_are_starred_out() {
        assert_eq!(shown("servers = 'nats://user:pass@host:4222'"), "servers = 'nats://*********@host:4222'");
        assert_eq!(shown("servers = 'nats://a,tls://u:p@b,c'"), "servers = 'nats://a,tls://***@b,c'");
        assert_eq!(shown("servers = 'nats://u:p@a,nats://x'"), "servers = 'nats://***@a,nats://x'");
        assert_eq!(shown("servers = 'nats://u:p@/w@a'"), "servers = 'nats://******@a'");
        assert_eq!(shown("servers = 'u:p@a:4222'"), "servers = '***@a:4222'");
        assert_eq!(shown("servers = 's3cr3t@a:4222'"), "servers = '******@a:4222'");
        assert_eq!(shown("include = '/var/log/app@*.log'"), "include = '/var/log/app@*.log'");
    }

    #[test]
    fn comments_and_arguments_are_searched() {
        assert_eq!(shown("x = 'a#b' # password: hunter2"), "x = 'a#b' # password: *******");
        assert_eq!(shown("x = 1 # password hunter2"), "x = 1 # password *******");
        assert_eq!(shown("run = 'curl --token=abc'"), "run = 'curl --token=***'");
        assert_eq!(shown("x = '${API_TOKEN:-abc}'"), "x = '${API_TOKEN:*****'");
        assert_eq!(shown("x = 1 # see nats://u:p@h"), "x = 1 # see nats://***@h");
    }

    #[test]
    fn a_broken_file_hides_whatever_follows_a_secret_name() {
        assert_eq!(shown_broken("password = \"hunter2"), "password = ********");
        assert_eq!(shown_broken("password hunter2"), "password *******");
        assert_eq!(shown_broken("password =\nhunter2\nx = 1"), "password =\n*******\nx = 1");
        assert_eq!(shown_broken("token = [\n'a'\nb\n]\nx = 1 2"), "token = *\n***\n*\n*\nx = 1 2");
        assert_eq!(shown_broken("seed = \"\"\"\na\nb"), "seed = ***\n*\n*");
        assert_eq!(shown_broken("servers = \"nats://u:p@h\nx = 1"), "servers = \"nats://***@h\nx = 1");
    }

    #[test]
    fn messages_lose_secrets() {
        let text = "password = 'hunter2'\nseed = 'ab'\nservers = 'nats://u:p@h'";
        let root = DeTable::parse(text).unwrap().into_inner();
        let redactor = Redactor::parsed(text, &root, &Names::default());
        assert_eq!(redactor.redact("`hunter2` is short, \"ab\" able"), "`***` is short, \"***\" able");
        assert_eq!(redactor.redact("bad `nats://x%20y:z@h`, too"), "bad `nats://***@h`, too");
        assert_eq!(redactor.redact("`a://***@b,***@c,d://x:y@e`"), "`a://***@b,***@c,d://***@e`");
        assert_eq!(redactor.redact("\u{1b}[31m"), "\\u{1b}[31m");
    }
}
