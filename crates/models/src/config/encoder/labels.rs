use serde_json::{Map, Value};

use crate::Result;
use crate::config::fields::Fields;

/// The names of classes, in the order of their numbers (`id2label` and `label2id` of transformers).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels(Vec<String>);

impl Labels {
    /// Classes of these names, numbered from 0.
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// `LABEL_0`, `LABEL_1` and so on, as transformers calls classes that have no names.
    pub fn numbered(count: usize) -> Self {
        Self((0..count).map(|number| format!("LABEL_{number}")).collect())
    }

    /// `id2label`, or as many as `num_labels` says, or two.
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Self> {
        let key = "id2label";
        let Some(table) = fields.object(key)? else {
            let count = fields.integer("num_labels")?.unwrap_or(2);
            let limit = 1 << 24;
            return match (0..=limit).contains(&count) {
                true => Ok(Self::numbered(count as usize)),
                false => {
                    Err(fields
                        .invalid("num_labels", format!("{count} is not between 0 and {limit}")))
                }
            };
        };
        let mut names = vec![None; table.len()];
        for (number, name) in table {
            let place = number.parse::<usize>().ok().and_then(|number| names.get_mut(number));
            let (Some(place), Some(name)) = (place, name.as_str()) else {
                return Err(fields.invalid(
                    key,
                    format!(
                        "{number:?}: {name} is not one of the {} classes and its name",
                        table.len()
                    ),
                ));
            };
            *place = Some(name.to_owned());
        }
        match names.into_iter().collect::<Option<Vec<_>>>() {
            Some(names) => Ok(Self(names)),
            None => Err(fields.invalid(key, "two classes have one number")),
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// The number of a class.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.0.iter().position(|known| known == name).map(|number| number as i64)
    }

    /// `id2label` and `label2id`.
    pub fn to_json(&self) -> Map<String, Value> {
        let named: Map<String, Value> = self
            .0
            .iter()
            .enumerate()
            .map(|(number, name)| (number.to_string(), name.clone().into()))
            .collect();
        let numbered: Map<String, Value> =
            self.0.iter().enumerate().map(|(number, name)| (name.clone(), number.into())).collect();
        [("id2label".to_owned(), named.into()), ("label2id".to_owned(), numbered.into())]
            .into_iter()
            .collect()
    }
}

/// What is learned of classes (`problem_type` of transformers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// Numbers: the squared error.
    Regression,
    /// One class for each row: the cross-entropy.
    SingleLabel,
    /// Any number of classes for each row: the binary cross-entropy of each.
    MultiLabel,
}

impl Problem {
    /// `problem_type`.
    pub(super) fn read(fields: &Fields<'_>) -> Result<Option<Self>> {
        Ok(match fields.text("problem_type")? {
            None => None,
            Some("regression") => Some(Self::Regression),
            Some("single_label_classification") => Some(Self::SingleLabel),
            Some("multi_label_classification") => Some(Self::MultiLabel),
            Some(other) => {
                let supported = "\"regression\", \"single_label_classification\", \"multi_label_classification\"";
                return Err(fields.unsupported("problem_type", format!("{other:?}"), supported));
            }
        })
    }

    /// What is learned where the file does not say, by the number of classes and whether labels are
    /// integers.
    pub fn infer(labels: usize, are_integers: bool) -> Self {
        match labels {
            1 => Self::Regression,
            _ if labels > 1 && are_integers => Self::SingleLabel,
            _ => Self::MultiLabel,
        }
    }
}
