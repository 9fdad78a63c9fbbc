//! What is wrong with a pipeline file: [`ConfigError`].

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents,
    SourceCode, SourceSpan, SpanContents,
};

/// Wide enough for a long line of TOML, narrow enough for a terminal beside another one.
const RENDER_WIDTH: usize = 100;

/// Everything wrong with one pipeline file, in the order of its lines. Holds no secret.
#[derive(Debug)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

/// One thing wrong with a pipeline file: a message, the place, the remedy.
#[derive(Debug)]
pub struct Problem {
    source: Arc<Snippets>,
    message: String,
    span: Option<Range<usize>>,
    label: Option<String>,
    help: Option<String>,
}

/// A problem before it is shown: it may still hold secrets.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) message: String,
    pub(super) site: Site,
    pub(super) label: Option<String>,
    pub(super) help: Option<String>,
}

/// What a finding is about.
#[derive(Debug)]
pub(super) enum Site {
    /// These bytes of the file.
    Span(Range<usize>),
    /// The file as a whole.
    File,
    /// This binary, whatever the file says.
    Binary,
}

/// The file's text with its secrets starred out, given out in whole lines.
struct Snippets {
    file: String,
    text: String,
}

impl ConfigError {
    /// Collects findings; `redact` takes the secrets out of their words, and `text` has none any more.
    pub(super) fn new(
        file: &Path,
        text: String,
        mut findings: Vec<Finding>,
        redact: impl Fn(&str) -> String,
    ) -> Self {
        findings.sort_by_key(|finding| match &finding.site {
            Site::Span(span) => span.start,
            Site::File | Site::Binary => 0,
        });
        let source = Arc::new(Snippets::new(redact(&file.display().to_string()), text));
        let problem = |finding: Finding| {
            let message = redact(&finding.message);
            let (message, span) = match finding.site {
                Site::Span(span) => (message, Some(source.within_a_line(span))),
                Site::File => (format!("`{}`: {message}", source.file), None),
                Site::Binary => (message, None),
            };
            let label = finding.label.map(|label| redact(&label));
            let help = finding.help.map(|help| redact(&help));
            Problem { source: source.clone(), message, span, label, help }
        };
        Self { problems: findings.into_iter().map(problem).collect() }
    }

    /// The problems, one or more.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The problems for a terminal: message, source line, caret and help of each, with a line's end after
    /// the last.
    pub fn render(&self, color: bool) -> String {
        let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(RENDER_WIDTH).with_links(false);
        let mut rendered = String::new();
        for problem in &self.problems {
            if !rendered.is_empty() {
                rendered.push('\n');
            }
            if handler.render_report(&mut rendered, problem).is_err() {
                // The drawing failed, not the words.
                rendered.push_str(&format!("{}{problem}\n", problem.location()));
            }
        }
        rendered
    }
}

/// A line for each problem: `producer.toml:3:1: message`.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}{problem}", problem.location())?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl Problem {
    /// The line, counted from 1, and the column, counted in characters from 1; `None` when the problem is
    /// none of a single place.
    pub fn line_and_column(&self) -> Option<(usize, usize)> {
        let span = self.span.as_ref()?;
        let (line, column) = self.source.line_and_column(span.start);
        Some((line + 1, column + 1))
    }

    /// What to do about it.
    pub fn remedy(&self) -> Option<&str> {
        self.help.as_deref()
    }

    fn location(&self) -> String {
        match self.line_and_column() {
            Some((line, column)) => format!("{}:{line}:{column}: ", self.source.file),
            None => String::new(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.help.as_deref()?))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&*self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.span.clone()?;
        let label = LabeledSpan::new(self.label.clone(), span.start, span.len());
        Some(Box::new(std::iter::once(label)))
    }
}

impl Finding {
    /// A problem with these bytes of the file.
    pub(super) fn at(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { message: message.into(), site: Site::Span(span), label: None, help: None }
    }

    /// A problem with the file as a whole. The message is preceded by its name.
    pub(super) fn about_file(message: impl Into<String>) -> Self {
        Self { message: message.into(), site: Site::File, label: None, help: None }
    }

    /// A problem that has nothing to do with the file.
    pub(super) fn about_binary(message: impl Into<String>) -> Self {
        Self { message: message.into(), site: Site::Binary, label: None, help: None }
    }

    /// A problem with these bytes; with the file, when there are none.
    pub(super) fn at_or_file(span: Option<Range<usize>>, message: impl Into<String>) -> Self {
        match span {
            Some(span) => Self::at(span, message),
            None => Self::about_file(message),
        }
    }

    /// Points at other bytes: where `to` says that each of them is.
    pub(super) fn move_span(&mut self, to: impl Fn(usize) -> usize) {
        if let Site::Span(span) = &mut self.site {
            *span = to(span.start)..to(span.end);
        }
    }

    /// Adds words at the caret.
    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Adds what to do about it.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl Snippets {
    fn new(file: String, mut text: String) -> Self {
        // Then the end of every line is a place that a caret can point at.
        text.push('\n');
        Self { file, text }
    }

    /// The part of `span` in its first line. An empty line has nothing to point at: the end of what comes
    /// before stands in, as for a file that ends too early.
    fn within_a_line(&self, span: Range<usize>) -> Range<usize> {
        let start = self.boundary(span.start);
        let (line_start, line) = self.line(start);
        if line.is_empty() {
            let end = self.text[..line_start].trim_end().len();
            return end..end;
        }
        let line_end = line_start + line.len();
        start.min(line_end)..self.boundary(span.end).max(start).min(line_end)
    }

    /// The last start of a character at or before this byte.
    fn boundary(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        (0..=offset).rev().find(|offset| self.text.is_char_boundary(*offset)).unwrap_or_default()
    }

    /// The line that holds this byte, without its end, and where it starts.
    fn line(&self, offset: usize) -> (usize, &str) {
        let start = self.text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.text[start..].split('\n').next().unwrap_or_default();
        (start, line.strip_suffix('\r').unwrap_or(line))
    }

    /// Counted from 0, the column in characters.
    fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let before = &self.text[..self.boundary(offset)];
        let line = before.matches('\n').count();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (line, before[line_start..].chars().count())
    }
}

/// Gives out exactly one line. The ready-made implementations give out either the bytes of the span alone
/// or its neighbours as well, which say nothing about the problem, and count columns in bytes.
impl SourceCode for Snippets {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        _context_lines_before: usize,
        _context_lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let offset = self.boundary(span.offset());
        let (start, text) = self.line(offset);
        let (line, column) = self.line_and_column(offset);
        let end = start + text.len();
        let end = self.text[end..].find('\n').map_or(end, |newline| end + newline + 1);
        let whole_line = SourceSpan::new(start.into(), end - start);
        Ok(Box::new(MietteSpanContents::new_named(
            self.file.clone(),
            &self.text.as_bytes()[start..end],
            whole_line,
            line,
            column,
            1,
        )))
    }
}

/// Without the text, which is long.
impl fmt::Debug for Snippets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snippets").field("file", &self.file).finish_non_exhaustive()
    }
}
