//! `swarmd`.

fn main() {}
