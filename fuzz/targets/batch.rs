#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fshipper_transports::fuzzing::batch(data));
