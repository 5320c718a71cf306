#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = llq_fuzz_entries::entries::llamafile(input);
});
