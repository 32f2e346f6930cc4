//! Removes what killed runs of the harness have left on this machine: hosts whose makers are gone.

use std::process::ExitCode;
use swarm_tests::clean;

fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for prefix in clean::abandoned() {
        match clean::sweep(&prefix) {
            Ok(()) => println!("removed the hosts of {prefix}"),
            Err(e) => {
                eprintln!("cannot remove the hosts of {prefix}: {e:#}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
