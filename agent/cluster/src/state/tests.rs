mod random;
mod refusals;
