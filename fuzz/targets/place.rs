#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fshipper_sources::file_tail::fuzzing::place(data));
