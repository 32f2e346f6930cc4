//! What the caller is told: errors on standard error and in the log file that an engine reads, and results on standard output.

use std::{fs::OpenOptions, io::Write, path::PathBuf};
use swarm_runtime::{Error, Result};

/// Where errors go beside standard error.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) file: Option<PathBuf>,
    json: bool,
}

impl Log {
    pub(crate) fn set_format(&mut self, format: &str) -> Result<()> {
        self.json = match format {
            "json" => true,
            "text" | "" => false,
            other => {
                return Err(Error::Invalid(format!(
                    "the log format is either text or json, not `{other}`"
                )));
            }
        };
        Ok(())
    }

    /// Tells an error.
    #[allow(clippy::print_stderr)]
    pub(crate) fn error(&self, error: &Error) {
        eprintln!("swarm-oci: {error}");
        let Some(path) = &self.file else { return };
        let time = jiff::Timestamp::now();
        let line = if self.json {
            serde_json::json!({"level": "error", "msg": error.to_string(), "time": time.to_string()})
                .to_string()
        } else {
            format!("time=\"{time}\" level=error msg={:?}", error.to_string())
        };
        let written = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        if let Err(e) = written {
            eprintln!("swarm-oci: cannot write the log {}: {e}", path.display());
        }
    }
}

/// Prints a result.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever asked has heard enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| Error::io("write to standard output", e)),
    }
}
