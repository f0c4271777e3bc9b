//! `postgres`, as `anabranch_tests::fuzz` has it.
#![no_main]

use std::sync::OnceLock;

use anabranch_tests::fuzz::{Bench, named};
use libfuzzer_sys::fuzz_target;

static BENCH: OnceLock<Bench> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    let bench = BENCH.get_or_init(|| Bench::new().expect("a folder and what is in it"));
    bench.decode(named("postgres").expect("a decoder"), bytes);
});
