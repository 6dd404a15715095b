//! The run's configuration, as TOML.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = loract_fuzz::file("run.toml", bytes);
    if let Ok(run) = config::Run::load(&path, &[]) {
        // What was understood is written in full, and read again as the same.
        let again = loract_fuzz::file("again.toml", run.to_toml().as_bytes());
        let again = config::Run::load(&again, &[]).expect("a resolved configuration is one");
        assert_eq!(run.to_toml(), again.to_toml());
    }
});
