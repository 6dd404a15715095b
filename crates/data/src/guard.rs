//! Code that works on what others wrote, kept from ending the program by a panic.

use std::cell::Cell;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a decoder, which checks most of what a damaged file may say, and panics at some of the
/// rest. After an error, what it worked on must not be used again.
///
/// # Errors
/// What the decoder says, in one line.
pub(crate) fn guarded<T, E: Display>(decode: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match caught(decode) {
        Some(decoded) => decoded.map_err(|why| why.to_string().replace('\n', " ")),
        None => Err("its numbers do not fit together".into()),
    }
}

/// Runs `work`; nothing if it panics. What it worked on must not be used again then.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    skip_hook();
    let before = IS_GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    IS_GUARDED.set(before);
    done.ok()
}

/// Keeps the hook of the program from hearing of these panics: that of a rank ends the whole job
/// before anybody can catch them.
fn skip_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                hook(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error() {
        assert_eq!(guarded(|| Ok::<_, String>(3)), Ok(3));
        assert_eq!(guarded(|| Err::<(), _>("a\nb")), Err("a b".into()));
        let empty: [u8; 0] = [];
        let panics = || Ok::<_, String>(empty[std::hint::black_box(1)]);
        assert!(guarded(panics).is_err() && !IS_GUARDED.get());
        assert!(guarded(|| guarded(panics)).is_err() && !IS_GUARDED.get());
    }
}
