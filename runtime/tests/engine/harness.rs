//! A test binary that is its own shim: re-executed as `BINARY shim --dir DIR`, on the main thread before any other
//! is started, which the standard harness would not allow. Speaks enough of that harness's language for cargo and
//! nextest.

use std::{
    ffi::OsString,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::ExitCode,
};

/// A test's name and itself.
pub(crate) type Test = (&'static str, fn());

/// Names each function of a list.
#[macro_export]
macro_rules! tests {
    ($($path:path),* $(,)?) => { &[$((stringify!($path), $path as fn())),*] };
}

/// What an engine in this binary starts as its shims.
pub(crate) fn shim() -> Vec<OsString> {
    vec!["/proc/self/exe".into(), "shim".into()]
}

/// The binary's `main`.
pub(crate) fn main(tests: &[Test]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, option, dir] = arguments.as_slice()
        && (command.as_str(), option.as_str()) == ("shim", "--dir")
    {
        return swarm_runtime::shim::shim_main(Path::new(dir));
    }
    let has = |flag: &str| arguments.iter().any(|a| a == flag);
    let mut filters = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--format" | "--test-threads" | "--color" | "--skip" => drop(rest.next()),
            flag if flag.starts_with('-') => {}
            filter => filters.push(filter),
        }
    }
    let wanted = |name: &str| {
        let fits = |f: &&str| {
            if has("--exact") {
                name == *f
            } else {
                name.contains(*f)
            }
        };
        !has("--ignored") && (filters.is_empty() || filters.iter().any(fits))
    };
    let mut failed = 0;
    for (name, test) in tests.iter().filter(|(name, _)| wanted(name)) {
        if has("--list") {
            println!("{name}: test");
            continue;
        }
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
