//! What the fuzzers of `runtime/fuzz` call: one function for each kind of input that strangers write. Each panics where a promise is
//! broken; an error of ours about bad input is no failure. `cargo test` runs the kept corpora through the same functions.

mod frames;
mod registry;
mod sandbox;

pub use crate::container::fuzz::{exec, paths, seccomp, spec};
pub use crate::image::fuzz::layer;
pub use frames::frames;
pub use registry::registry;
pub(crate) use sandbox::Sandbox;

#[cfg(test)]
mod tests;

/// Decisions drawn from the input's bytes, in order; zeros after its end.
#[derive(Debug)]
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// One of a list.
    pub(crate) fn one<'b, T>(&mut self, of: &'b [T]) -> &'b T {
        &of[usize::from(self.byte()) % of.len()]
    }

    pub(crate) fn number(&mut self) -> u64 {
        // Small ones and those around the halves are where comparisons go wrong.
        let (shift, value) = (self.byte(), self.byte());
        let high = u64::from(self.byte()) << (u32::from(shift) % 64);
        match shift >> 6 {
            0 => u64::from(value),
            1 => high,
            2 => high | u64::from(value),
            _ => high.wrapping_sub(u64::from(value)),
        }
    }

    /// Up to the next zero byte.
    pub(crate) fn field(&mut self) -> &'a [u8] {
        let at = self.0.iter().position(|b| *b == 0);
        let (field, rest) = match at {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (self.0, &[][..]),
        };
        self.0 = rest;
        field
    }
}
