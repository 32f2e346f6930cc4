//! Measured values and what is said of them.

use std::time::Duration;

/// Values of one figure.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Adds a value.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds a duration, as milliseconds.
    pub(crate) fn push_time(&mut self, value: Duration) {
        self.push(value.as_secs_f64() * 1000.0);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value that this share of all values (0 to 1) does not exceed; `None` without values.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        sorted.get((share * last as f64).round() as usize).copied()
    }

    /// The middle value.
    pub(crate) fn median(&self) -> Option<f64> {
        self.quantile(0.5)
    }

    /// The highest value.
    pub(crate) fn max(&self) -> Option<f64> {
        self.quantile(1.0)
    }
}
