//! Keys whose value is one of a few names.

use crate::{Error, closest::closest, source_map::KeyPlace};

/// A value that is one of a few names.
pub(crate) trait Choice: Sized + Copy {
    /// The valid names.
    const NAMES: &'static [&'static str];
    /// Names that the design has and this version lacks: refused with that reason.
    const NOT_YET: &'static [&'static str];
    /// The value called `name`.
    fn from_name(name: &str) -> Option<Self>;
}

/// Reads a choice.
pub(crate) fn read<C: Choice>(value: &toml::Value, at: &KeyPlace<'_>) -> Result<C, Error> {
    let name = value.as_str().ok_or_else(|| at.cannot_be(value))?;
    C::from_name(name).ok_or_else(|| {
        at.error(&match closest(name, C::NAMES) {
            _ if C::NOT_YET.contains(&name) => format!("\"{name}\" is not available yet"),
            Some(meant) => format!("unknown value \"{name}\", did you mean \"{meant}\"?"),
            None => format!("unknown value \"{name}\""),
        })
    })
}

/// `"a" | "b" | "c"`.
pub(crate) fn valid(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" | ")
}

/// Defines an enum whose variants are written as the given names.
macro_rules! choice {
    (
        $(#[$meta:meta])*
        $name:ident { $($(#[doc = $help:literal])+ $variant:ident = $text:literal),+ $(,)? }
        $(not yet $($later:literal),+)?
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[doc = $help])+ $variant),+ }

        impl $name {
            /// The name, as it is written in a configuration.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl $crate::choice::Choice for $name {
            const NAMES: &'static [&'static str] = &[$($text),+];
            const NOT_YET: &'static [&'static str] = &[$($($later),+)?];
            fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl $crate::value::Value for $name {
            fn read(value: &toml::Value, at: &$crate::source_map::KeyPlace<'_>) -> Result<Self, $crate::Error> {
                $crate::choice::read(value, at)
            }

            fn write(&self) -> Option<toml::Value> {
                Some(self.as_str().into())
            }

            fn valid(_: $crate::range::Range) -> String {
                $crate::choice::valid(<Self as $crate::choice::Choice>::NAMES)
            }

            fn schema(_: $crate::range::Range) -> serde_json::Value {
                serde_json::json!({"enum": [$($text),+]})
            }

            fn choices() -> &'static [(&'static str, &'static str)] {
                &[$(($text, concat!($($help),+))),+]
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(name: &str) -> Result<Self, String> {
                let choices = <Self as $crate::choice::Choice>::NAMES.join(", ");
                <Self as $crate::choice::Choice>::from_name(name).ok_or_else(|| format!("it must be one of {choices}"))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}
pub(crate) use choice;
