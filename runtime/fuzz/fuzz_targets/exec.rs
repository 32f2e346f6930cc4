#![no_main]
//! See `swarm_runtime::fuzz::exec`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| swarm_runtime::fuzz::exec(data));
