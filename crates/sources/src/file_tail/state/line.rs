//! The lines of the state log.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fshipper_pipeline::Epoch;

use super::{Generation, Loss};
use crate::file_tail::copies::Copied;
use crate::file_tail::identity::{FileId, Marker};
use crate::file_tail::place::{decode_fingerprint, decode_marker};

/// Appends the line of a generation.
pub(super) fn write_generation(text: &mut String, path: &Path, epoch: Epoch, generation: &Generation) {
    let Generation { base, skip, fingerprint, id, began, late, copied, end } = generation;
    *text += &format!(
        "generation {} {epoch} base={base} skip={skip} fp={}:{:016x} id={}.{}.{} began={began}",
        escape(path.as_os_str().as_bytes()),
        fingerprint.length,
        fingerprint.hash,
        id.device,
        id.inode,
        id.born,
    );
    if *late > 0 {
        *text += &format!(" late={late}");
    }
    if let Some(copied) = copied {
        let Copied { id, length, marker } = **copied;
        let FileId { device, inode, born } = id;
        let Marker { length: marked, hash } = marker;
        *text += &format!(" copy={device}.{inode}.{born}:{length}:{marked}:{hash:016x}");
    }
    if let Some((end, marker)) = end {
        *text += &format!(" end={end}");
        if let Some(marker) = marker {
            *text += &format!(" mark={}:{:016x}", marker.length, marker.hash);
        }
    }
    text.push('\n');
}

/// Reads the fields of a generation. Those it does not know are passed over, so that a later version can add some.
pub(super) fn read_generation<'a>(words: impl Iterator<Item = &'a str>) -> Option<Generation> {
    let (mut base, mut skip, mut fingerprint, mut id) = (None, None, None, None);
    let (mut began, mut late, mut copied, mut end, mut marker) = (0, 0, None, None, None);
    for word in words {
        let (key, value) = word.split_once('=')?;
        match key {
            "base" => base = Some(value.parse().ok()?),
            "skip" => skip = Some(value.parse().ok()?),
            "fp" => fingerprint = Some(decode_fingerprint(value)?),
            "id" => id = Some(decode_id(value)?),
            "began" => began = value.parse().ok()?,
            "late" => late = value.parse().ok()?,
            "copy" => copied = Some(Box::new(decode_copied(value)?)),
            "end" => end = Some(value.parse().ok()?),
            "mark" => marker = Some(decode_marker(value)?),
            _ => {}
        }
    }
    let end = end.map(|end| (end, marker));
    Some(Generation {
        base: base?,
        skip: skip?,
        fingerprint: fingerprint?,
        id: id?,
        began,
        late,
        copied,
        end,
    })
}

/// Appends the line of a loss.
pub(super) fn write_loss(text: &mut String, path: &Path, epoch: Epoch, loss: &Loss) {
    let Loss { id, reason } = loss;
    let (path, reason) = (escape(path.as_os_str().as_bytes()), escape(reason.as_bytes()));
    *text += &format!("loss {path} {epoch} id={id:x} reason={reason}\n");
}

/// Reads the fields of a loss, as [`read_generation`] does.
pub(super) fn read_loss<'a>(words: impl Iterator<Item = &'a str>) -> Option<Loss> {
    let (mut id, mut reason) = (None, None);
    for word in words {
        match word.split_once('=')? {
            ("id", value) => id = Some(u64::from_str_radix(value, 16).ok()?),
            ("reason", value) => reason = Some(String::from_utf8(unescape(value)?).ok()?),
            _ => {}
        }
    }
    Some(Loss { id: id?, reason: reason?.into() })
}

fn decode_copied(text: &str) -> Option<Copied> {
    let (id, rest) = text.split_once(':')?;
    let (length, marker) = rest.split_once(':')?;
    Some(Copied { id: decode_id(id)?, length: length.parse().ok()?, marker: decode_marker(marker)? })
}

fn decode_id(text: &str) -> Option<FileId> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some(FileId { device: numbers.next()??, inode: numbers.next()??, born: numbers.next()?? })
}

/// Printable ASCII without spaces; all bytes survive the round trip.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        if byte.is_ascii_graphic() && *byte != b'%' {
            text.push(char::from(*byte));
        } else {
            text += &format!("%{byte:02x}");
        }
    }
    text
}

/// Reads what [`escape`] wrote.
pub(super) fn unescape(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    Some(bytes)
}
