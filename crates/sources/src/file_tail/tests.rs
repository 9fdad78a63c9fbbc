//! Scenarios, played with real files and a clock that is moved by hand. Each checks that the bytes which
//! arrived, put together by their offsets, are those that were written.

mod adoption;
mod bench;
mod compressed;
mod copies;
mod events;
mod fresh;
mod likeness;
mod limits;
mod losses;
mod outgrown;
mod permissions;
mod random;
mod restarts;
mod rotations;
mod stale;
mod unconfirmed;
mod wake;
mod zeros;
