#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| llq_fuzz_entries::entries::gguf_header(input));
