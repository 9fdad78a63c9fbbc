//! Where a receiver goes on in a stream: [`Session`].
//!
//! A stream is the one that was read before only if its name and creation time match, its last sequence is not
//! below ours, and the message at our sequence still has the time that was noted with it: a broker that lost
//! its latest writes gives the same sequences to other messages. Whenever it is not, reading starts at the
//! first message; the sink cuts off what it has.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fshipper_pipeline::Epoch;

use super::api::{Api, nanoseconds};
use super::foreign::{Foreign, Last};
use super::partition::fnv1a64;
use super::pull::{Consumer, Deliver, Selection, Until};
use super::stream::Stream;

/// A consumer that goes on where the last one ended.
pub(super) struct Session {
    /// Delivers the messages.
    pub(super) consumer: Consumer,
    /// What cursors of this session have in common.
    pub(super) base: Base,
    /// Whether it goes on where the last one ended: the stream is provably the same.
    pub(super) continues: bool,
}

/// Where a receiver stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// In which stream.
    pub(super) base: Base,
    /// The sequence of the last message that was read.
    pub(super) sequence: u64,
    /// When that message was stored, in nanoseconds since 1970.
    pub(super) time: i64,
}

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    /// When the stream was created, in nanoseconds since 1970.
    created: i64,
    /// A hash of the subjects that are read.
    filters: u64,
    /// The epoch of messages that carry none: another one whenever the stream turns out to be another, or to
    /// have gone back.
    pub(super) foreign_epoch: Epoch,
}

/// How far a receiver has read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached<'a> {
    /// What the cursor says.
    pub(super) place: Option<&'a Place>,
    /// How far the messages of other publishers were numbered, which may be further.
    pub(super) foreign: &'a Foreign,
}

/// How a stream compares with the one that was read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Likeness {
    Same,
    /// Nothing says otherwise, but the message that would prove it is no longer there.
    Unproven,
    Another,
}

/// Of how many epochs a stream that went back is asked. There is more than one only where it went back before.
const MAX_EPOCHS: usize = 4;

/// How often a replica that lags is asked again.
const REPLICA_QUESTIONS: u32 = 5;
const REPLICA_PAUSE: Duration = Duration::from_millis(100);

impl Session {
    /// Makes a consumer of `stream` that starts after the place `reached`, if that is in it and the same `filters`
    /// were used, and at its first message otherwise.
    ///
    /// # Errors
    ///
    /// The server refused or did not answer.
    pub(super) async fn open(
        api: &Api,
        stream: &Stream,
        filters: &[String],
        Reached { place, foreign }: Reached<'_>,
        until: Until,
    ) -> Result<Self> {
        let created = nanoseconds(&stream.created)
            .with_context(|| format!("the stream `{}` has no time of creation", stream.name))?;
        let hash = fnv1a64(filters.join(" ").as_bytes());
        let likeness = match place {
            Some(place) => likeness(api, stream, created, place).await?,
            None => Likeness::Another,
        };
        let foreign_epoch = match place {
            Some(place) if likeness != Likeness::Another => place.base.foreign_epoch,
            Some(place) if place.base.created == created => {
                epoch_after_going_back(api, stream, created, foreign).await?
            }
            _ => Epoch(fnv1a64(format!("{} {created}", stream.name).as_bytes())),
        };
        let base = Base { created, filters: hash, foreign_epoch };
        let continued = place.filter(|place| likeness == Likeness::Same && place.base.filters == hash);
        let first = match place {
            Some(place) if continued.is_some() => place.sequence + 1,
            Some(_) => {
                tracing::warn!(
                    "reading the stream `{}` from its first message: {}; what is known already is left out",
                    stream.name,
                    if likeness == Likeness::Same {
                        "other subjects were read before"
                    } else {
                        "it is not provably the one that was read before"
                    }
                );
                1
            }
            None => 1,
        };
        let selection = Selection {
            deliver: Deliver::From(first),
            filters: stream.filters(filters),
            headers_only: false,
        };
        tracing::debug!("reading the stream `{}` from the message {first} on", stream.name);
        let consumer = Consumer::create(api, stream, &selection, until).await?;
        Ok(Self { consumer, base, continues: continued.is_some() })
    }
}

/// The epoch for messages without one in a stream that went back behind the cursor: the one of which the stream
/// provably holds the newest message that was numbered in it. The cursor stays where it is as long as any log waits,
/// and what was written meanwhile must not be written again each time.
async fn epoch_after_going_back(
    api: &Api,
    stream: &Stream,
    created: i64,
    foreign: &Foreign,
) -> Result<Epoch> {
    for (foreign_epoch, Last { sequence, time }) in foreign.newest().into_iter().take(MAX_EPOCHS) {
        let base = Base { created, filters: 0, foreign_epoch };
        let newest = Place { base, sequence, time };
        if likeness(api, stream, created, &newest).await? == Likeness::Same {
            return Ok(foreign_epoch);
        }
    }
    // What it holds now may be something else under the same sequences.
    Ok(Epoch::random())
}

async fn likeness(api: &Api, stream: &Stream, created: i64, place: &Place) -> Result<Likeness> {
    if place.base.created != created || stream.last_sequence < place.sequence {
        return Ok(Likeness::Another);
    }
    let mut questions = 0;
    loop {
        let stored = Consumer::first_headers(api, stream, Deliver::From(place.sequence), Vec::new()).await;
        let stored = stored.with_context(|| {
            format!("cannot look at the last message read from the stream `{}`", stream.name)
        })?;
        let stored = stored.filter(|stored| stored.sequence == place.sequence);
        questions += 1;
        match stored {
            Some(stored) if stored.time == place.time => return Ok(Likeness::Same),
            Some(_) => return Ok(Likeness::Another),
            // A replica may not have it yet; the leader need not be the one that answers.
            None if stream.replicas > 1 && questions < REPLICA_QUESTIONS => {
                tokio::time::sleep(REPLICA_PAUSE).await;
            }
            None => return Ok(Likeness::Unproven),
        }
    }
}

impl Place {
    /// Reads what [`Display`](fmt::Display) wrote.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut fields = text.split(';').map(|field| field.split_once('='));
        let mut field =
            |key: &str| fields.next().flatten().filter(|(name, _)| *name == key).map(|(_, value)| value);
        let hexadecimal = |value: &str| u64::from_str_radix(value, 16).ok();
        let created = field("created")?.parse().ok()?;
        let filters = hexadecimal(field("filters")?)?;
        let foreign_epoch = Epoch(hexadecimal(field("epoch")?)?);
        let sequence = field("seq")?.parse().ok()?;
        let time = field("time")?.parse().ok()?;
        Some(Self { base: Base { created, filters, foreign_epoch }, sequence, time })
    }
}

/// Printable ASCII, for a cursor.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { base: Base { created, filters, foreign_epoch }, sequence, time } = self;
        write!(f, "created={created};filters={filters:016x};epoch={foreign_epoch};seq={sequence};time={time}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_the_round_trip() {
        let base = Base { created: 1_795_406_728_983_466_098, filters: 0xfeed, foreign_epoch: Epoch(7) };
        let place = Place { base, sequence: 42, time: -1 };
        let text = place.to_string();
        assert_eq!(Place::parse(text.as_bytes()), Some(place));
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
        for wrong in ["", "created=1", "created=1;filters=x;epoch=7;seq=1;time=2", "\u{e9}"] {
            assert_eq!(Place::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
