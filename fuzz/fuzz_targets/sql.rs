//! Statements as they are captured: any bytes, cut anywhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for (truncated, literals) in [(false, false), (true, false), (false, true)] {
        let read = tracer::semantics::sql::analyse(data, truncated, literals);
        assert!(!read.text.chars().any(char::is_control));
    }
});
