//! Scenarios, played with real files and a clock that is moved by hand. Each checks that the bytes which
//! arrived, put together by their offsets, are those that were written.

mod adoption;
mod bench;
mod compressed;
mod copies;
mod descriptors;
mod epochs;
mod events;
mod fresh;
mod likeness;
mod limits;
mod losses;
mod once;
mod outgrown;
mod permissions;
mod random;
mod renumbered;
mod restarts;
mod rotations;
mod stale;
mod survivors;
mod unconfirmed;
mod unread;
mod wake;
mod zeros;
