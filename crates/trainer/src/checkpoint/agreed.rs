//! What a run must share with the run that it goes on with.

use config::{Error, Run};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Keys that may change while a run is stopped: they say where, how fast and how often, not what is learnt.
const FREE: [&str; 9] = [
    "run.dir",
    "run.device",
    "run.threads",
    "run.micro_batch_size",
    "run.eval_every",
    "run.log_every",
    "run.check_every",
    "run.tensorboard",
    "run.loss_chunk",
];
/// Tables of which every key may change.
const FREE_TABLES: [&str; 2] = ["checkpoint", "cluster"];

/// The keys that must agree, as `table.key`, with their values in TOML.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Agreed(BTreeMap<String, String>);

impl Agreed {
    /// Those of `run`.
    pub fn of(run: &Run) -> Self {
        Self::among(run.keys())
    }

    /// Those of a resolved configuration, unless `text` is none.
    fn read(text: &str) -> Option<Self> {
        config::keys_of(text).map(Self::among)
    }

    fn among(mut keys: BTreeMap<String, String>) -> Self {
        let is_free_table = |key: &str| key.split_once('.').is_some_and(|(table, _)| FREE_TABLES.contains(&table));
        keys.retain(|key, _| !FREE.contains(&key.as_str()) && !is_free_table(key));
        Self(keys)
    }

    /// The keys that differ, in order.
    fn differing<'a>(&'a self, other: &'a Self) -> Vec<&'a String> {
        let differing = self.0.keys().chain(other.0.keys()).filter(|key| self.0.get(*key) != other.0.get(*key));
        let mut differing: Vec<&String> = differing.collect();
        differing.sort();
        differing.dedup();
        differing
    }

    /// Refuses `run` where it would put other weights than those of the run with these keys beside the model: at the first key of `[lora]` that
    /// differs. All else may be another, as the data may on which a checkpoint is evaluated.
    pub fn check_weights(&self, run: &Run) -> Result<(), Error> {
        let now = Self::of(run);
        let differing = self.differing(&now);
        let Some(("lora", key)) = differing.iter().filter_map(|key| key.split_once('.')).find(|(table, _)| *table == "lora") else {
            return Ok(());
        };
        let value = |keys: &Self| keys.0.get(&format!("lora.{key}")).cloned().unwrap_or_else(|| "absent".into());
        let what = format!("is {}, and the checkpoint was trained with {}; set it back", value(&now), value(self));
        Err(run.error_at("lora", key, &what))
    }

    /// Refuses `run` if it differs from the run with these keys: at the first key that does, naming all.
    pub fn check(&self, run: &Run) -> Result<(), Error> {
        let now = Self::of(run);
        let absent = "absent".to_owned();
        let differing = self.differing(&now);
        let Some((table, key)) = differing.first().and_then(|key| key.split_once('.')) else { return Ok(()) };
        let value = |keys: &Self, key: &str| keys.0.get(key).unwrap_or(&absent).clone();
        let changed =
            |key: &str| format!("is {}, and the run in {} was begun with {}", value(&now, key), run.dir.display(), value(self, key));
        let mut what = changed(&format!("{table}.{key}"));
        if let [_, others @ ..] = differing.as_slice()
            && !others.is_empty()
        {
            let others: Vec<String> = others.iter().map(|key| format!("{key} ({}, was {})", value(&now, key), value(self, key))).collect();
            what += &format!("; so do differ {}", others.join(", "));
        }
        what +=
            "; set it back to go on with that run, pass --overwrite to replace it, or give this one another directory: --set run.dir=DIR";
        Err(run.error_at(table, key, &what))
    }
}

/// Refuses to go on with a run that was begun with `config`, its resolved configuration, as `run` where the two differ in a key that
/// changes what is learnt: all but those of `[cluster]` and `[checkpoint]`, and `dir`, `device`, `threads`, `micro_batch_size`,
/// `eval_every`, `log_every`, `check_every`, `tensorboard` and `loss_chunk` of `[run]`. A text that is no configuration agrees with none.
///
/// # Errors
/// At the first key that differs.
pub fn check_agreement(run: &Run, config: &str) -> Result<(), Error> {
    Agreed::read(config).unwrap_or_default().check(run)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn run(more: &str) -> Run {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, format!("[model]\npath = \"m\"\n[lora]\n[data]\ntrain = \"t\"\n{more}")).unwrap();
        Run::load(&path, &["run.dir=r".to_owned()]).unwrap()
    }

    #[test]
    fn only_what_changes_learning_must_agree() {
        let begun = run("[run]\nsteps = 9\n").to_toml();
        let free = "[run]\nsteps = 9\nthreads = 3\neval_every = 2\nmicro_batch_size = 1\n[cluster]\nranks = 4\n[checkpoint]\nevery = 3\n";
        assert!(check_agreement(&run(free), &begun).is_ok());
        let says = check_agreement(&run("[run]\nsteps = 9\nseed = 5\n[optimizer]\nlearning_rate = 2.0\n"), &begun).unwrap_err().to_string();
        assert!(says.contains("[optimizer] learning_rate: is 2.0, and the run in r was begun with 0.0002"), "{says}");
        assert!(says.contains("so do differ run.seed (5, was 0)") && says.contains("--overwrite"), "{says}");
        let says = check_agreement(&run("[run]\nepochs = 2\n"), &begun).unwrap_err().to_string();
        assert!(says.contains("[run] epochs: is 2.0, and the run in r was begun with absent"), "{says}");
        assert!(check_agreement(&run(""), "no configuration").is_err());
    }

    #[test]
    fn only_the_adapter_must_agree_to_be_evaluated() {
        let begun = Agreed::of(&run("[run]\nsteps = 9\n"));
        assert!(begun.check_weights(&run("[run]\nsteps = 8\nseed = 4\n")).is_ok());
        let text = |config: &str| run("").to_toml().replace("alpha = 16.0", config);
        let says = Agreed::read(&text("alpha = 4.0")).unwrap().check_weights(&run("")).unwrap_err().to_string();
        assert!(says.contains("[lora] alpha: is 16.0, and the checkpoint was trained with 4.0; set it back"), "{says}");
    }
}
