//! Entries as bytes: what [`VERSION`](super::VERSION) is the version of.

use bytes::Bytes;
use fshipper_pipeline::{Cursor, Epoch, History, Origin, Position};

use super::codec::{Malformed, Reader, put_bytes, put_number, put_signed};
use super::state::{Entry, FileRecord, Intent, OriginRecord, Stage, Tail};
use crate::rotating_file::names::FilePath;

impl Entry {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Cursor(cursor) => {
                out.push(1);
                put_bytes(out, cursor.transport.as_bytes());
                put_bytes(out, &cursor.position);
            }
            Self::Origin(record) => {
                out.push(2);
                put_bytes(out, record.origin.host());
                put_bytes(out, record.origin.path());
                put_bytes(out, record.suffix.as_bytes());
            }
            Self::Position(id, position) => {
                out.push(3);
                put_number(out, u64::from(*id));
                put_position(out, position);
            }
            Self::History(id, history) => {
                out.push(4);
                put_number(out, u64::from(*id));
                out.push(u8::from(history.is_some()));
                if let Some(history) = history {
                    put_position(out, &history.current);
                    put_number(out, history.earlier.len() as u64);
                    for (epoch, end) in &history.earlier {
                        put_epoch(out, *epoch);
                        put_number(out, *end);
                    }
                }
            }
            Self::File(id, record) => {
                out.push(5);
                put_number(out, u64::from(*id));
                put_record(out, record);
            }
            Self::Length(id, length, tail) => {
                out.push(6);
                put_number(out, u64::from(*id));
                put_number(out, *length);
                put_tail(out, *tail);
            }
            Self::Forget(id) => {
                out.push(7);
                put_number(out, u64::from(*id));
            }
            Self::Intent(id, intent) => {
                out.push(8);
                put_number(out, u64::from(*id));
                put_intent(out, intent);
            }
            Self::Withdraw(id) => {
                out.push(9);
                put_number(out, u64::from(*id));
            }
            Self::Suffix(id, suffix) => {
                out.push(10);
                put_number(out, u64::from(*id));
                put_bytes(out, suffix.as_bytes());
            }
            Self::Stamp(family, stamp) => {
                out.push(11);
                put_bytes(out, family.as_bytes());
                put_signed(out, *stamp);
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match reader.byte()? {
            1 => {
                let transport = reader.text()?.into();
                Self::Cursor(Cursor { transport, position: copied(reader.bytes()?) })
            }
            2 => {
                let origin = Origin::new(reader.bytes()?, reader.bytes()?);
                Self::Origin(OriginRecord { origin, suffix: reader.text()?.into() })
            }
            3 => Self::Position(reader.id()?, position(reader)?),
            4 => {
                let id = reader.id()?;
                let history = match reader.byte()? {
                    0 => None,
                    1 => Some(history(reader)?),
                    _ => return Err(Malformed),
                };
                Self::History(id, history)
            }
            5 => Self::File(reader.id()?, record(reader)?),
            6 => Self::Length(reader.id()?, reader.number()?, tail(reader)?),
            7 => Self::Forget(reader.id()?),
            8 => Self::Intent(reader.id()?, intent(reader)?),
            9 => Self::Withdraw(reader.id()?),
            10 => Self::Suffix(reader.id()?, reader.text()?.into()),
            11 => Self::Stamp(file_path(reader)?, reader.signed()?),
            _ => return Err(Malformed),
        })
    }
}

fn put_epoch(out: &mut Vec<u8>, epoch: Epoch) {
    out.extend_from_slice(&epoch.0.to_le_bytes());
}

fn epoch(reader: &mut Reader<'_>) -> Result<Epoch, Malformed> {
    let mut bytes = [0; 8];
    for byte in &mut bytes {
        *byte = reader.byte()?;
    }
    Ok(Epoch(u64::from_le_bytes(bytes)))
}

fn put_position(out: &mut Vec<u8>, position: &Position) {
    put_epoch(out, position.epoch);
    put_number(out, position.offset);
    put_bytes(out, &position.place);
}

fn position(reader: &mut Reader<'_>) -> Result<Position, Malformed> {
    Ok(Position { epoch: epoch(reader)?, offset: reader.number()?, place: copied(reader.bytes()?) })
}

fn history(reader: &mut Reader<'_>) -> Result<History, Malformed> {
    let current = position(reader)?;
    let mut earlier = Vec::new();
    for _ in 0..reader.number()? {
        earlier.push((epoch(reader)?, reader.number()?));
    }
    Ok(History { current, earlier })
}

fn put_record(out: &mut Vec<u8>, record: &FileRecord) {
    put_bytes(out, record.path.as_bytes());
    // Mostly the path begins with the family, or is it.
    let same = record.path == record.family;
    put_bytes(out, if same { b"" } else { record.family.as_bytes() });
    put_number(out, record.identity);
    put_number(out, record.length);
    put_tail(out, record.tail);
    put_signed(out, record.period.0);
    put_signed(out, record.period.1);
    put_number(out, u64::from(record.number));
    out.push(match record.stage {
        Stage::Active => 0,
        Stage::Rotated => 1,
        Stage::Compressed => 2,
    });
}

fn record(reader: &mut Reader<'_>) -> Result<FileRecord, Malformed> {
    let path = file_path(reader)?;
    let family = match reader.bytes()? {
        b"" => path.clone(),
        other => FilePath::from_bytes(other).ok_or(Malformed)?,
    };
    Ok(FileRecord {
        path,
        family,
        identity: reader.number()?,
        length: reader.number()?,
        tail: tail(reader)?,
        period: (reader.signed()?, reader.signed()?),
        number: reader.id()?,
        stage: match reader.byte()? {
            0 => Stage::Active,
            1 => Stage::Rotated,
            2 => Stage::Compressed,
            _ => return Err(Malformed),
        },
    })
}

fn put_tail(out: &mut Vec<u8>, tail: Tail) {
    match tail {
        Tail::Whole => put_number(out, 0),
        Tail::Broken => put_number(out, 1),
        Tail::Unfinished(origin) => put_number(out, u64::from(origin) + 2),
    }
}

fn tail(reader: &mut Reader<'_>) -> Result<Tail, Malformed> {
    Ok(match reader.number()? {
        0 => Tail::Whole,
        1 => Tail::Broken,
        other => Tail::Unfinished(u32::try_from(other - 2).map_err(|_| Malformed)?),
    })
}

fn put_intent(out: &mut Vec<u8>, intent: &Intent) {
    match intent {
        Intent::Create(record) => {
            out.push(1);
            put_record(out, record);
        }
        Intent::Adopt(record) => {
            out.push(2);
            put_record(out, record);
        }
        Intent::Rotate { to, period_end, stamp } => {
            out.push(3);
            put_bytes(out, to.as_bytes());
            put_signed(out, *period_end);
            put_signed(out, *stamp);
        }
        Intent::Compress { to, identity, length } => {
            out.push(4);
            put_bytes(out, to.as_bytes());
            put_number(out, *identity);
            put_number(out, *length);
        }
        Intent::Delete => out.push(5),
        Intent::Restore { length, tail } => {
            out.push(6);
            put_number(out, *length);
            put_tail(out, *tail);
        }
    }
}

fn intent(reader: &mut Reader<'_>) -> Result<Intent, Malformed> {
    Ok(match reader.byte()? {
        1 => Intent::Create(record(reader)?),
        2 => Intent::Adopt(record(reader)?),
        3 => Intent::Rotate { to: file_path(reader)?, period_end: reader.signed()?, stamp: reader.signed()? },
        4 => {
            Intent::Compress { to: file_path(reader)?, identity: reader.number()?, length: reader.number()? }
        }
        5 => Intent::Delete,
        6 => Intent::Restore { length: reader.number()?, tail: tail(reader)? },
        _ => return Err(Malformed),
    })
}

fn file_path(reader: &mut Reader<'_>) -> Result<FilePath, Malformed> {
    FilePath::from_bytes(reader.bytes()?).ok_or(Malformed)
}

/// A copy, so that a few bytes do not keep a whole ledger in memory.
fn copied(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
