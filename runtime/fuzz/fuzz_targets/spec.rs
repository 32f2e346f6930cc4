#![no_main]
//! See `swarm_runtime::fuzz::spec`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| swarm_runtime::fuzz::spec(data));
