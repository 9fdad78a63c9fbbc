//! The same trouble again and again, reported at a bounded rate: [`Complaint`].

use std::time::{Duration, Instant};

/// The same message is repeated no more often than this.
const REPEAT_EVERY: Duration = Duration::from_secs(60);

/// Remembers the last message and how often it was held back.
#[derive(Debug, Default)]
pub struct Complaint {
    /// Most things never go wrong, and there may be thousands of them.
    last: Option<Box<(String, Instant)>>,
    held_back: u64,
}

impl Complaint {
    /// Calls `log` with the message when it is new, or when the same one was last logged a minute ago; then
    /// with the number of repetitions since.
    pub fn report(&mut self, message: &str, log: impl FnOnce(&str)) {
        let now = Instant::now();
        match self.last.as_deref() {
            Some((last, at)) if last == message && now.duration_since(*at) < REPEAT_EVERY => {
                self.held_back += 1;
                return;
            }
            Some((last, _)) if last == message && self.held_back > 0 => {
                log(&format!("{message} ({} times since the last report)", self.held_back + 1));
            }
            _ => log(message),
        }
        self.last = Some(Box::new((message.to_owned(), now)));
        self.held_back = 0;
    }

    /// Forgets the message: things work again, and the next trouble is news. Whether there was one, so that
    /// its end can be reported too.
    pub fn settle(&mut self) -> bool {
        self.held_back = 0;
        self.last.take().is_some()
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
}
