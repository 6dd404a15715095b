//! What a misspelt name most likely means.

/// The candidate that a misspelt `name` most likely means: within two edits (one for names of up to
/// three letters).
pub(crate) fn closest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let name = name.to_lowercase();
    let most = if name.chars().count() <= 3 { 1 } else { 2 };
    candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, candidate), *candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
