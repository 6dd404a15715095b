//! The names a template can use: filters, tests, functions, and the methods of Python's types.

use minijinja::{Environment, Error, State, Value};

use super::operators::{self, compare, subscript};
use super::types::{Type, fail, type_of};
use super::{checks, filters, functions, limits, methods};

type Function = fn(&State<'_, '_>, &[Value]) -> Result<Value, Error>;
type Check = fn(&State<'_, '_>, &[Value]) -> Result<bool, Error>;

/// Operators of the language; no name of a template's own can be one of these.
const OPERATORS: &[(&str, Function)] = &[
    ("__add", operators::add),
    ("__sub", operators::subtract),
    ("__mul", operators::multiply),
    ("__div", operators::divide),
    ("__floor_div", operators::floor_divide),
    ("__mod", operators::modulo),
    ("__pow", operators::power),
    ("__neg", operators::negative),
    ("__pos", operators::positive),
    ("__concat", operators::concat),
    ("__tuple", operators::tuple),
    ("__dict", operators::dict),
    ("__iter", operators::iterate),
    ("__step", operators::step),
    ("__closure", operators::closure),
    ("__undefined", |_, _| Ok(Value::UNDEFINED)),
    ("__bounded", operators::bounded),
    ("__splat", operators::splat),
    ("__mark_undefined", operators::mark_undefined),
    ("__unmark_undefined", operators::unmark_undefined),
    ("__eq", compare::equal),
    ("__ne", compare::unequal),
    ("__lt", compare::less),
    ("__le", compare::less_or_equal),
    ("__gt", compare::greater),
    ("__ge", compare::greater_or_equal),
    ("__in", compare::is_in),
    ("__not_in", compare::is_not_in),
    ("__compare", compare::chain),
    ("__attr", subscript::attribute),
    ("__item", subscript::item),
    ("__slice", subscript::slice),
    ("__call", methods::call_filter),
    ("__generation_begin", |_, _| {
        limits::begin_generation();
        Ok(Value::UNDEFINED)
    }),
    ("__generation_end", |_, _| {
        limits::end_generation();
        Ok(Value::UNDEFINED)
    }),
    ("__unknown_filter", |_, operands| {
        fail(format!("the filter `{}` is not supported", operands[1]))
    }),
];

pub(super) const FILTERS: &[(&str, Function)] = &[
    ("abs", filters::number::abs),
    ("attr", filters::select::attr),
    ("batch", filters::group::batch),
    ("capitalize", filters::text::capitalize),
    ("center", filters::text::center),
    ("count", filters::sequence::length),
    ("d", filters::sequence::default),
    ("default", filters::sequence::default),
    ("dictsort", filters::sort::dictsort),
    ("e", filters::text::escape),
    ("escape", filters::text::escape),
    ("first", filters::sequence::first),
    ("float", filters::number::float),
    ("format", filters::text::format),
    ("groupby", filters::group::groupby),
    ("indent", filters::text::indent),
    ("int", filters::number::int),
    ("items", filters::sequence::items),
    ("join", filters::sequence::join),
    ("last", filters::sequence::last),
    ("length", filters::sequence::length),
    ("list", filters::sequence::list),
    ("lower", filters::text::lower),
    ("map", filters::select::map),
    ("max", filters::sort::max),
    ("min", filters::sort::min),
    ("reject", filters::select::reject),
    ("rejectattr", filters::select::rejectattr),
    ("replace", filters::text::replace),
    ("reverse", filters::sequence::reverse),
    ("round", filters::number::round),
    ("safe", filters::text::safe),
    ("select", filters::select::select),
    ("selectattr", filters::select::selectattr),
    ("slice", filters::group::slice),
    ("sort", filters::sort::sort),
    ("string", filters::text::string),
    ("sum", filters::number::sum),
    ("title", filters::text::title),
    ("tojson", filters::json::tojson),
    ("trim", filters::text::trim),
    ("truncate", filters::text::truncate),
    ("unique", filters::group::unique),
    ("upper", filters::text::upper),
    ("urlencode", filters::text::urlencode),
    ("wordcount", filters::text::wordcount),
];

pub(super) const TESTS: &[(&str, Check)] = &[
    ("boolean", checks::boolean),
    ("callable", checks::callable),
    ("defined", checks::defined),
    ("divisibleby", checks::divisible_by),
    ("eq", checks::equal),
    ("equalto", checks::equal),
    ("even", checks::even),
    ("escaped", checks::escaped),
    ("false", checks::is_false),
    ("filter", checks::is_filter),
    ("float", checks::float),
    ("ge", checks::greater_or_equal),
    ("greaterthan", checks::greater),
    ("gt", checks::greater),
    ("in", checks::is_in),
    ("integer", checks::integer),
    ("iterable", checks::iterable),
    ("le", checks::less_or_equal),
    ("lessthan", checks::less),
    ("lower", checks::lower),
    ("lt", checks::less),
    ("mapping", checks::mapping),
    ("ne", checks::unequal),
    ("none", checks::none),
    ("number", checks::number),
    ("odd", checks::odd),
    ("sameas", checks::same_as),
    ("sequence", checks::sequence),
    ("string", checks::string),
    ("test", checks::is_test),
    ("true", checks::is_true),
    ("undefined", checks::undefined),
    ("upper", checks::upper),
];

const FUNCTIONS: &[(&str, Function)] = &[
    ("range", functions::range),
    ("dict", functions::dict),
    ("namespace", functions::namespace),
    ("cycler", functions::cycler),
    ("joiner", functions::joiner),
    ("lipsum", |_, _| fail("the function `lipsum` is not supported")),
    ("raise_exception", functions::raise_exception),
];

const STR: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const LIST: &[&str] = &[
    "append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse",
    "sort",
];
const DICT: &[&str] = &[
    "clear",
    "copy",
    "fromkeys",
    "get",
    "items",
    "keys",
    "pop",
    "popitem",
    "setdefault",
    "update",
    "values",
];
const TUPLE: &[&str] = &["count", "index"];
const VIEW: &[&str] = &["isdisjoint", "mapping"];
const RANGE: &[&str] = &["count", "index", "start", "step", "stop"];
const INT: &[&str] = &[
    "as_integer_ratio",
    "bit_count",
    "bit_length",
    "conjugate",
    "denominator",
    "from_bytes",
    "imag",
    "numerator",
    "real",
    "to_bytes",
];
const FLOAT: &[&str] =
    &["as_integer_ratio", "conjugate", "fromhex", "hex", "imag", "is_integer", "real"];

/// The methods of a value's type.
pub(super) fn methods_of(value: &Value) -> &'static [&'static str] {
    match type_of(value) {
        Type::Str(_) => STR,
        Type::List => LIST,
        Type::Dict(_) => DICT,
        Type::Tuple(_) => TUPLE,
        Type::View(_) => VIEW,
        Type::Range(_) => RANGE,
        Type::Bool(_) | Type::Int(_) => INT,
        Type::Float(_) => FLOAT,
        _ => &[],
    }
}

/// Whether some type of Python has this as an attribute, so that `x.name` need not be an item.
pub(super) fn is_method(name: &str) -> bool {
    is_forbidden(name)
        || [STR, LIST, DICT, TUPLE, VIEW, RANGE, INT, FLOAT]
            .iter()
            .any(|methods| methods.contains(&name))
}

/// Names that the sandbox of jinja2 keeps from templates.
pub(super) fn is_forbidden(name: &str) -> bool {
    name.starts_with("__")
}

pub(super) fn is_filter(name: &str) -> bool {
    FILTERS.iter().any(|(known, _)| *known == name)
}

pub(super) fn is_test(name: &str) -> bool {
    TESTS.iter().any(|(known, _)| *known == name)
}

/// An environment with these names and none of minijinja's own.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    for &(name, function) in OPERATORS.iter().chain(FILTERS) {
        environment.add_filter(name, move |state: &State<'_, '_>, operands: &[Value]| {
            function(state, operands)
        });
    }
    for &(name, check) in TESTS {
        environment.add_test(name, move |state: &State<'_, '_>, operands: &[Value]| {
            check(state, operands)
        });
    }
    environment.add_test(
        "__unknown_test",
        |_: &State<'_, '_>, operands: &[Value]| -> Result<bool, Error> {
            fail(format!("the test `{}` is not supported", operands[1]))
        },
    );
    for &(name, function) in FUNCTIONS {
        environment.add_function(name, move |state: &State<'_, '_>, operands: &[Value]| {
            function(state, operands)
        });
    }
    environment
}
