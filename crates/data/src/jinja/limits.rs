//! Bounds on what a rendering takes, since a template is a program of somebody else.
//!
//! Time is counted in steps, a few instructions each: every iteration of a loop and every call of a
//! macro takes those of its body. (The fuel of minijinja counts each instruction, with an atomic
//! operation; that costs 8 % of the time.) Memory is counted as bytes that values have taken,
//! whether or not they are still alive; each operation counts its result before it makes it. The
//! bounds grow with the variables, whose size is measured only when the fixed part is used up.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::types::fail;

/// Steps: about one second.
const STEPS: u64 = 20_000_000;
const STEPS_PER_BYTE: u64 = 64;
/// Bytes of values.
const MEMORY: u64 = 128 << 20;
const MEMORY_PER_BYTE: u64 = 512;
/// What all bytes of the variables together add at most, unless that is less than the second number
/// for each byte: many short messages may be compared with each other, a long one is only copied.
const MEMORY_OF_VARIABLES: u64 = 1 << 30;
const COPIES: u64 = 32;
/// Bytes of the text.
const OUTPUT: u64 = 64 << 20;
const OUTPUT_PER_BYTE: u64 = 16;
/// Bytes of an object without what it holds, of a value in it, and of what the variables' sizes
/// count for each value.
const OBJECT_BYTES: usize = 64;
const VALUE_BYTES: usize = 24;
const VARIABLE_BYTES: u64 = 64;
/// Levels of lists in lists; deeper ones would need more stack than a thread has.
pub(super) const MAX_DEPTH: usize = 200;

thread_local! {
    static METER: Meter = const { Meter::new() };
}

/// What the rendering that runs in this thread has left.
struct Meter {
    steps: Cell<u64>,
    memory: Cell<u64>,
    output: Cell<u64>,
    written: Cell<usize>,
    extended: Cell<bool>,
    variables: RefCell<Option<Value>>,
    generation: RefCell<Vec<Range<usize>>>,
}

impl Meter {
    const fn new() -> Self {
        Self {
            steps: Cell::new(0),
            memory: Cell::new(0),
            output: Cell::new(0),
            written: Cell::new(0),
            extended: Cell::new(true),
            variables: RefCell::new(None),
            generation: RefCell::new(Vec::new()),
        }
    }

    /// Adds what the variables allow, once; false if that was done before.
    fn extend(&self) -> bool {
        if self.extended.replace(true) {
            return false;
        }
        let bytes = self.variables.borrow().as_ref().map_or(0, |variables| weight(variables, 0));
        let times = |factor: u64| bytes.saturating_mul(factor);
        let add = |left: &Cell<u64>, more: u64| left.set(left.get().saturating_add(more));
        add(&self.steps, times(STEPS_PER_BYTE));
        add(&self.memory, times(MEMORY_PER_BYTE).min(MEMORY_OF_VARIABLES.max(times(COPIES))));
        add(&self.output, times(OUTPUT_PER_BYTE));
        true
    }

    fn take(&self, left: &Cell<u64>, bytes: u64) -> bool {
        while left.get() < bytes {
            if !self.extend() {
                return false;
            }
        }
        left.set(left.get() - bytes);
        true
    }
}

/// How much a rendering may take.
#[derive(Clone, Copy)]
pub(super) enum Bounds {
    /// What a conversation may need.
    Whole,
    /// A part of it, for the short conversations by which a template is examined: a template that
    /// takes all that it can get does so for each of them.
    Probe,
}

const PROBES: u64 = 64;

/// Starts to count for a rendering with these variables.
pub(super) fn start(variables: &Value, bounds: Bounds) {
    let part = match bounds {
        Bounds::Whole => 1,
        Bounds::Probe => PROBES,
    };
    METER.with(|meter| {
        meter.steps.set(STEPS / part);
        meter.memory.set(MEMORY / part);
        meter.output.set(OUTPUT / part);
        meter.written.set(0);
        meter.extended.set(false);
        *meter.variables.borrow_mut() = Some(variables.clone());
        meter.generation.borrow_mut().clear();
    });
}

/// Ends the counting, and returns the ranges of the generation blocks.
pub(super) fn finish() -> Vec<Range<usize>> {
    METER.with(|meter| {
        *meter.variables.borrow_mut() = None;
        std::mem::take(&mut *meter.generation.borrow_mut())
    })
}

/// Counts steps.
pub(super) fn step(steps: u64) -> Result<(), Error> {
    if METER.with(|meter| meter.take(&meter.steps, steps)) {
        return Ok(());
    }
    fail("it runs for longer than is allowed for this conversation")
}

/// Bytes of values, and some for each of them.
fn weight(value: &Value, depth: usize) -> u64 {
    if depth > MAX_DEPTH {
        return 0;
    }
    let inner = match value.kind() {
        ValueKind::String => value.as_str().map_or(0, str::len) as u64,
        ValueKind::Seq => {
            value.try_iter().into_iter().flatten().map(|item| weight(&item, depth + 1)).sum()
        }
        ValueKind::Map => {
            let pairs = value.as_object().and_then(|object| object.try_iter_pairs());
            pairs
                .into_iter()
                .flatten()
                .map(|(key, item)| weight(&key, depth + 1) + weight(&item, depth + 1))
                .sum()
        }
        _ => 0,
    };
    VARIABLE_BYTES + inner
}

/// Counts bytes that a value is about to take.
pub(super) fn charge(bytes: usize) -> Result<(), Error> {
    if METER.with(|meter| meter.take(&meter.memory, bytes as u64)) {
        return Ok(());
    }
    fail("it makes more text and lists than is allowed for this conversation")
}

/// Counts `count` values.
pub(super) fn charge_items(count: usize) -> Result<(), Error> {
    charge(count.saturating_mul(VALUE_BYTES))
}

/// Counts a list, a tuple or a dictionary of `count` values.
pub(super) fn charge_object(count: usize) -> Result<(), Error> {
    charge(count.saturating_mul(VALUE_BYTES).saturating_add(OBJECT_BYTES))
}

/// Counts the reading of a text, if the value is one.
pub(super) fn charge_text(value: &Value) -> Result<(), Error> {
    value.as_str().map_or(Ok(()), |text| charge(text.len()))
}

/// Checks what an object is about to hold: it must not be nested too deeply then.
pub(super) fn check_items(items: &[Value]) -> Result<(), Error> {
    items.iter().try_for_each(|item| check_depth(item, 1))
}

/// The depth of a value's nesting, of which each part is counted.
pub(super) fn check_depth(value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return fail(format!("lists or dictionaries are nested more than {MAX_DEPTH} levels deep"));
    }
    if !matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::Map | ValueKind::Plain | ValueKind::Iterable
    ) {
        return Ok(());
    }
    let Some(object) = value.as_object() else { return Ok(()) };
    if object.repr() == minijinja::value::ObjectRepr::Plain {
        let items = super::types::held_by(object);
        charge_object(items.len())?;
        return items.iter().try_for_each(|item| check_depth(item, depth + 1));
    }
    charge_items(object.enumerator_len().unwrap_or(0))?;
    object
        .try_iter_pairs()
        .into_iter()
        .flatten()
        .try_for_each(|(_, item)| check_depth(&item, depth + 1))
}

/// Where the text is written, up to the bound.
#[derive(Default)]
pub(super) struct Text(Vec<u8>);

impl Text {
    pub(super) fn into_string(self) -> Result<String, String> {
        String::from_utf8(self.0).map_err(|_| "the text is not UTF-8".to_owned())
    }
}

impl std::io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        METER.with(|meter| {
            if !meter.take(&meter.output, bytes.len() as u64) {
                return Err(std::io::Error::other(OUTPUT_EXCEEDED));
            }
            meter.written.set(meter.written.get() + bytes.len());
            Ok(())
        })?;
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(super) const OUTPUT_EXCEEDED: &str =
    "it writes more text than is allowed for this conversation";

/// A generation block begins at the end of the text written so far.
pub(super) fn begin_generation() {
    METER.with(|meter| {
        let at = meter.written.get();
        meter.generation.borrow_mut().push(at..usize::MAX);
    });
}

/// The innermost open generation block ends at the end of the text written so far.
pub(super) fn end_generation() {
    METER.with(|meter| {
        let mut ranges = meter.generation.borrow_mut();
        if let Some(range) = ranges.iter_mut().rev().find(|range| range.end == usize::MAX) {
            range.end = meter.written.get();
        }
    });
}
