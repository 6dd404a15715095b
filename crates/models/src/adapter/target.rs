//! Which modules an adapter is for, by the rules of PEFT (`check_target_module_exists`,
//! `_set_trainable`; 0.21).

use fancy_regex::Regex;

use super::{AdapterConfig, LayerNumbers, TargetModules};

/// Says what is wrong with a regular expression.
///
/// # Errors
/// What is wrong, in a few words.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    match Regex::new(pattern) {
        Ok(_) => Ok(()),
        Err(why) => {
            let why = why.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            Err(format!("{pattern:?} is not a regular expression: {why}"))
        }
    }
}

/// Whether the beginning of `text` matches, as in Python's `re.match`. What is no regular
/// expression matches nothing; [`check_pattern`] has refused it before.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    Regex::new(&format!("\\A(?:{pattern})"))
        .is_ok_and(|regex| regex.is_match(text).unwrap_or(false))
}

impl TargetModules {
    /// Whether a name is, or ends in a dot and, one of these; or the whole of it matches the
    /// regular expression.
    pub fn names(&self, module: &str) -> bool {
        match self {
            Self::Pattern(pattern) => matches(&format!("(?:{pattern})\\z"), module),
            Self::Names(names) => names.iter().any(|name| is_end(name, module)),
        }
    }
}

/// Whether `name` is the last part or parts of the path `module`.
fn is_end(name: &str, module: &str) -> bool {
    module.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

impl AdapterConfig {
    /// Whether the linear layer `module` of a block is adapted.
    pub fn targets(&self, module: &str) -> bool {
        let is_excluded =
            self.exclude_modules.as_ref().is_some_and(|excluded| excluded.names(module));
        let saved = self.modules_to_save.iter().flatten();
        let is_saved =
            saved.into_iter().any(|name| matches(&format!("(^|.*\\.){name}($|\\..*)"), module));
        let is_named = self.is_all_linear() || self.target_modules.names(module);
        !is_excluded && !is_saved && is_named && self.transforms_layer_of(module)
    }

    fn transforms_layer_of(&self, module: &str) -> bool {
        let is_transformed = |layer: i64| match &self.layers_to_transform {
            None => true,
            Some(LayerNumbers::One(only)) => *only == layer,
            Some(LayerNumbers::Several(numbers)) => numbers.is_empty() || numbers.contains(&layer),
        };
        match &self.layers_to_transform {
            None => true,
            Some(LayerNumbers::Several(numbers)) if numbers.is_empty() => true,
            Some(_) => self.layer_of(module).is_some_and(is_transformed),
        }
    }

    /// The number of the layer that `module` belongs to: the first in its path, or the one behind a
    /// layers pattern.
    fn layer_of(&self, module: &str) -> Option<i64> {
        let patterns = match &self.layers_pattern {
            None => Vec::new(),
            Some(TargetModules::Pattern(one)) if one.is_empty() => Vec::new(),
            Some(TargetModules::Pattern(one)) => vec![one.clone()],
            Some(TargetModules::Names(several)) => several.clone(),
        };
        let number = |pattern: &str| {
            let found = Regex::new(pattern).ok()?.captures(module).ok()??;
            found.name("idx")?.as_str().parse().ok()
        };
        if patterns.is_empty() {
            return number(r"\A.*?\.[^.]*\.(?P<idx>\d+)\.");
        }
        patterns
            .iter()
            .find_map(|pattern| number(&format!(r"\A(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.")))
    }

    /// Whether a parameter belongs to a module that is trained whole: whether the path of one of
    /// the modules that it is in ends in one of the names.
    pub fn saves(&self, parameter: &str) -> bool {
        let modules = parameter.match_indices('.').map(|(dot, _)| &parameter[..dot]);
        modules.into_iter().any(|module| {
            self.modules_to_save.iter().flatten().any(|name| module.ends_with(name.as_str()))
        })
    }
}
