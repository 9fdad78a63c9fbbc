//! Small messages that continue one another become one batch: [`Run`].

use std::time::SystemTime;

use bytes::BytesMut;
use fshipper_pipeline::{Batch, Content, Epoch, Origin};

/// Batches that continue one another, on their way to become one: each has its price on the way to a file, and
/// one of a single line costs as much as one of hundreds.
///
/// All bytes of a run belong to the same period of an output, for periods are whole seconds.
#[derive(Debug)]
pub(super) struct Run {
    places: Places,
    max_bytes: usize,
    first: Option<Batch>,
    /// The bytes of more than one.
    joined: BytesMut,
}

/// What a run does with the places of its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Places {
    /// All batches have the same one: a sink may cut the run anywhere, and its place holds there.
    Same,
    /// The last one counts, for nobody will ask.
    Last,
}

/// Beyond this a batch costs little in comparison.
const MAX_JOINED_BYTES: usize = 64 << 10;

impl Run {
    /// An empty run, of at most `max_bytes` unless a single batch is longer.
    pub(super) fn new(places: Places, max_bytes: usize) -> Self {
        let max_bytes = max_bytes.min(MAX_JOINED_BYTES);
        Self { places, max_bytes, first: None, joined: BytesMut::new() }
    }

    /// Adds a batch; when it does not continue what is there, that is given back and a new run begins.
    pub(super) fn add(&mut self, batch: Batch) -> Option<Batch> {
        if !self.is_continued_by(&batch) {
            let finished = self.finish();
            self.first = Some(batch);
            return finished;
        }
        let first = self.first.as_mut()?;
        if self.joined.is_empty() {
            self.joined.extend_from_slice(first.bytes());
        }
        self.joined.extend_from_slice(batch.bytes());
        first.place = batch.place;
        None
    }

    /// The epoch and the end of what is there, if it is `origin`'s.
    pub(super) fn end_of(&self, origin: &Origin) -> Option<(Epoch, u64)> {
        let first = self.first.as_ref().filter(|first| first.origin == *origin)?;
        Some((first.epoch, first.start + self.length() as u64))
    }

    /// Whether it is long enough for a batch of its own.
    pub(super) fn is_long(&self) -> bool {
        self.length() >= self.max_bytes / 2
    }

    /// The whole run as one batch.
    pub(super) fn finish(&mut self) -> Option<Batch> {
        let mut batch = self.first.take()?;
        if !self.joined.is_empty() {
            batch.content = Content::Data(std::mem::take(&mut self.joined).freeze());
        }
        Some(batch)
    }

    fn is_continued_by(&self, batch: &Batch) -> bool {
        let Some(first) = &self.first else { return false };
        let length = self.length();
        matches!((&first.content, &batch.content), (Content::Data(_), Content::Data(_)))
            && batch.origin == first.origin
            && batch.epoch == first.epoch
            && batch.start == first.start + length as u64
            && length + batch.bytes().len() <= self.max_bytes
            && (self.places == Places::Last || batch.place == first.place)
            && second(batch.time) == second(first.time)
    }

    fn length(&self) -> usize {
        let first = self.first.as_ref().map_or(0, |first| first.bytes().len());
        first.max(self.joined.len())
    }
}

/// Which second of history a time is in; before 1970 the distance to it, which tells apart as well.
fn second(time: SystemTime) -> (bool, u64) {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (true, after.as_secs()),
        Err(before) => (false, before.duration().as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn data(origin: &str, start: u64, text: &'static str) -> Batch {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(5200);
        Batch { time, ..Batch::data(Origin::new("h", origin), Epoch(1), start, text) }
    }

    fn joined(mut run: Run, batches: impl IntoIterator<Item = Batch>) -> Vec<(u64, u64, String)> {
        let mut finished: Vec<_> = batches.into_iter().filter_map(|batch| run.add(batch)).collect();
        finished.extend(run.finish());
        assert!(run.finish().is_none());
        let text = |batch: &Batch| String::from_utf8(batch.bytes().to_vec()).unwrap();
        finished.iter().map(|batch| (batch.start, batch.end(), text(batch))).collect()
    }

    #[test]
    fn only_what_continues_is_joined() {
        let loss = Batch::loss(Origin::new("h", "b"), Epoch(1), 2, 3, "gone");
        let batches =
            [data("a", 0, "1\n"), data("a", 2, "2\n"), data("b", 0, "3\n"), loss, data("b", 5, "4\n")];
        let expected = [(0, 4, "1\n2\n"), (0, 2, "3\n"), (2, 5, ""), (5, 7, "4\n")];
        let expected = expected.map(|(start, end, text)| (start, end, text.to_owned()));
        assert_eq!(joined(Run::new(Places::Same, 100), batches), expected);
        let epoch = Batch { epoch: Epoch(2), ..data("a", 2, "2\n") };
        let unknown_loss = || {
            let loss = Batch::loss(Origin::new("h", "a"), Epoch(1), 2, 2, "gone");
            Batch { time: data("a", 0, "1\n").time, ..loss }
        };
        for [one, other] in [
            [data("a", 0, "1\n"), epoch],
            [data("a", 0, "1\n"), data("a", 3, "2\n")],
            [data("a", 0, "1\n"), data("b", 2, "2\n")],
            [data("a", 0, "1\n"), unknown_loss()],
            [unknown_loss(), data("a", 2, "2\n")],
        ] {
            assert_eq!(joined(Run::new(Places::Same, 100), [one, other]).len(), 2);
        }
    }

    #[test]
    fn a_run_has_one_place_unless_nobody_asks_for_it() {
        let other = Batch { place: "2".into(), ..data("a", 2, "2\n") };
        let batches = [Batch { place: "1".into(), ..data("a", 0, "1\n") }, other];
        assert_eq!(joined(Run::new(Places::Same, 100), batches.clone()).len(), 2);
        assert_eq!(joined(Run::new(Places::Last, 100), batches.clone()).len(), 1);
        let mut run = Run::new(Places::Last, 100);
        assert!(batches.into_iter().all(|batch| run.add(batch).is_none()));
        assert_eq!(run.finish().unwrap().place, "2");
    }

    #[test]
    fn a_run_tells_where_its_log_goes_on() {
        let mut run = Run::new(Places::Last, 100);
        assert_eq!(run.end_of(&Origin::new("h", "a")), None);
        for batch in [data("a", 3, "1\n"), data("a", 5, "22\n")] {
            assert!(run.add(batch).is_none());
        }
        assert_eq!(run.end_of(&Origin::new("h", "a")), Some((Epoch(1), 8)));
        assert_eq!(run.end_of(&Origin::new("h", "b")), None);
    }

    #[test]
    fn a_run_ends_with_its_second() {
        let later = |milliseconds| SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
        let same = Batch { time: later(5999), ..data("a", 2, "2\n") };
        let next = Batch { time: later(6000), ..data("a", 4, "3\n") };
        assert_eq!(joined(Run::new(Places::Same, 100), [data("a", 0, "1\n"), same, next]).len(), 2);
    }

    #[test]
    fn a_run_is_no_longer_than_a_batch_may_be() {
        let batches = [data("a", 0, "1\n"), data("a", 2, "2\n"), data("a", 4, "3\n")];
        let expected = [(0, 4, "1\n2\n".to_owned()), (4, 6, "3\n".to_owned())];
        assert_eq!(joined(Run::new(Places::Same, 5), batches), expected);
    }
}
