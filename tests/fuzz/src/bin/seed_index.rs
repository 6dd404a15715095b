//! Writes small prepared data sets into a folder, for the target `index` to begin with. A target in
//! form, as code that is counted links with libFuzzer only.
#![no_main]

use data::{Dataset, Options, Sources};
use std::path::Path;

libfuzzer_sys::fuzz_target!(
    init: {
        write(&std::env::args().nth(1).expect("a folder"));
        std::process::exit(0)
    },
    |_unused| {}
);

fn write(folder: &str) {
    let text = loract_fuzz::file("seed.txt", b"One.\n\nTwo lines\nof text.\n\nThree, a little longer than the others are.\n");
    for packing in [false, true] {
        let options = Options { sequence_length: 24, packing, eval_samples: 1, ..Options::default() };
        let prepared = Dataset::prepare(&Sources::train([&text]), &*loract_fuzz::TOKENIZER, None, &options, &|_, _| ()).expect("data");
        prepared.write(&Path::new(folder).join(format!("packing-{packing}.safetensors"))).expect("files");
    }
}
