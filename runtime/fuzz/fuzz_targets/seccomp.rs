#![no_main]
//! See `swarm_runtime::fuzz::seccomp`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| swarm_runtime::fuzz::seccomp(data));
