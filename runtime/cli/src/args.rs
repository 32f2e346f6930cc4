//! Command lines in runc's style, without a library: this program starts once for each step of each container. Pure.

use std::{collections::VecDeque, ffi::OsString, path::PathBuf};
use swarm_runtime::{Error, Result};

/// What is left of a command line.
#[derive(Debug)]
pub(crate) struct Args {
    rest: VecDeque<OsString>,
    /// The value of `--name=value`, not asked for yet.
    value: Option<(String, OsString)>,
}

/// One piece of a command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arg {
    /// An option's name, without dashes.
    Option(String),
    /// Anything else.
    Word(OsString),
}

impl Args {
    pub(crate) fn new(words: impl IntoIterator<Item = OsString>) -> Self {
        Self {
            rest: words.into_iter().collect(),
            value: None,
        }
    }

    /// The next piece.
    pub(crate) fn next(&mut self) -> Result<Option<Arg>> {
        if let Some((name, _)) = self.value.take() {
            return Err(Error::Invalid(format!("the option {name} takes no value")));
        }
        let Some(word) = self.rest.pop_front() else {
            return Ok(None);
        };
        let text = word.to_str().unwrap_or_default();
        let Some(name) = text
            .strip_prefix("--")
            .or_else(|| text.strip_prefix('-'))
            .filter(|name| !name.is_empty())
        else {
            return Ok(Some(Arg::Word(word)));
        };
        Ok(Some(Arg::Option(match name.split_once('=') {
            Some((name, value)) => {
                self.value = Some((name.to_owned(), value.into()));
                name.to_owned()
            }
            None => name.to_owned(),
        })))
    }

    /// The value of the option that `next` has just given.
    pub(crate) fn value(&mut self, name: &str) -> Result<OsString> {
        match self.value.take() {
            Some((_, value)) => Ok(value),
            None => self
                .rest
                .pop_front()
                .ok_or_else(|| Error::Invalid(format!("the option --{name} needs a value"))),
        }
    }

    /// The same, as text.
    pub(crate) fn text(&mut self, name: &str) -> Result<String> {
        self.value(name)?
            .into_string()
            .map_err(|_| Error::Invalid(format!("the value of --{name} is no valid text")))
    }

    /// The same, as a path.
    pub(crate) fn path(&mut self, name: &str) -> Result<PathBuf> {
        self.value(name).map(PathBuf::from)
    }

    /// The same, as a number.
    pub(crate) fn number<N: std::str::FromStr>(&mut self, name: &str) -> Result<N> {
        let text = self.text(name)?;
        text.parse()
            .map_err(|_| Error::Invalid(format!("`{text}` is no number that --{name} can be")))
    }

    /// Whether a switch is set: it may stand alone, or as `--name=false`.
    pub(crate) fn switch(&mut self, name: &str) -> Result<bool> {
        match self.value.take() {
            None => Ok(true),
            Some((_, value)) => match value.to_str() {
                Some("true" | "1") => Ok(true),
                Some("false" | "0") => Ok(false),
                _ => Err(Error::Invalid(format!("--{name} is either true or false"))),
            },
        }
    }

    /// All that is left, as it is.
    pub(crate) fn rest(&mut self) -> Vec<String> {
        self.rest
            .drain(..)
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }
}

/// What is said of an option that a command does not have.
pub(crate) fn unknown<T>(command: &str, name: &str) -> Result<T> {
    Err(Error::Invalid(format!(
        "`{command}` has no option --{name}"
    )))
}

/// The one container that a command is about, from its words.
#[derive(Debug, Default)]
pub(crate) struct Id(Option<String>);

impl Id {
    /// Takes the next word for it.
    pub(crate) fn take(&mut self, word: &OsString) -> Result<()> {
        if self.0.is_some() {
            return Err(Error::Invalid(format!(
                "there is a word too much: `{}`",
                word.to_string_lossy()
            )));
        }
        self.0 = Some(word.to_string_lossy().into_owned());
        Ok(())
    }

    pub(crate) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// The container's id.
    pub(crate) fn get(self, command: &str) -> Result<String> {
        self.0
            .ok_or_else(|| Error::Invalid(format!("`{command}` needs a container's id")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Args {
        Args::new(words.iter().map(OsString::from))
    }

    #[test]
    fn a_value_stands_after_the_option_or_after_an_equals_sign() {
        let mut args = args(&["--root=/a", "-b", "/c", "word"]);
        assert_eq!(args.next().unwrap(), Some(Arg::Option("root".to_owned())));
        assert_eq!(args.text("root").unwrap(), "/a");
        assert_eq!(args.next().unwrap(), Some(Arg::Option("b".to_owned())));
        assert_eq!(args.text("b").unwrap(), "/c");
        assert_eq!(args.next().unwrap(), Some(Arg::Word("word".into())));
        assert_eq!(args.next().unwrap(), None);
    }

    #[test]
    fn a_switch_may_be_set_to_false_and_has_no_other_value() {
        let mut words = args(&["--force=false", "--detach", "--all=maybe"]);
        words.next().unwrap();
        assert!(!words.switch("force").unwrap());
        words.next().unwrap();
        assert!(words.switch("detach").unwrap());
        words.next().unwrap();
        assert!(words.switch("all").is_err());
        let mut unasked = args(&["--thing=1", "word"]);
        unasked.next().unwrap();
        assert!(unasked.next().is_err());
    }

    #[test]
    fn a_lone_dash_is_a_word_and_the_rest_is_untouched() {
        let mut args = args(&["-", "id", "sh", "--", "-c"]);
        assert_eq!(args.next().unwrap(), Some(Arg::Word("-".into())));
        args.next().unwrap();
        assert_eq!(args.rest(), ["sh", "--", "-c"]);
    }
}
