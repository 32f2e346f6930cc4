//! Lines of a Dockerfile that change how an image is run. Pure.

use crate::{Error, Result};
use swarm_api::model::{HealthCheck, ImageConfig, parse_duration};

const KNOWN: &str =
    "CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR";

/// Does what `line` says.
///
/// # Errors
/// [`Error::Invalid`] where it says nothing that is known; the message says what would be right.
pub(crate) fn apply(config: &mut ImageConfig, line: &str) -> Result<()> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let bad = |why: &str| {
        Err(Error::Invalid(format!(
            "the change \"{line}\" cannot be made: {why}"
        )))
    };
    if rest.is_empty() {
        return bad(&format!(
            "write an instruction and its value; the instruction is one of {KNOWN}"
        ));
    }
    let wrong = |e: Error| Error::Invalid(format!("the change \"{line}\" cannot be made: {e}"));
    match word.to_ascii_uppercase().as_str() {
        "CMD" => config.command = command(rest).map_err(wrong)?,
        "ENTRYPOINT" => {
            config.entrypoint = command(rest).map_err(wrong)?;
            config.command.clear();
        }
        "ENV" => {
            for (name, value) in pairs(rest).map_err(wrong)? {
                let start = format!("{name}=");
                let one = format!("{start}{value}");
                match config.env.iter_mut().find(|e| e.starts_with(&start)) {
                    Some(there) => *there = one,
                    None => config.env.push(one),
                }
            }
        }
        "LABEL" => config.labels.extend(pairs(rest).map_err(wrong)?),
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                let port = if port.contains('/') {
                    port.to_owned()
                } else {
                    format!("{port}/tcp")
                };
                let number = port.split('/').next().unwrap_or_default();
                if number.parse::<u16>().is_err() {
                    return bad(&format!("\"{number}\" is not a port"));
                }
                if !config.exposed_ports.contains(&port) {
                    config.exposed_ports.push(port);
                }
            }
        }
        "VOLUME" => {
            let paths = match list(rest) {
                Some(paths) => paths,
                None => rest.split_whitespace().map(str::to_owned).collect(),
            };
            for path in paths {
                if !path.starts_with('/') {
                    return bad("a volume's path is absolute: start it with /");
                }
                if !config.volumes.contains(&path) {
                    config.volumes.push(path);
                }
            }
            // As the file of the configuration has them.
            config.volumes.sort();
        }
        "USER" => config.user = rest.to_owned(),
        "WORKDIR" if rest.starts_with('/') => config.working_dir = rest.to_owned(),
        "WORKDIR" => {
            let above = config.working_dir.trim_end_matches('/');
            config.working_dir = format!("{above}/{rest}");
        }
        "STOPSIGNAL" => {
            crate::oci::parse_signal(rest).map_err(wrong)?;
            config.stop_signal = Some(rest.to_owned());
        }
        "HEALTHCHECK" => config.health = Some(health(rest).map_err(wrong)?),
        other => return bad(&format!("{other} is none of {KNOWN}")),
    }
    config.exposed_ports.sort();
    Ok(())
}

/// A JSON array of words; or else a line for the shell.
fn command(text: &str) -> Result<Vec<String>> {
    match list(text) {
        Some(words) => Ok(words),
        None if text.starts_with('[') => Err(Error::Invalid(
            "it begins like a JSON array and is none; write [\"PROGRAM\", \"ARGUMENT\"]".into(),
        )),
        None => Ok(vec!["/bin/sh".into(), "-c".into(), text.to_owned()]),
    }
}

fn list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// `NAME=VALUE NAME="A VALUE"`, or `NAME VALUE` as of old.
fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let bad = || Error::Invalid("write NAME=VALUE".into());
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    if !first.contains('=') {
        let value = rest.trim();
        return if value.is_empty() {
            Err(bad())
        } else {
            Ok(vec![(first.to_owned(), value.to_owned())])
        };
    }
    words(text)?
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(bad()),
        })
        .collect()
}

/// Words as a shell parts them.
fn words(text: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some('"') | None, '\\') => {
                let next = chars.next().unwrap_or('\\');
                word.get_or_insert_default().push(next);
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(Error::Invalid("a quote has no end".into()));
    }
    words.extend(word);
    Ok(words)
}

/// `[--interval=D] [--timeout=D] [--start-period=D] [--start-interval=D] [--retries=N] CMD …`, or `NONE`.
fn health(text: &str) -> Result<HealthCheck> {
    let mut health = HealthCheck::default();
    let mut rest = text;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        rest = after.trim_start();
        let (name, value) = flag.split_once('=').ok_or_else(|| {
            Error::Invalid(format!("--{flag} has no value; write --{flag}=VALUE"))
        })?;
        let time = || {
            let time = parse_duration(value).map_err(|e| Error::Invalid(e.to_string()))?;
            Ok::<_, Error>(u64::try_from(time.as_millis()).ok())
        };
        match name {
            "interval" => health.interval_ms = time()?,
            "timeout" => health.timeout_ms = time()?,
            "start-period" => health.start_period_ms = time()?,
            "start-interval" => health.start_interval_ms = time()?,
            "retries" => {
                let retries = value.parse().ok().filter(|r| *r > 0);
                let bad =
                    || Error::Invalid(format!("--retries is \"{value}\", not a number from 1"));
                health.retries = Some(retries.ok_or_else(bad)?);
            }
            other => return Err(Error::Invalid(format!("--{other} is not known"))),
        }
    }
    let (word, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let rest = rest.trim();
    health.test = match (word.to_ascii_uppercase().as_str(), rest) {
        ("NONE", "") => vec!["NONE".into()],
        ("CMD", rest) if !rest.is_empty() => match list(rest) {
            Some(words) => std::iter::once("CMD".into()).chain(words).collect(),
            None => vec!["CMD-SHELL".into(), rest.to_owned()],
        },
        _ => return Err(Error::Invalid("write CMD and a command, or NONE".into())),
    };
    Ok(health)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_instruction_changes_what_it_names() {
        let mut config = ImageConfig {
            env: vec!["A=old".into()],
            command: vec!["old".into()],
            ..ImageConfig::default()
        };
        for line in [
            "entrypoint [\"/bin/a\", \"-b\"]",
            "CMD c d",
            "ENV A=new B=\"x y\" C='z'",
            "ENV D one two",
            "EXPOSE 80 53/udp",
            "LABEL org.x=\"a b\"",
            "USER 10:20",
            "VOLUME [\"/v\"]",
            "VOLUME /a /v",
            "WORKDIR /w",
            "WORKDIR sub",
            "STOPSIGNAL SIGQUIT",
            "HEALTHCHECK --interval=5s --timeout=500ms --retries=2 CMD curl -f localhost || exit 1",
        ] {
            apply(&mut config, line).unwrap();
        }
        assert_eq!(config.entrypoint, ["/bin/a", "-b"]);
        assert_eq!(config.command, ["/bin/sh", "-c", "c d"]);
        assert_eq!(config.env, ["A=new", "B=x y", "C=z", "D=one two"]);
        assert_eq!(config.exposed_ports, ["53/udp", "80/tcp"]);
        assert_eq!(config.labels["org.x"], "a b");
        assert_eq!(
            (config.user.as_str(), config.working_dir.as_str()),
            ("10:20", "/w/sub")
        );
        assert_eq!(config.volumes, ["/a", "/v"]);
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        let health = config.health.clone().unwrap();
        assert_eq!(health.test, ["CMD-SHELL", "curl -f localhost || exit 1"]);
        assert_eq!(
            (health.interval_ms, health.timeout_ms, health.retries),
            (Some(5000), Some(500), Some(2))
        );
        apply(&mut config, "HEALTHCHECK CMD [\"a\"]").unwrap();
        assert_eq!(config.health.unwrap().test, ["CMD", "a"]);
    }

    #[test]
    fn what_is_not_understood_is_refused_with_what_would_be_right() {
        for (line, why) in [
            ("RUN x", "RUN is none of CMD"),
            ("CMD", "write an instruction"),
            ("CMD [\"a\"", "JSON array"),
            ("ENV =x", "NAME=VALUE"),
            ("ENV A=\"x", "no end"),
            ("EXPOSE http", "not a port"),
            ("VOLUME data", "absolute"),
            ("STOPSIGNAL SIGNO", "SIGNO"),
            ("HEALTHCHECK --retries=0 CMD x", "from 1"),
            ("HEALTHCHECK x", "CMD and a command"),
        ] {
            let refused = apply(&mut ImageConfig::default(), line)
                .unwrap_err()
                .to_string();
            assert!(refused.contains(why) && refused.contains(line), "{refused}");
        }
    }
}
