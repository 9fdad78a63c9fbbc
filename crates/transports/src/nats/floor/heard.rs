//! What a producer knows of those who read it, and what it does about it: [`Heard`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::Message;
use fshipper_pipeline::{Complaint, Epoch, Escaped, Origin, Position, Progress};

use super::notice::{Notice, Request};
use super::{FloorPlan, Warnings};
use crate::nats::restore::{Restored, Tail};
use crate::nats::stream::Stream;

/// What a process has heard.
#[derive(Debug, Default)]
pub(in crate::nats) struct Heard {
    state: Mutex<State>,
    pub(super) warnings: Warnings,
}

#[derive(Debug, Default)]
struct State {
    notices: HashMap<Origin, Notice>,
    /// Where a request was dealt with last, all of them in the data stream that was created then.
    dealt_with: HashMap<Origin, Dealt>,
    created: String,
    /// Who told of a log before whoever told of it last.
    earlier_consumers: HashMap<Origin, Arc<str>>,
    /// Where this session started with each log.
    epochs: HashMap<Origin, Epoch>,
    alternating: Complaint,
}

/// What was done about a request.
#[derive(Clone, Copy, Debug)]
struct Dealt {
    epoch: Epoch,
    /// Everything from here on was, or is being, sent once more.
    from: u64,
    /// After this sequence.
    read: u64,
    /// The last message of the log at that time.
    tail: u64,
    /// The first message of it that was stored since, as far as is known: it, or one after it.
    first: Option<u64>,
}

/// What to do about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    GoBack,
    /// It asks for another history, or for what is not there yet.
    Nothing,
    /// The bytes are in the stream, or on their way, after what the consumer has read.
    Given,
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic between two changes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies what was heard to what the `stream` holds.
    pub(super) fn apply(&self, restored: &mut Restored, stream: &Stream) {
        self.lock().apply(restored, stream);
    }

    /// Takes one notice; whether it asks for something that the present session does not give.
    pub(super) fn take(&self, plan: &FloorPlan, message: &Message, progress: &Progress) -> bool {
        let notice = match Notice::parse(&plan.subjects, &message.subject, &message.payload) {
            Ok(notice) => notice,
            Err(reason) => {
                let subject = Escaped(message.subject.as_bytes());
                self.warnings.once(&format!("a notice on `{subject}` is left out: {reason}"));
                return false;
            }
        };
        let floor = Position { epoch: notice.epoch, offset: notice.end, place: notice.place.clone() };
        progress.set_floor(&notice.origin, floor);
        let mut state = self.lock();
        state.note_consumer(&notice);
        let is_news = notice.request.is_some_and(|request| {
            let dealt = state.dealt_with.get(&notice.origin);
            let epoch = state.epochs.get(&notice.origin);
            epoch.is_none_or(|epoch| *epoch == notice.epoch)
                && !dealt.is_some_and(|dealt| dealt.covers(&notice, request))
        });
        state.notices.insert(notice.origin.clone(), notice);
        is_news
    }

    /// A message of `origin` is stored, and ends there.
    pub(in crate::nats) fn stored(&self, origin: &Origin, tail: &Tail) {
        if let Some(dealt) = self.lock().dealt_with.get_mut(origin) {
            dealt.note(tail.sequence);
        }
    }
}

impl State {
    fn apply(&mut self, restored: &mut Restored, stream: &Stream) {
        self.forget_what_is_gone(&restored.tails, &stream.created);
        for notice in self.notices.values() {
            let Notice { origin, epoch, end, place, .. } = notice;
            // It may have been read in a stream that is gone.
            let within =
                |request: Request| Request { read: request.read.min(stream.last_sequence), ..request };
            let request = notice.request.map(within);
            let position = Position { epoch: *epoch, offset: *end, place: place.clone() };
            let Some(tail) = restored.tails.get(origin) else {
                tracing::info!(
                    "the stream `{}` has nothing of `{origin}`: going on at {end}, where `{}` has it",
                    stream.name,
                    notice.consumer
                );
                restored.checkpoint.set_position(origin, position);
                let tail = Tail { sequence: 0, end: Some((*epoch, *end)) };
                restored.tails.insert(origin.clone(), tail);
                if let Some(Request { read, .. }) = request {
                    let dealt = Dealt { epoch: *epoch, from: *end, read, tail: 0, first: None };
                    self.dealt_with.insert(origin.clone(), dealt);
                }
                continue;
            };
            let tail_end = tail.end.filter(|(tail_epoch, _)| tail_epoch == epoch).map(|(_, end)| end);
            if tail_end.is_some_and(|tail_end| tail_end < *end) {
                // The stream went back. A source that cannot must not give these offsets to other bytes.
                let reached = restored.reached.entry(origin.clone()).or_insert((*epoch, *end));
                reached.1 = reached.1.max(*end);
            }
            let Some(request) = request else { continue };
            let dealt = self.dealt_with.get(origin);
            match answer(notice, request, tail, restored.reached.contains_key(origin), dealt) {
                Answer::Nothing => {
                    if let Some(from) = tail_end {
                        // Everything from there on is sent as soon as there is anything.
                        let (read, tail) = (request.read, tail.sequence);
                        let dealt = Dealt { epoch: *epoch, from, read, tail, first: None };
                        self.dealt_with.insert(origin.clone(), dealt);
                    }
                }
                Answer::Given => {
                    let known = dealt.filter(|dealt| dealt.covers(notice, request)).copied();
                    let given = Dealt { epoch: *epoch, from: *end, read: request.read, tail: 0, first: None };
                    // Any of what is there may be the answer.
                    let dealt = Dealt { first: Some(tail.sequence), ..known.unwrap_or(given) };
                    self.dealt_with.insert(origin.clone(), dealt);
                }
                Answer::GoBack => {
                    tracing::warn!(
                        "`{}` misses the bytes {end} to {} of `{origin}`: sending everything from there on again",
                        notice.consumer,
                        request.to
                    );
                    let read = request.read.max(tail.sequence);
                    let dealt = Dealt { epoch: *epoch, from: *end, read, tail: tail.sequence, first: None };
                    self.dealt_with.insert(origin.clone(), dealt);
                    if let Some((epoch, end)) = tail.end {
                        let reached = restored.reached.entry(origin.clone()).or_insert((epoch, end));
                        reached.1 = reached.1.max(end);
                    }
                    let tail = Tail { sequence: tail.sequence, end: Some((*epoch, *end)) };
                    restored.checkpoint.set_position(origin, position);
                    restored.tails.insert(origin.clone(), tail);
                }
            }
        }
        let epochs = restored.checkpoint.origins();
        self.epochs = epochs.map(|(origin, history)| (origin.clone(), history.current.epoch)).collect();
        restored.checkpoint.clear_changes();
    }

    /// What was sent again to a stream that is another one by now, or went back, was sent in vain.
    fn forget_what_is_gone(&mut self, tails: &HashMap<Origin, Tail>, created: &str) {
        if self.created != created {
            self.dealt_with.clear();
            created.clone_into(&mut self.created);
        }
        self.dealt_with
            .retain(|origin, dealt| tails.get(origin).is_some_and(|tail| tail.sequence >= dealt.tail));
        // Nobody may have heard that it was stored.
        for (origin, dealt) in &mut self.dealt_with {
            dealt.note(tails[origin].sequence);
        }
    }

    /// Two consumers that tell of the same log in turn are one too many.
    fn note_consumer(&mut self, notice: &Notice) {
        let Some(known) = self.notices.get(&notice.origin).filter(|known| known.consumer != notice.consumer)
        else {
            return;
        };
        let last = known.consumer.clone();
        let before = self.earlier_consumers.insert(notice.origin.clone(), last.clone());
        if before.as_deref() == Some(&*notice.consumer) {
            let message = format!(
                "`{last}` and `{}` both tell how far they have `{}`: set `floor = false` in `stream` for the one that \
                 does not count",
                notice.consumer, notice.origin
            );
            self.alternating.report(&message, |message| tracing::warn!("{message}"));
        }
    }
}

/// What to do about a request, when the stream ends with `tail`.
fn answer(
    notice: &Notice,
    request: Request,
    tail: &Tail,
    is_being_sent_again: bool,
    dealt: Option<&Dealt>,
) -> Answer {
    if !tail.end.is_some_and(|(epoch, end)| epoch == notice.epoch && notice.end < end) {
        return Answer::Nothing;
    }
    // An earlier life of this producer went back, and was interrupted: it goes on where it was.
    let is_going_back = is_being_sent_again && tail.sequence > request.read;
    let went_back = dealt.is_some_and(|dealt| dealt.covers(notice, request) && tail.sequence > dealt.tail);
    if is_going_back || went_back { Answer::Given } else { Answer::GoBack }
}

impl Dealt {
    /// Whether what is asked for was sent after what the consumer has read, or is still to be sent: another session
    /// would do no more, and where it cannot be sent at all, no session will.
    fn covers(&self, notice: &Notice, request: Request) -> bool {
        let is_ahead = self.read >= request.read || self.first.is_none_or(|first| first > request.read);
        self.epoch == notice.epoch && self.from <= notice.end && is_ahead
    }

    /// A message of the log is stored.
    fn note(&mut self, sequence: u64) {
        if sequence > self.tail {
            self.first.get_or_insert(sequence);
        }
    }
}

#[cfg(test)]
mod tests {
    use fshipper_pipeline::Bytes;

    use super::*;

    const EPOCH: Epoch = Epoch(1);

    /// The bytes 100 to 200 are missing, and the stream was read up to the sequence 7.
    const REQUEST: Request = Request { to: 200, read: 7 };

    fn notice(epoch: Epoch) -> Notice {
        Notice {
            origin: Origin::new("h", "/l"),
            epoch,
            end: 100,
            request: Some(REQUEST),
            consumer: "c".into(),
            time: String::new(),
            place: Bytes::new(),
        }
    }

    fn tail(sequence: u64, end: u64) -> Tail {
        Tail { sequence, end: Some((EPOCH, end)) }
    }

    #[test]
    fn a_request_is_answered_once() {
        let answer = |tail, again, dealt| answer(&notice(EPOCH), REQUEST, &tail, again, dealt);
        assert_eq!(answer(tail(9, 500), false, None), Answer::GoBack);
        let dealt = Dealt { epoch: EPOCH, from: 100, read: 9, tail: 9, first: None };
        assert_eq!(answer(tail(12, 300), true, Some(&dealt)), Answer::Given);
        assert_eq!(answer(tail(20, 700), false, Some(&dealt)), Answer::Given);
        assert_eq!(answer(tail(9, 500), false, Some(&dealt)), Answer::GoBack, "nothing was sent since");
        let further_up = Dealt { from: 150, ..dealt };
        assert_eq!(answer(tail(20, 700), false, Some(&further_up)), Answer::GoBack);
        let read_in_vain = Dealt { read: 6, tail: 6, first: Some(7), ..dealt };
        assert_eq!(answer(tail(20, 700), false, Some(&read_in_vain)), Answer::GoBack);
        let to_be_read = Dealt { first: Some(8), ..read_in_vain };
        assert_eq!(answer(tail(20, 700), false, Some(&to_be_read)), Answer::Given);
    }

    /// A stream that was `created` then, and ends with `last_sequence`.
    fn stream(created: &str, last_sequence: u64) -> Stream {
        Stream {
            name: "LOGS".to_owned(),
            created: created.to_owned(),
            subjects: Vec::new(),
            atomic: false,
            fast: false,
            max_message_bytes: None,
            replicas: 1,
            first_sequence: 1,
            last_sequence,
            messages: last_sequence,
        }
    }

    fn restored(tail: Option<Tail>) -> Restored {
        let tails = tail.map(|tail| (Origin::new("h", "/l"), tail)).into_iter().collect();
        Restored { tails, ..Restored::default() }
    }

    /// A producer of one log.
    #[derive(Default)]
    struct Producer {
        heard: Heard,
        progress: Progress,
    }

    impl Producer {
        /// A session starts in a stream that has so much of the log; what it starts with.
        fn start(&self, stream: &Stream, tail: Option<Tail>) -> Restored {
            let mut restored = restored(tail);
            self.heard.apply(&mut restored, stream);
            restored
        }

        /// Somebody says so; whether it is news.
        fn hear(&self, end: u64, request: Option<Request>) -> bool {
            let plan = FloorPlan::new("LOGS", true, 1, "s", None);
            let notice = Notice { end, request, ..notice(EPOCH) };
            let message = Message {
                subject: plan.subjects.publish(&notice.origin).into(),
                reply: None,
                payload: notice.to_string().into(),
                headers: None,
                status: None,
                description: None,
                length: 0,
            };
            self.heard.take(&plan, &message, &self.progress)
        }

        /// The same request, by a consumer that has `read` further.
        fn hear_again(&self, read: u64) -> bool {
            self.hear(100, Some(Request { read, ..REQUEST }))
        }

        fn store(&self, sequence: u64, end: u64) {
            self.heard.stored(&Origin::new("h", "/l"), &tail(sequence, end));
        }
    }

    #[test]
    fn what_was_sent_again_to_another_stream_is_no_answer() {
        let origin = Origin::new("h", "/l");
        let mut state = State::default();
        let mut covers = |created, tail: Tail, dealt: Option<Dealt>| {
            state.dealt_with.extend(dealt.map(|dealt| (origin.clone(), dealt)));
            state.forget_what_is_gone(&HashMap::from([(origin.clone(), tail)]), created);
            state.dealt_with.get(&origin).is_some_and(|dealt| dealt.covers(&notice(EPOCH), REQUEST))
        };
        let dealt = Dealt { epoch: EPOCH, from: 100, read: 9, tail: 9, first: None };
        covers("today", tail(1, 100), None);
        assert!(covers("today", tail(9, 100), Some(dealt)));
        assert!(covers("today", tail(12, 300), None));
        assert!(!covers("tomorrow", tail(12, 300), None), "it is another stream");
        assert!(!covers("tomorrow", tail(8, 300), Some(dealt)), "it went back");
    }

    #[test]
    fn a_request_is_news_again_only_when_what_was_sent_for_it_was_read_in_vain() {
        let (producer, today) = (Producer::default(), stream("today", 9));
        producer.hear(100, Some(REQUEST));
        let started = producer.start(&today, Some(tail(9, 500)));
        assert_eq!(started.tails[&Origin::new("h", "/l")], tail(9, 100), "it goes back");
        assert!(!producer.hear_again(8));
        assert!(!producer.hear_again(5000), "nothing of the log was sent since: others were");
        producer.store(6001, 150);
        producer.store(6002, 300);
        assert!(!producer.hear_again(6000), "it is still to be read");
        assert!(producer.hear_again(6001), "it was read in vain");
        assert!(producer.hear(50, Some(REQUEST)), "it begins further down");
    }

    #[test]
    fn a_request_for_what_is_about_to_be_sent_is_no_news() {
        let (producer, today) = (Producer::default(), stream("today", 9));
        producer.hear(100, Some(REQUEST));
        producer.start(&today, Some(tail(9, 80)));
        assert!(!producer.hear_again(5000));
        producer.store(6001, 300);
        assert!(!producer.hear_again(6000));
        // Another session, in which all that is there may be the answer until it was read.
        let started = producer.start(&stream("today", 6002), Some(tail(6002, 400)));
        assert_eq!(started.tails[&Origin::new("h", "/l")], tail(6002, 400), "it goes on");
        assert!(!producer.hear_again(6001));
        assert!(producer.hear_again(6002));
    }

    #[test]
    fn what_an_earlier_stream_was_asked_for_hides_no_request() {
        let producer = Producer::default();
        let later = |read| producer.hear(5200, Some(Request { to: 5300, read }));
        producer.hear(100, Some(REQUEST));
        producer.start(&stream("today", 9), Some(tail(9, 500)));
        assert!(!producer.hear_again(8));
        producer.hear(5200, None);
        producer.start(&stream("tomorrow", 2), Some(tail(2, 5300)));
        assert!(later(1));
    }

    #[test]
    fn what_was_read_of_an_earlier_stream_says_nothing_of_this_one() {
        for there in [None, Some(tail(2, 500))] {
            let producer = Producer::default();
            producer.hear(100, Some(Request { to: 200, read: 1_000_000 }));
            producer.start(&stream("tomorrow", 2), there);
            producer.store(3, 5300);
            assert!(producer.hear(5200, Some(Request { to: 5300, read: 8 })));
        }
    }

    #[test]
    fn offsets_that_a_consumer_has_are_known_to_have_been_given() {
        let producer = Producer::default();
        let reached = |tail| producer.start(&stream("today", 9), Some(tail)).reached;
        let origin = Origin::new("h", "/l");
        producer.hear(100, None);
        assert_eq!(reached(tail(9, 80)), HashMap::from([(origin, (EPOCH, 100))]));
        assert_eq!(reached(tail(9, 100)), HashMap::new());
        assert_eq!(reached(Tail { sequence: 9, end: Some((Epoch(2), 80)) }), HashMap::new());
    }

    #[test]
    fn a_producer_that_was_restarted_goes_on_going_back() {
        let answer = |tail, again| answer(&notice(EPOCH), REQUEST, &tail, again, None);
        assert_eq!(answer(tail(8, 150), true), Answer::Given);
        assert_eq!(answer(tail(7, 150), true), Answer::GoBack, "the consumer has read that in vain");
    }

    #[test]
    fn what_concerns_another_history_or_is_not_there_yet_is_passed_over() {
        assert_eq!(answer(&notice(Epoch(2)), REQUEST, &tail(9, 500), false, None), Answer::Nothing);
        assert_eq!(answer(&notice(EPOCH), REQUEST, &tail(9, 100), false, None), Answer::Nothing);
        assert_eq!(answer(&notice(EPOCH), REQUEST, &Tail::default(), false, None), Answer::Nothing);
    }
}
