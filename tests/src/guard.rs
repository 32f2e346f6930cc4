//! A program that leaves nothing behind, whatever ends it: its work is done by a child, and the parent, which makes
//! nothing itself, sweeps up after it.

use crate::{clean, command};
use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const CHILD: &str = "SWARM_GUARDED";

/// Does `work`, at most for `limit`. A failure is said on standard error. On SIGINT, SIGTERM and SIGHUP, and when the
/// time is up, the work is ended and swept up after.
#[must_use]
pub fn guarded(limit: Duration, work: impl FnOnce() -> Result<()>) -> ExitCode {
    let outcome = if std::env::var_os(CHILD).is_some() {
        SigSet::empty()
            .thread_set_mask()
            .map_err(Into::into)
            .and_then(|()| work())
            .map(|()| ExitCode::SUCCESS)
    } else {
        watch(limit)
    };
    outcome.unwrap_or_else(|e| {
        eprintln!("failed: {e:#}");
        ExitCode::FAILURE
    })
}

fn watch(limit: Duration) -> Result<ExitCode> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    // Before the first thread, so that all have it.
    signals.thread_block()?;
    let child = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(CHILD, "1")
        // A terminal's ^C goes to the parent only.
        .process_group(0)
        .spawn()
        .context("cannot start the program again")?;
    let id = child.id();
    let child = Arc::new(Mutex::new(child));
    let killer = Arc::clone(&child);
    std::thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            eprintln!("{signal}: cleaning up");
            kill(&killer);
        }
    });
    let code = wait(&child, limit)?;
    let mut left = false;
    for prefix in clean::abandoned() {
        if clean::owner(&prefix) == Some(id as i32) {
            left = true;
            clean::sweep(&prefix)?;
        }
    }
    if left && code == 0 {
        eprintln!("failed: hosts were left behind (they are removed now)");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn wait(child: &Mutex<Child>, limit: Duration) -> Result<i32> {
    let ended = crate::wait_until("the program ends", limit, || {
        let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
        let status = command::wait(&mut child, Duration::from_millis(50))?;
        status.context("it still runs")
    });
    if ended.is_err() {
        eprintln!("failed: it took longer than {limit:?}");
        kill(child);
        let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
        child.wait()?;
    }
    Ok(ended.ok().and_then(|status| status.code()).unwrap_or(130))
}

fn kill(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    child.kill().ok();
}
