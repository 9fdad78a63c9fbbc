#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fshipper_sinks::rotating_file::fuzzing::output_path(data));
