//! `fshipper` with the plugins of this crate: a crate that nobody names would not be linked.

use std::process::ExitCode;

use example_plugin as _;

fn main() -> ExitCode {
    fshipper::main()
}
