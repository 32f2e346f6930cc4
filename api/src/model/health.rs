//! Health: how a container is asked whether it does its work, and what it came to.
//!
//! The test is Docker's list of words, with two more kinds that need no program in the image:
//! `HTTP PORT [PATH]` and `TCP PORT`.

use super::{HealthCheck, Timestamp};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is asked of a container, and when it has passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthTest {
    /// A program run in it ends with exit code 0.
    Command(Vec<String>),
    /// A GET is answered with a status of 200 to 399.
    Http {
        /// A port of the container.
        port: u16,
        /// The path with its query; starts with `/`.
        path: String,
    },
    /// A connection is accepted.
    Tcp {
        /// A port of the container.
        port: u16,
    },
}

/// A health check of which everything is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthPlan {
    /// What is asked.
    pub test: HealthTest,
    /// From the end of one check to the start of the next.
    pub interval: Duration,
    /// What one check may take.
    pub timeout: Duration,
    /// How long after the start failures do not count.
    pub start_period: Duration,
    /// As `interval`, in that time; chosen by whoever checks if none.
    pub start_interval: Option<Duration>,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

/// Docker's defaults.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const RETRIES: u32 = 3;
/// What is checked more often is kept busy by being checked.
const SHORTEST: Duration = Duration::from_millis(100);

impl HealthCheck {
    /// The check of a container: each value as `own` has it, else as its image has it, else the default. None where
    /// neither has a test, or the test is `NONE`.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the test is none that is known.
    pub fn resolve(own: Option<&Self>, image: Option<&Self>) -> Result<Option<HealthPlan>> {
        let of = |value: fn(&Self) -> Option<u64>| {
            let given = own.and_then(value).or_else(|| image.and_then(value));
            // As Docker has it, 0 is the default.
            given.filter(|ms| *ms > 0).map(Duration::from_millis)
        };
        let words = own.map(|c| &c.test[..]).filter(|t| !t.is_empty());
        let words = words.or_else(|| image.map(|c| &c.test[..]));
        let Some(test) = read_test(words.unwrap_or_default())? else {
            return Ok(None);
        };
        let retries = own
            .and_then(|c| c.retries)
            .or(image.and_then(|c| c.retries));
        Ok(Some(HealthPlan {
            test,
            interval: of(|c| c.interval_ms).unwrap_or(INTERVAL).max(SHORTEST),
            timeout: of(|c| c.timeout_ms).unwrap_or(TIMEOUT).max(SHORTEST),
            start_period: of(|c| c.start_period_ms).unwrap_or_default(),
            start_interval: of(|c| c.start_interval_ms).map(|d| d.max(SHORTEST)),
            retries: retries.filter(|n| *n > 0).unwrap_or(RETRIES),
        }))
    }

    /// Checks everything that can be checked without an image.
    ///
    /// # Errors
    /// [`Error::Invalid`], which says what is wrong and what would be right.
    pub fn validate(&self) -> Result<()> {
        read_test(&self.test)?;
        let times = [
            ("interval", self.interval_ms),
            ("timeout", self.timeout_ms),
            ("start interval", self.start_interval_ms),
        ];
        for (name, time) in times {
            if let Some(ms) = time
                && Duration::from_millis(ms) < SHORTEST
            {
                return Err(Error::Invalid(format!(
                    "a health check's {name} of {ms} ms is too short; give at least {} ms",
                    SHORTEST.as_millis()
                )));
            }
        }
        if self.retries == Some(0) {
            return Err(Error::Invalid(
                "0 retries of a health check would make a task unhealthy before it is checked; give at least 1".into(),
            ));
        }
        Ok(())
    }
}

fn read_test(words: &[String]) -> Result<Option<HealthTest>> {
    let bad = |why: &str| {
        Error::Invalid(format!(
            "the health check {words:?} cannot be carried out: {why}; its test is one of NONE, CMD PROGRAM ARGUMENT…, CMD-SHELL LINE, HTTP PORT /PATH, TCP PORT"
        ))
    };
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(bad(&format!("{text:?} is not a port from 1 to 65535"))),
    };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if words.iter().any(|w| w.contains('\0')) {
        return Err(bad("a word of it has a zero byte"));
    }
    let owned = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
    Ok(Some(match words[..] {
        [] | ["NONE"] => return Ok(None),
        ["CMD", program, ..] if !program.is_empty() => HealthTest::Command(owned(&words[1..])),
        ["CMD-SHELL", line] => HealthTest::Command(owned(&["/bin/sh", "-c", line])),
        ["HTTP", at] => HealthTest::Http {
            port: port(at)?,
            path: "/".into(),
        },
        ["HTTP", at, path] => {
            let plain = |b: u8| b.is_ascii_graphic();
            if !path.starts_with('/') || !path.bytes().all(plain) {
                return Err(bad(&format!(
                    "{path:?} is not a path of an HTTP request: it starts with / and has neither spaces nor control characters"
                )));
            }
            HealthTest::Http {
                port: port(at)?,
                path: path.into(),
            }
        }
        ["TCP", at] => HealthTest::Tcp { port: port(at)? },
        _ => return Err(bad("it is none that is known here")),
    }))
}

/// Whether a task does its work, as far as its checks tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// It has not passed a check yet.
    #[default]
    Starting,
    /// It passed one, and has not failed too many in a row since.
    Healthy,
    /// It failed too many in a row. It is being ended.
    Unhealthy,
}

impl std::fmt::Display for HealthState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// A task's health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Health {
    /// It.
    pub state: HealthState,
    /// Since when.
    pub since: Timestamp,
    /// What the check that made it so put out, or why that could not be made; cut short. While it starts, of the first
    /// check that failed.
    pub output: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &[&str]) -> HealthCheck {
        HealthCheck {
            test: words.iter().map(|w| (*w).to_owned()).collect(),
            ..HealthCheck::default()
        }
    }

    fn test(words: &[&str]) -> Option<HealthTest> {
        let plan = HealthCheck::resolve(Some(&check(words)), None).unwrap();
        plan.map(|p| p.test)
    }

    #[test]
    fn tests_are_read_as_docker_writes_them_and_two_kinds_more() {
        let command = |words: &[&str]| {
            let words = words.iter().map(|w| (*w).to_owned());
            Some(HealthTest::Command(words.collect()))
        };
        assert_eq!(test(&["CMD", "a", "b c"]), command(&["a", "b c"]));
        assert_eq!(
            test(&["CMD-SHELL", "a || b"]),
            command(&["/bin/sh", "-c", "a || b"])
        );
        assert_eq!(test(&["TCP", "5432"]), Some(HealthTest::Tcp { port: 5432 }));
        let http = |path: &str| {
            Some(HealthTest::Http {
                port: 80,
                path: path.into(),
            })
        };
        assert_eq!(test(&["HTTP", "80"]), http("/"));
        assert_eq!(test(&["HTTP", "80", "/a?b=c"]), http("/a?b=c"));
        assert_eq!(test(&["NONE"]), None);
        assert_eq!(test(&[]), None);
        for bad in [
            &["CMD"][..],
            &["CMD-SHELL"],
            &["CMD-SHELL", "a", "b"],
            &["HTTP", "0"],
            &["HTTP", "80", "a"],
            &["HTTP", "80", "/a b"],
            &["HTTP", "80", "/a\r\nX: y"],
            &["TCP", "65536"],
            &["PING"],
        ] {
            assert!(check(bad).validate().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn each_value_is_the_task_s_own_then_the_image_s_then_docker_s() {
        let image = HealthCheck {
            interval_ms: Some(5_000),
            retries: Some(7),
            start_period_ms: Some(0),
            ..check(&["TCP", "1"])
        };
        let own = HealthCheck {
            interval_ms: Some(1_000),
            ..HealthCheck::default()
        };
        let plan = HealthCheck::resolve(Some(&own), Some(&image)).unwrap();
        let plan = plan.unwrap();
        assert_eq!(plan.test, HealthTest::Tcp { port: 1 });
        assert_eq!(plan.interval, Duration::from_secs(1));
        assert_eq!((plan.retries, plan.timeout), (7, TIMEOUT));
        assert_eq!(plan.start_period, Duration::ZERO);
        let none = check(&["NONE"]);
        assert_eq!(HealthCheck::resolve(Some(&none), Some(&image)), Ok(None));
        assert_eq!(HealthCheck::resolve(Some(&own), None), Ok(None));
    }

    #[test]
    fn a_check_that_would_never_rest_is_refused() {
        let busy = HealthCheck {
            interval_ms: Some(1),
            ..HealthCheck::default()
        };
        assert!(busy.validate().unwrap_err().to_string().contains("100 ms"));
    }
}
