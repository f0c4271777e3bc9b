//! The decoder that `ANABRANCH_FUZZ_DECODER` names, as `anabranch_tests::fuzz` has it. One program for
//! all of them, because each is as large as the whole engine.
#![no_main]

use std::sync::OnceLock;

use anabranch_tests::fuzz::{Bench, Decoder, named};
use libfuzzer_sys::fuzz_target;

static CHOSEN: OnceLock<(Bench, Decoder)> = OnceLock::new();

fn chosen() -> (Bench, Decoder) {
    let name = std::env::var("ANABRANCH_FUZZ_DECODER").expect("`ANABRANCH_FUZZ_DECODER`");
    let decoder = named(&name).expect("the name of a decoder");
    // A panic of the engine's over such bytes is caught and becomes an error. One that nobody
    // catches ends the process all the same.
    std::panic::set_hook(Box::new(|_| {}));
    (Bench::new().expect("a folder and what is in it"), decoder)
}

fuzz_target!(|bytes: &[u8]| {
    let (bench, decoder) = CHOSEN.get_or_init(chosen);
    bench.decode(*decoder, bytes);
});
