//! Filters (`jinja2/filters.py`, and transformers' own `tojson`).

pub(super) mod attribute;
pub(super) mod group;
pub(super) mod json;
pub(super) mod number;
pub(super) mod select;
pub(super) mod sequence;
pub(super) mod sort;
pub(super) mod text;
