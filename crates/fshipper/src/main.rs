//! The log shipper over NATS.

use std::process::ExitCode;

fn main() -> ExitCode {
    fshipper::main()
}
