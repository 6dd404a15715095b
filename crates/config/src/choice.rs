//! Keys whose value is one of a few names.

/// A value that is one of a few names.
pub(super) trait Choice: Sized + Copy {
    /// The valid names.
    const NAMES: &'static [&'static str];
    /// Names that the design has and this version lacks: refused with that reason.
    const NOT_YET: &'static [&'static str];
    /// The value called `name`.
    fn from_name(name: &str) -> Option<Self>;
}

/// Defines an enum whose variants are written as the given names.
macro_rules! choice {
    (
        $(#[$meta:meta])*
        $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal),+ $(,)? }
        $(not yet $($later:literal),+)?
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_meta])* $variant),+ }

        impl $name {
            /// The name, as it is written in a configuration.
            pub fn as_str(self) -> &'static str {
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
pub(super) use choice;

/// The candidate that a misspelt `name` most likely means: within two edits (one for names of up to three letters).
pub(super) fn closest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let name = name.to_lowercase();
    let most = if name.chars().count() <= 3 { 1 } else { 2 };
    candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, candidate), *candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
