//! Reads a [`Template`].

use std::path::{self, PathBuf};

use super::{Component, Field, MAX_COMPONENT_BYTES, MAX_NUMBER, OWN_PREFIX, Piece, Template, Value, encode};

/// A conversion that a name may hold.
struct Conversion {
    text: &'static str,
    /// What it renders to, with a zero for each digit: conversions have fixed widths.
    shape: &'static str,
    fields: &'static [Field],
}

/// All conversions, of those jiff knows, whose text has a fixed width and sorts as time does.
const CONVERSIONS: [Conversion; 11] = {
    use Field::{Day, Hour, Minute, Month, Second, Year};
    const fn new(text: &'static str, shape: &'static str, fields: &'static [Field]) -> Conversion {
        Conversion { text, shape, fields }
    }
    [
        new("%Y", "0000", &[Year]),
        new("%y", "00", &[Year]),
        new("%m", "00", &[Month]),
        new("%d", "00", &[Day]),
        new("%j", "000", &[Month, Day]),
        new("%H", "00", &[Hour]),
        new("%M", "00", &[Minute]),
        new("%S", "00", &[Second]),
        new("%F", "0000-00-00", &[Year, Month, Day]),
        new("%T", "00:00:00", &[Hour, Minute, Second]),
        new("%R", "00:00", &[Hour, Minute]),
    ]
};

/// What to write instead of conversions that are refused.
const INSTEAD: [(&[&str], &str); 6] = [
    (&["%b", "%B", "%h"], "%m"),
    (&["%e", "%a", "%A", "%u", "%w"], "%d"),
    (&["%k", "%I", "%l", "%p", "%P"], "%H"),
    (&["%D", "%x", "%U", "%V", "%W"], "%F"),
    (&["%r", "%X", "%N", "%f"], "%T"),
    (&["%c", "%s", "%+"], "%FT%T"),
];

/// What the offset from UTC looks like that a time shown twice is followed by.
const OFFSET_SHAPE: &str = "+0000";

/// How a field is written, for messages.
const FIELDS: [(Field, &str); 6] = [
    (Field::Year, "%Y"),
    (Field::Month, "%m"),
    (Field::Day, "%d"),
    (Field::Hour, "%H"),
    (Field::Minute, "%M"),
    (Field::Second, "%S"),
];

/// See [`Template::parse`].
pub(super) fn template(text: &str, date_suffix: Option<&str>) -> Result<Template, String> {
    if text.is_empty() {
        return Err("the path is empty".to_owned());
    }
    if text.contains('\0') {
        return Err("a path holds no NUL".to_owned());
    }
    let text = match date_suffix {
        None => text.to_owned(),
        Some(suffix) => with_date_suffix(text, suffix)?,
    };
    if text.ends_with('/') {
        return Err(format!("`{text}` names a folder: add the name of the file"));
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let mut components = parts.iter().map(|part| component(part)).collect::<Result<Vec<_>, _>>()?;
    let Some(last) = components.pop() else {
        return Err(format!("`{text}` names a folder: add the name of the file"));
    };
    let count = components.iter().take_while(|component| component.is_text()).count();
    let mut below = components.split_off(count);
    below.push(last);
    let mut fixed = PathBuf::from(if text.starts_with('/') { "/" } else { "." });
    fixed.extend(components.iter().map(Component::text));
    let fixed = path::absolute(&fixed)
        .map_err(|error| format!("`{text}` is relative, and the current directory is unknown: {error}"))?;
    let finest = finest(&below)?;
    mark_offset(&mut below);
    check_own_names(&below)?;
    guard(&mut below);
    for (component, part) in below.iter_mut().zip(&parts[count..]) {
        component.measure(part)?;
    }
    Ok(Template { fixed, components: below, finest })
}

fn with_date_suffix(text: &str, suffix: &str) -> Result<String, String> {
    if !suffix.contains('%') || suffix.contains(['/', '{', '}', '\0']) {
        return Err(format!(
            "`{suffix}` is no date suffix: write fields of a date and no folders or placeholders, such as \"-%Y%m%d\""
        ));
    }
    Ok(format!("{text}{suffix}"))
}

/// Reads one component, which is not empty.
fn component(part: &str) -> Result<Component, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = part;
    while let Some(character) = rest.chars().next() {
        let doubled = matches!(character, '{' | '}' | '%') && rest[1..].starts_with(character);
        let (piece, length) = match character {
            _ if doubled => {
                literal.push(character);
                rest = &rest[2..];
                continue;
            }
            '{' => placeholder(rest)?,
            '}' => {
                return Err(format!(
                    "`{part}` closes a brace that it did not open: double it for a plain one"
                ));
            }
            '%' => conversion(rest)?,
            _ => {
                literal.push(character);
                rest = &rest[character.len_utf8()..];
                continue;
            }
        };
        if !literal.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut literal)));
        }
        pieces.push(piece);
        rest = &rest[length..];
    }
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal));
    }
    Ok(Component { pieces, ..Component::default() })
}

/// The placeholder at the start of `rest`, and its length.
fn placeholder(rest: &str) -> Result<(Piece, usize), String> {
    let Some(end) = rest.find('}') else {
        return Err(format!("`{rest}` opens a brace that is never closed: double it for a plain one"));
    };
    let name = &rest[1..end];
    if let Some((_, value)) = Value::ALL.iter().find(|(known, _)| *known == name) {
        return Ok((Piece::Value(*value), end + 1));
    }
    let distance = |known: &str| strsim::damerau_levenshtein(known, name);
    let nearest = Value::ALL.iter().map(|(known, _)| *known).min_by_key(|known| distance(known));
    match nearest.filter(|known| distance(known) <= 2) {
        Some(nearest) => Err(format!("`{{{name}}}` is no placeholder: did you mean `{{{nearest}}}`?")),
        None => {
            Err(format!("`{{{name}}}` is no placeholder: there are `{{host}}`, `{{file}}` and `{{path}}`"))
        }
    }
}

/// The conversion at the start of `rest`, and its length.
fn conversion(rest: &str) -> Result<(Piece, usize), String> {
    if let Some(known) = CONVERSIONS.iter().find(|known| rest.starts_with(known.text)) {
        return Ok((Piece::Date(known.text), known.text.len()));
    }
    let length = rest.chars().take(2).map(char::len_utf8).sum();
    let written = &rest[..length];
    let instead = INSTEAD.iter().find(|(refused, _)| refused.contains(&written));
    Err(match instead {
        Some((_, instead)) => format!("`{written}` makes names that do not sort by time: write `{instead}`"),
        None if length == 1 => "a `%` at the end of a name: double it for a plain one".to_owned(),
        None => {
            let all: Vec<&str> = CONVERSIONS.iter().map(|known| known.text).collect();
            format!(
                "`{written}` is no field of a date: there are {}; double the `%` for a plain one",
                all.join(" ")
            )
        }
    })
}

/// The finest field of all.
///
/// # Errors
///
/// A coarser field is missing, so that names would come back.
fn finest(components: &[Component]) -> Result<Option<Field>, String> {
    let dates = components.iter().flat_map(Component::dates);
    let fields: Vec<Field> = dates.flat_map(|known| known.fields).copied().collect();
    let Some(&finest) = fields.iter().max() else { return Ok(None) };
    let needed = FIELDS.iter().filter(|(field, _)| *field < finest);
    let missing: Vec<&str> =
        needed.filter(|(field, _)| !fields.contains(field)).map(|(_, text)| *text).collect();
    if missing.is_empty() {
        return Ok(Some(finest));
    }
    let (_, text) = FIELDS.iter().find(|(field, _)| *field == finest).expect("every field is listed");
    Err(format!("names with `{text}` alone come back: add {}", missing.join(" ")))
}

/// Marks the last field of a date: the offset goes there when the clock shows the same time twice.
fn mark_offset(components: &mut [Component]) {
    for component in components.iter_mut().rev() {
        component.offset_after = component.pieces.iter().rposition(|piece| matches!(piece, Piece::Date(_)));
        if component.offset_after.is_some() {
            return;
        }
    }
}

/// Refuses what could render to a name of this sink's own, or of nobody's.
fn check_own_names(components: &[Component]) -> Result<(), String> {
    for component in components {
        let beginning = match component.pieces.first() {
            Some(Piece::Text(text)) => text.as_str(),
            _ => "",
        };
        let open = component.pieces.len() > 1 && !beginning.is_empty() && OWN_PREFIX.starts_with(beginning);
        if open || beginning.starts_with(OWN_PREFIX) {
            return Err(format!(
                "names that begin with `{beginning}` are for the sink's own files in `{OWN_PREFIX}`"
            ));
        }
        if component.is_text() && component.text() == ".." {
            return Err("a path may not go up again with `..` below its first placeholder or date".to_owned());
        }
    }
    let last = components.last().expect("a path has a last component");
    let has_value = last.pieces.iter().any(|piece| matches!(piece, Piece::Value(_)));
    let tail = last.shape_after_last_value();
    if tail.ends_with(".gz") || has_value && matches!(tail.as_str(), "z" | "gz") {
        return Err("a path may not end in `.gz`: the names of compressed files do".to_owned());
    }
    Ok(())
}

/// Decides whether the last value must not look like one that has a suffix of the sink's own.
///
/// What follows it in the name is the same for all but for the digits of dates. So one rendered name can
/// be another one and a suffix only if what follows the value ends as a suffix could: in digits after a
/// dot, or in digits alone, and in no more of them than a number has, or the time of a rotation at its end.
fn guard(components: &mut [Component]) {
    let last = components.last_mut().expect("a path has a last component");
    let tail = last.shape_after_last_value();
    let ending = tail.rsplit('.').next().unwrap_or_default();
    let most_digits = MAX_NUMBER.to_string().len();
    last.guarded = ending.len() <= most_digits && ending.bytes().all(|byte| byte.is_ascii_digit());
}

fn conversion_of(piece: &Piece) -> Option<&'static Conversion> {
    let Piece::Date(text) = piece else { return None };
    CONVERSIONS.iter().find(|known| known.text == *text)
}

impl Component {
    fn is_text(&self) -> bool {
        self.pieces.iter().all(|piece| matches!(piece, Piece::Text(_)))
    }

    fn text(&self) -> &str {
        match self.pieces.first() {
            Some(Piece::Text(text)) => text,
            _ => "",
        }
    }

    fn dates(&self) -> impl Iterator<Item = &'static Conversion> {
        self.pieces.iter().filter_map(conversion_of)
    }

    /// What follows the last value, with zeros for the digits of dates.
    fn shape_after_last_value(&self) -> String {
        let last_value = self.pieces.iter().rposition(|piece| matches!(piece, Piece::Value(_)));
        let tail = &self.pieces[last_value.map_or(0, |index| index + 1)..];
        tail.iter().map(shape).collect()
    }

    /// Divides the room of a component among its values.
    fn measure(&mut self, part: &str) -> Result<(), String> {
        let offset = if self.offset_after.is_some() { OFFSET_SHAPE.len() } else { 0 };
        let taken = self.pieces.iter().map(|piece| shape(piece).len()).sum::<usize>() + offset;
        let values = self.pieces.iter().filter(|piece| matches!(piece, Piece::Value(_))).count();
        let room = MAX_COMPONENT_BYTES.checked_sub(taken);
        self.value_bytes = match (room, values) {
            (Some(_), 0) => return Ok(()),
            (Some(room), _) => room / values,
            (None, _) => 0,
        };
        if self.value_bytes >= encode::MIN_COMPONENT_BYTES {
            return Ok(());
        }
        Err(format!(
            "`{part}` is too long: a name has room for {MAX_COMPONENT_BYTES} bytes, its values included"
        ))
    }
}

/// What a piece other than a value renders to, with zeros for the digits of a date.
fn shape(piece: &Piece) -> &str {
    match piece {
        Piece::Text(text) => text,
        Piece::Value(_) => "",
        Piece::Date(_) => conversion_of(piece).map_or("", |known| known.shape),
    }
}
