//! Which keys of the configuration a run must share with the run that it resumes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use config::{Error, Run};

/// Keys that may change while a run is stopped: they say where, how fast and how often, not what is
/// learned.
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
/// Tables whose keys may all change.
const FREE_TABLES: [&str; 2] = ["checkpoint", "cluster"];

/// The keys that must agree, as `table.key`, with their values in TOML.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct CompatKeys(BTreeMap<String, String>);

impl CompatKeys {
    /// Those of `run`.
    pub fn from_run(run: &Run) -> Self {
        Self::among(run.keys())
    }

    /// Those of a resolved configuration; `None` if `text` is no configuration.
    fn parse(text: &str) -> Option<Self> {
        config::keys_of(text).map(Self::among)
    }

    fn among(mut keys: BTreeMap<String, String>) -> Self {
        let is_free_table =
            |key: &str| key.split_once('.').is_some_and(|(table, _)| FREE_TABLES.contains(&table));
        keys.retain(|key, _| !FREE.contains(&key.as_str()) && !is_free_table(key));
        Self(keys)
    }

    /// The keys that differ, in order.
    fn differing<'a>(&'a self, other: &'a Self) -> Vec<&'a String> {
        let differing =
            self.0.keys().chain(other.0.keys()).filter(|key| self.0.get(*key) != other.0.get(*key));
        let mut differing: Vec<&String> = differing.collect();
        differing.sort();
        differing.dedup();
        differing
    }

    /// Refuses `run` if its adapter is not that of the run with these keys: at the first key of
    /// `[lora]` that differs. All other keys may differ, as the data on which a checkpoint is
    /// evaluated may.
    pub fn check_weights(&self, run: &Run) -> Result<(), Error> {
        let now = Self::from_run(run);
        let differing = self.differing(&now);
        let Some(("lora", key)) = differing
            .iter()
            .filter_map(|key| key.split_once('.'))
            .find(|(table, _)| *table == "lora")
        else {
            return Ok(());
        };
        let value = |keys: &Self| {
            keys.0.get(&format!("lora.{key}")).cloned().unwrap_or_else(|| "absent".into())
        };
        let what = format!(
            "is {}, and the checkpoint was trained with {}; set it back",
            value(&now),
            value(self)
        );
        Err(run.error_at("lora", key, &what))
    }

    /// Refuses `run` if it differs from the run with these keys: at the first key that does, naming
    /// all.
    pub fn check(&self, run: &Run) -> Result<(), Error> {
        let now = Self::from_run(run);
        let absent = "absent".to_owned();
        let differing = self.differing(&now);
        let Some((table, key)) = differing.first().and_then(|key| key.split_once('.')) else {
            return Ok(());
        };
        let value = |keys: &Self, key: &str| keys.0.get(key).unwrap_or(&absent).clone();
        let changed = |key: &str| {
            format!(
                "is {}, and the run in {} was started with {}",
                value(&now, key),
                run.dir.display(),
                value(self, key)
            )
        };
        let mut what = changed(&format!("{table}.{key}"));
        if let [_, others @ ..] = differing.as_slice()
            && !others.is_empty()
        {
            let others: Vec<String> = others
                .iter()
                .map(|key| format!("{key} ({}, was {})", value(&now, key), value(self, key)))
                .collect();
            what += &format!("; also different: {}", others.join(", "));
        }
        what += "; set it back to resume that run, pass --overwrite to replace it, or give this one another directory: --set run.dir=DIR";
        Err(run.error_at(table, key, &what))
    }
}

/// Refuses to resume a run that was started with `config`, its resolved configuration, if `run`
/// differs in a key that changes what is learned: all but those of `[cluster]` and `[checkpoint]`,
/// and `dir`, `device`, `threads`, `micro_batch_size`, `eval_every`, `log_every`, `check_every`,
/// `tensorboard` and `loss_chunk` of `[run]`. A text that is no configuration is compatible with
/// none.
///
/// # Errors
/// At the first key that differs.
pub fn check_compatible(run: &Run, config: &str) -> Result<(), Error> {
    CompatKeys::parse(config).unwrap_or_default().check(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(more: &str) -> Run {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(
            &path,
            format!("[model]\npath = \"m\"\n[lora]\n[data]\ntrain = \"t\"\n{more}"),
        )
        .unwrap();
        Run::load(&path, &["run.dir=r".to_owned()]).unwrap()
    }

    #[test]
    fn only_keys_that_change_learning_must_agree() {
        let started = run("[run]\nsteps = 9\n").to_toml();
        let free = "[run]\nsteps = 9\nthreads = 3\neval_every = 2\nmicro_batch_size = 1\n[cluster]\nranks = 4\n[checkpoint]\nevery = 3\n";
        assert!(check_compatible(&run(free), &started).is_ok());
        let says = check_compatible(
            &run("[run]\nsteps = 9\nseed = 5\n[optimizer]\nlearning_rate = 2.0\n"),
            &started,
        )
        .unwrap_err()
        .to_string();
        assert!(
            says.contains(
                "[optimizer] learning_rate: is 2.0, and the run in r was started with 0.0002"
            ),
            "{says}"
        );
        assert!(
            says.contains("also different: run.seed (5, was 0)") && says.contains("--overwrite"),
            "{says}"
        );
        let says = check_compatible(&run("[run]\nepochs = 2\n"), &started).unwrap_err().to_string();
        assert!(
            says.contains("[run] epochs: is 2.0, and the run in r was started with absent"),
            "{says}"
        );
        assert!(check_compatible(&run(""), "no configuration").is_err());
    }

    #[test]
    fn only_the_adapter_must_agree_to_be_evaluated() {
        let started = CompatKeys::from_run(&run("[run]\nsteps = 9\n"));
        assert!(started.check_weights(&run("[run]\nsteps = 8\nseed = 4\n")).is_ok());
        let text = |config: &str| run("").to_toml().replace("alpha = 16.0", config);
        let says = CompatKeys::parse(&text("alpha = 4.0"))
            .unwrap()
            .check_weights(&run(""))
            .unwrap_err()
            .to_string();
        assert!(
            says.contains(
                "[lora] alpha: is 16.0, and the checkpoint was trained with 4.0; set it back"
            ),
            "{says}"
        );
    }
}
