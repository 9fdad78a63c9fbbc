//! Troubles again and again, reported at a bounded rate: [`Complaint`].

use std::time::{Duration, Instant};

/// The same message is repeated no more often than this.
const REPEAT_EVERY: Duration = Duration::from_secs(60);

/// So many are logged within that time, whatever they say: where they name what others invent, no two are the same.
const MOST_AT_ONCE: u32 = 10;

/// Remembers the last message, and how many were held back.
#[derive(Debug, Default)]
pub struct Complaint {
    /// Most things never go wrong, and there may be thousands of them.
    known: Option<Box<Known>>,
}

#[derive(Debug)]
struct Known {
    /// The message that was logged last, and when, unless it is over.
    last: Option<(String, Instant)>,
    repeated: u64,
    /// How many others were held back since then.
    others: u64,
    /// Since when so many were logged.
    since: Instant,
    logged: u32,
}

impl Complaint {
    /// Calls `log` with the message when it is new, or when the same one was last logged a minute ago; then
    /// with the number of repetitions since. Of messages that differ only some are logged within a minute, and the
    /// next one says how many were not.
    pub fn report(&mut self, message: &str, log: impl FnOnce(&str)) {
        let now = Instant::now();
        let known = self.known.get_or_insert_with(|| {
            Box::new(Known { last: None, repeated: 0, others: 0, since: now, logged: 0 })
        });
        if now.duration_since(known.since) >= REPEAT_EVERY {
            (known.since, known.logged) = (now, 0);
        }
        let same_at = known.last.as_ref().filter(|(last, _)| last == message).map(|(_, at)| *at);
        if same_at.is_some_and(|at| now.duration_since(at) < REPEAT_EVERY) {
            known.repeated += 1;
            return;
        }
        if known.logged == MOST_AT_ONCE {
            known.others += 1;
            return;
        }
        match (same_at, known.repeated, known.others) {
            (Some(_), repeated @ 1.., _) => {
                log(&format!("{message} ({} times since the last report)", repeated + 1));
            }
            (_, _, others @ 1..) => log(&format!("{message} (and {others} others since the last report)")),
            _ => log(message),
        }
        known.last = Some((message.to_owned(), now));
        (known.repeated, known.others) = (0, 0);
        known.logged += 1;
    }

    /// Forgets the message: things work again, and the next trouble is news. Whether there was one, so that
    /// its end can be reported too.
    pub fn settle(&mut self) -> bool {
        let Some(known) = &mut self.known else { return false };
        known.repeated = 0;
        known.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_message_is_logged_once_and_another_at_once() {
        let (mut complaint, mut logged) = (Complaint::default(), Vec::new());
        for message in ["full", "full", "full", "gone", "full"] {
            complaint.report(message, |text| logged.push(text.to_owned()));
        }
        assert!(complaint.settle() && !complaint.settle());
        complaint.report("full", |text| logged.push(text.to_owned()));
        assert_eq!(logged, ["full", "gone", "full", "full"]);
    }

    #[test]
    fn messages_that_differ_are_logged_at_a_bounded_rate_too() {
        let (mut complaint, mut logged) = (Complaint::default(), Vec::new());
        for number in 0..1000 {
            complaint.report(&format!("log {} is refused", number % 7), |text| logged.push(text.to_owned()));
        }
        assert_eq!(logged.len(), MOST_AT_ONCE as usize, "{logged:?}");
        complaint.known.as_mut().unwrap().since -= REPEAT_EVERY;
        complaint.report("something else", |text| logged.push(text.to_owned()));
        // The rest repeated the last one that was logged.
        assert_eq!(logged.last().unwrap(), "something else (and 849 others since the last report)");
    }

    #[test]
    fn a_trouble_that_comes_and_goes_is_logged_at_a_bounded_rate_and_so_is_its_end() {
        let (mut complaint, mut logged, mut ended) = (Complaint::default(), 0, 0);
        for _ in 0..1000 {
            complaint.report("full", |_| logged += 1);
            ended += u32::from(complaint.settle());
        }
        assert_eq!((logged, ended), (MOST_AT_ONCE, MOST_AT_ONCE));
    }
}
