//! How single values are read.

use std::time::Duration;
use swarm_api::model::{Availability, NodeRole, Timestamp, parse_duration};

/// A list that is one value for clap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Words(pub(crate) Vec<String>);

/// Words between spaces, or a JSON array of strings.
pub(crate) fn words(text: &str) -> Result<Words, String> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text)
            .map(Words)
            .map_err(|e| format!("\"{text}\" is not a JSON array of strings: {e}"));
    }
    Ok(Words(text.split_whitespace().map(Into::into).collect()))
}

/// `PORT` or `PORT/PATH`, as the words of a health check.
pub(crate) fn health_http(text: &str) -> Result<Words, String> {
    let (port, path) = match text.find('/') {
        Some(at) => text.split_at(at),
        None => (text, "/"),
    };
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(format!(
            "\"{text}\" is not of the form PORT or PORT/PATH, such as 8080/ready"
        ));
    }
    Ok(Words(vec!["HTTP".into(), port.into(), path.into()]))
}

/// `NAME=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err(format!("\"{text}\" is not of the form NAME=VALUE")),
    }
}

/// `NAME=N`.
pub(crate) fn scale(text: &str) -> Result<(String, u32), String> {
    let bad = || format!("\"{text}\" is not of the form NAME=N, such as web=3");
    let (name, number) = pair(text).map_err(|_| bad())?;
    Ok((name, number.parse().map_err(|_| bad())?))
}

pub(crate) fn role(text: &str) -> Result<NodeRole, String> {
    match text {
        "manager" => Ok(NodeRole::Manager),
        "worker" => Ok(NodeRole::Worker),
        _ => Err(format!("\"{text}\" is not a role: use manager or worker")),
    }
}

pub(crate) fn availability(text: &str) -> Result<Availability, String> {
    match text {
        "active" => Ok(Availability::Active),
        "pause" => Ok(Availability::Pause),
        "drain" => Ok(Availability::Drain),
        _ => Err(format!(
            "\"{text}\" is not an availability: use active, pause or drain"
        )),
    }
}

/// A time, or how long ago it was.
pub(crate) fn since(text: &str) -> Result<Timestamp, String> {
    since_at(text, crate::render::now())
}

fn since_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(ago) = parse_duration(text) {
        let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        return Ok(Timestamp(now.0.saturating_sub(ago)));
    }
    text.parse::<jiff::Timestamp>()
        .ok()
        .and_then(|t| u64::try_from(t.as_millisecond()).ok())
        .map(Timestamp)
        .ok_or_else(|| {
            format!("\"{text}\" is neither a time such as 2026-01-31T12:00:00Z nor a duration such as 10m")
        })
}

/// Milliseconds.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Environment variables as given; a name alone takes its value from swarmctl's own, where it has one.
pub(crate) fn environment(given: Vec<String>) -> Vec<String> {
    let mut all = Vec::with_capacity(given.len());
    for entry in given {
        if entry.contains('=') {
            all.push(entry);
        } else if let Ok(value) = std::env::var(&entry) {
            all.push(format!("{entry}={value}"));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_or_read_as_json() {
        let list = |text| words(text).unwrap().0;
        assert_eq!(list("sh -c"), ["sh", "-c"]);
        assert_eq!(list("[\"sh\", \"a b\"]"), ["sh", "a b"]);
        assert!(words("[1]").is_err());
    }

    #[test]
    fn an_http_check_is_a_port_and_a_path() {
        let words = |text| health_http(text).map(|w| w.0);
        let http = |path: &str| Ok(vec!["HTTP".to_owned(), "80".to_owned(), path.to_owned()]);
        assert_eq!(words("80"), http("/"));
        assert_eq!(words("80/a/b?c"), http("/a/b?c"));
        for bad in ["", "/a", "x/a", "0", "http://a:80/"] {
            assert!(words(bad).unwrap_err().contains(bad), "{bad}");
        }
    }

    #[test]
    fn since_is_a_time_or_an_age() {
        assert_eq!(since_at("10s", Timestamp(60_000)), Ok(Timestamp(50_000)));
        assert_eq!(
            since_at("1970-01-01T00:00:07Z", Timestamp(0)),
            Ok(Timestamp(7000))
        );
        assert!(
            since_at("yesterday", Timestamp(0))
                .unwrap_err()
                .contains("yesterday")
        );
    }

    #[test]
    fn a_scale_is_a_name_and_a_number() {
        assert_eq!(scale("web=3"), Ok(("web".into(), 3)));
        for bad in ["web", "web=", "=3", "web=-1", "web=x"] {
            assert!(scale(bad).unwrap_err().contains(bad), "{bad}");
        }
    }
}
