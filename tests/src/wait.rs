//! Waiting for something to become true, with an answer to "what was it instead?" when it does not.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(25);

/// Calls `look` until it returns `Ok`, which is passed on; its `Err` says how things are instead.
///
/// # Errors
/// When `deadline` has passed: what was waited for, how long, and the last `Err`.
pub fn wait_until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(instead) if start.elapsed() >= deadline => {
                bail!("waited {deadline:?} until {what}; at last: {instead:#}")
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_in_vain_says_what_was_there_instead() {
        let error =
            wait_until::<()>("it rains", Duration::ZERO, || bail!("the sun shines")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "waited 0ns until it rains; at last: the sun shines"
        );
    }

    #[test]
    fn a_wait_ends_as_soon_as_it_is_so() {
        let mut looks = 0;
        let found = wait_until("the third look", Duration::from_secs(60), || {
            looks += 1;
            if looks == 3 {
                Ok(looks)
            } else {
                bail!("look {looks}")
            }
        });
        assert_eq!(found.unwrap(), 3);
    }
}
