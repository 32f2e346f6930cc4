//! Between the model and its messages, both ways. What comes off the wire is checked: an unknown enumerator, a
//! missing part or a malformed address is [`Error::Invalid`]. Must not know of transports.

mod answers;
mod images;
mod nodes;
mod services;
mod streams;
mod tasks;
#[cfg(test)]
mod tests;

use crate::model::{NodeId, Timestamp};
use crate::{Error, Result};
use std::net::IpAddr;

/// Converts each of `items`; the first that cannot be converted is the error.
pub(crate) fn each<A, B: TryFrom<A, Error = Error>>(items: Vec<A>) -> Result<Vec<B>> {
    items.into_iter().map(B::try_from).collect()
}

/// Converts each of `items`.
pub(crate) fn into_each<A, B: From<A>>(items: Vec<A>) -> Vec<B> {
    items.into_iter().map(B::from).collect()
}

/// Converts the part `field`, which must be there.
pub(crate) fn need<A, B: TryFrom<A, Error = Error>>(field: &str, part: Option<A>) -> Result<B> {
    B::try_from(present(field, part)?)
}

/// The part `field`, which must be there.
pub(crate) fn present<A>(field: &str, part: Option<A>) -> Result<A> {
    part.ok_or_else(|| Error::Invalid(format!("the message lacks `{field}`")))
}

/// Reads a value that is text on the wire.
pub(crate) fn parse<T: std::str::FromStr>(field: &str, text: &str) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|why| Error::Invalid(format!("`{field}` is malformed: {text:?}: {why}")))
}

/// Narrows a number.
pub(crate) fn narrow<T: TryFrom<u32>>(field: &str, number: u32) -> Result<T> {
    T::try_from(number).map_err(|_| Error::Invalid(format!("`{field}` is out of range: {number}")))
}

pub(crate) fn node_id(field: &str, text: Option<String>) -> Result<Option<NodeId>> {
    text.map(|t| parse(field, &t)).transpose()
}

pub(crate) fn addresses(texts: &[String]) -> Result<Vec<IpAddr>> {
    texts.iter().map(|t| parse("addresses", t)).collect()
}

pub(crate) fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

pub(crate) fn time(milliseconds: Option<u64>) -> Option<Timestamp> {
    milliseconds.map(Timestamp)
}

/// Enumerations: `unspecified` is what the enumerator 0 stands for; where it stands for nothing it is refused.
macro_rules! enumeration {
    ($name:ident: $model:ty = $wire:ty, $unspecified:expr, { $($variant:ident),+ $(,)? }) => {
        impl From<$model> for $wire {
            fn from(value: $model) -> Self {
                match value {
                    $(<$model>::$variant => Self::$variant,)+
                }
            }
        }

        /// Reads the enumerator off the wire.
        pub(crate) fn $name(number: i32) -> $crate::Result<$model> {
            match <$wire>::try_from(number) {
                $(Ok(<$wire>::$variant) => Ok(<$model>::$variant),)+
                Ok(<$wire>::Unspecified) => {
                    let unspecified: Option<$model> = $unspecified;
                    unspecified.ok_or_else(|| {
                        $crate::Error::Invalid(concat!("the message does not say its `", stringify!($name), "`").into())
                    })
                }
                Err(_) => Err($crate::Error::Invalid(format!(
                    concat!("the enumerator {} of `", stringify!($name), "` is unknown here; the other side may be newer"),
                    number
                ))),
            }
        }
    };
}
use enumeration;

pub(crate) use answers::{kind, read};
pub(crate) use images::commit_request;
pub(crate) use nodes::role;
pub(crate) use services::pull_policy;
pub(crate) use streams::{attach_start, exec_spec, exec_start, logs_request};
pub(crate) use tasks::address;
