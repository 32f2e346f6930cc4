//! The OCI command line: by hand, and as the runtime of Debian's podman and Docker.

mod bundle;
mod docker;
mod exchange;
mod lifecycle;
mod podman;
mod rootless;
mod system;

use anyhow::{Context, Result, ensure};
use std::{path::PathBuf, time::Duration};

/// What anything here happens within, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// The program that is tested: it stands where cargo puts it, beside the folder of this test.
fn swarm_oci() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let program = own
        .ancestors()
        .nth(2)
        .context("this test stands nowhere")?
        .join("swarm-oci");
    ensure!(
        program.is_file(),
        "there is no {}; run `cargo build -p swarm-oci` first, or `make test`",
        program.display()
    );
    Ok(program)
}
