//! Writes small prepared data sets into a folder, for the target `index` to begin with.

use data::{Dataset, Options, Sources};
use std::path::Path;

fn main() {
    let folder = std::env::args().nth(1).expect("a folder");
    let text = loract_fuzz::file("seed.txt", b"One.\n\nTwo lines\nof text.\n\nThree, a little longer than the others are.\n");
    for packing in [false, true] {
        let options = Options { sequence_length: 24, packing, eval_samples: 1, ..Options::default() };
        let prepared = Dataset::prepare(&Sources::train([&text]), &*loract_fuzz::TOKENIZER, None, &options, &|_, _| ()).expect("data");
        prepared.write(&Path::new(&folder).join(format!("packing-{packing}.safetensors"))).expect("files");
    }
}
