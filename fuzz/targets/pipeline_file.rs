#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fshipper::fuzzing::pipeline_file(data));
