//! The whole configuration: all tables, and the conditions between them.

use crate::{
    Error,
    declare::{Declared, Table, When},
    place::{Place, TableId},
    registry,
    source::Source,
    source_map::SourceMap,
    tables::{
        Activations, BY, Checkpoint, Cluster, CompressionConfig, Data, GradientMethod, Gradients,
        Lora, Model, Optimizer, RunTable, SOME_SITE, Schedule, Task,
    },
};
use std::any::Any;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::path::Path;

/// Tokens of a rank in a step.
const MOST_TOKENS: usize = 1 << 31;

/// A validated configuration. The keys of `[run]` are its own: `run.batch_size`.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    run: RunTable,
    /// `[model]`.
    pub model: Model,
    /// `[lora]`. Without the table all weights are trained.
    pub lora: Option<Lora>,
    /// `[activations]`.
    pub activations: Activations,
    /// `[gradients]`.
    pub gradients: Gradients,
    /// `[data]`.
    pub data: Data,
    /// `[optimizer]`.
    pub optimizer: Optimizer,
    /// `[schedule]`.
    pub schedule: Schedule,
    /// `[checkpoint]`.
    pub checkpoint: Checkpoint,
    /// `[cluster]`.
    pub cluster: Cluster,
    /// Where each key was written, for errors found later.
    sources: SourceMap,
}

impl Deref for Run {
    type Target = RunTable;

    fn deref(&self) -> &RunTable {
        &self.run
    }
}

impl DerefMut for Run {
    fn deref_mut(&mut self) -> &mut RunTable {
        &mut self.run
    }
}

impl Run {
    /// Reads and checks the configuration at `path`, with `overrides` of the form `table.key=value`
    /// on top.
    ///
    /// An override's value is TOML where it parses as TOML, a string otherwise. `run.steps` and
    /// `run.epochs` replace each other, and keys of the file that are not read because an override
    /// chooses another method are left out.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and the valid values.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, Error> {
        Self::resolve(&Source::read(path, overrides)?, path)
    }

    /// The checked configuration of a source that was read from `path`.
    pub(crate) fn resolve(source: &Source, path: &Path) -> Result<Self, Error> {
        let (mut tables, mut sources) = source.parse()?;
        loop {
            let run = Self::from_tables(&tables, &sources, path)?;
            let Some((table, key)) = run.unread()? else { return Ok(run) };
            remove(&mut tables, &table, &key);
            sources.forget(&table, &key);
        }
    }

    fn from_tables(tables: &toml::Table, sources: &SourceMap, path: &Path) -> Result<Self, Error> {
        let none = toml::Table::new();
        let entries =
            |name: &str| tables.get(name).and_then(toml::Value::as_table).unwrap_or(&none);
        fn read<'a, T: Declared>(
            sources: &SourceMap,
            entries: impl Fn(&str) -> &'a toml::Table,
            resolve: impl FnOnce(T, &Table<'_>) -> Result<T, Error>,
        ) -> Result<T, Error> {
            let table = Table::new::<T>(sources, TableId::new(T::NAME), entries(T::NAME));
            resolve(T::read(&table)?, &table)
        }
        let run = read(sources, entries, |run: RunTable, table| run.resolve(path, table))?;
        let length = run.length();
        let run = Self {
            run,
            model: read(sources, entries, |model, _| Ok(model))?,
            lora: if tables.contains_key("lora") {
                Some(read(sources, entries, |lora: Lora, table| lora.check(table).map(|()| lora))?)
            } else {
                None
            },
            activations: read(sources, entries, Activations::resolve)?,
            gradients: read(sources, entries, |gradients, _| Ok(gradients))?,
            data: read(sources, entries, |data: Data, table| data.check(table).map(|()| data))?,
            optimizer: read(sources, entries, Optimizer::resolve)?,
            schedule: read(sources, entries, |schedule: Schedule, table| {
                schedule.resolve(length, table)
            })?,
            checkpoint: read(sources, entries, |checkpoint, _| Ok(checkpoint))?,
            cluster: read(sources, entries, |cluster: Cluster, table| {
                cluster.check(table).map(|()| cluster)
            })?,
            sources: sources.clone(),
        };
        run.check_sources()?;
        run.check_shared_basis()?;
        run.check_step()?;
        Ok(run)
    }

    /// A key of the file that is to be left out, because the command line has chosen that it is not
    /// read.
    ///
    /// # Errors
    /// A key that is given and not read.
    fn unread(&self) -> Result<Option<(TableId, String)>, Error> {
        for (table, key, place) in self.sources.given() {
            let Some(when) = registry::key(&table.name, key).and_then(|key| key.when.as_ref())
            else {
                continue;
            };
            if self.reads(when, table.item) {
                continue;
            }
            if matches!(place, Place::File { .. })
                && when.by.iter().any(|name| self.sources.is_overridden(name))
            {
                return Ok(Some((table.clone(), key.to_owned())));
            }
            let needs_a_site = when.by == BY && !self.activations.has_sites();
            let text = if needs_a_site { SOME_SITE } else { &when.text };
            return Err(self.sources.error_at(
                table,
                key,
                &format!("is read only if {text}; leave it out"),
            ));
        }
        Ok(None)
    }

    /// Whether the condition holds; of a key in an override of `[activations]`, where that override
    /// applies.
    fn reads(&self, when: &When, override_index: Option<usize>) -> bool {
        let tables: [&dyn Any; 9] = [
            &self.run,
            &self.model,
            &self.activations,
            &self.gradients,
            &self.data,
            &self.optimizer,
            &self.schedule,
            &self.checkpoint,
            &self.cluster,
        ];
        let lora = self.lora.as_ref().map(|lora| lora as &dyn Any);
        let sites: Vec<CompressionConfig> = self.activations.in_use(override_index).collect();
        when.holds(tables.into_iter().chain(lora).chain(sites.iter().map(|site| site as &dyn Any)))
    }

    /// Refuses several sources where one is read.
    fn check_sources(&self) -> Result<(), Error> {
        for (key, sources) in [("train", Some(&self.data.train)), ("eval", self.data.eval.as_ref())]
        {
            if self.model.task != Task::CausalLm
                && sources.is_some_and(|sources| sources.only().is_none())
            {
                return Err(self.error_at(
                    "data",
                    key,
                    "is a list, and a classifier reads one file or folder; put all rows into one",
                ));
            }
        }
        Ok(())
    }

    /// Refuses gradients in bases in which nothing is saved.
    fn check_shared_basis(&self) -> Result<(), Error> {
        if self.gradients.method != GradientMethod::SharedBasis {
            return Ok(());
        }
        if self.model.task != Task::CausalLm {
            return Err(self.error_at(
                "gradients",
                "method",
                "\"shared_basis\" is for language models; use \"powersgd\"",
            ));
        }
        if self.activations.shares_inputs() {
            return Ok(());
        }
        let what = "\"shared_basis\" needs inputs of linear layers in bases that the ranks share; in [activations], set method = \"shared\" and \
                    sites = [\"attn_in\", \"attn_out\", \"mlp_in\", \"mlp_out\"], or some of them";
        Err(self.error_at("gradients", "method", what))
    }

    /// The configuration in full: every key that is read, with its value. Loading it again gives
    /// the same run.
    pub fn to_toml(&self) -> String {
        let tables: Vec<String> = self
            .written()
            .into_iter()
            .map(|(table, keys)| {
                let lines: String =
                    keys.into_iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
                format!("[{table}]\n{lines}")
            })
            .collect();
        tables.join("\n")
    }

    /// Every key that is read and has a value, as `table.key`, with that value in TOML.
    pub fn keys(&self) -> BTreeMap<String, String> {
        let tables = self.written().into_iter();
        tables
            .flat_map(|(table, keys)| {
                keys.into_iter()
                    .map(move |(key, value)| (format!("{table}.{key}"), value.to_string()))
            })
            .collect()
    }

    fn written(&self) -> Vec<(&'static str, Vec<(&'static str, toml::Value)>)> {
        fn entry<T: Declared>(table: &T) -> (&'static str, Vec<(&'static str, toml::Value)>) {
            (T::NAME, table.write())
        }
        let mut tables = vec![entry(&self.run), entry(&self.model)];
        tables.extend(self.lora.as_ref().map(entry));
        tables.extend([
            entry(&self.activations),
            entry(&self.gradients),
            entry(&self.data),
            entry(&self.optimizer),
        ]);
        tables.extend([entry(&self.schedule), entry(&self.checkpoint), entry(&self.cluster)]);
        for (table, keys) in &mut tables {
            keys.retain(|(key, _)| {
                registry::key(table, key)
                    .and_then(|key| key.when.as_ref())
                    .is_none_or(|when| self.reads(when, None))
            });
        }
        tables
    }

    /// An error at a key whose value does not fit the model, the data or the machine: it names the
    /// file and line, or the override, that gave the key. `what` says what to do.
    pub fn error_at(&self, table: &str, key: &str, what: &str) -> Error {
        self.sources.error_at(&TableId::new(table), key, what)
    }

    /// The same, at a key of how activations are compressed: in the override `given`, or in
    /// `[activations]` itself.
    pub fn error_at_compression(&self, given: Option<usize>, key: &str, what: &str) -> Error {
        match given {
            Some(index) => {
                self.sources.error_at(&TableId::item("activations.overrides", index), key, what)
            }
            None => self.error_at("activations", key, what),
        }
    }

    /// Sequences of a step that the rank with the most of them computes, of `world_size` ranks.
    ///
    /// # Errors
    /// When a rank would have none.
    pub fn share(&self, world_size: usize) -> Result<usize, Error> {
        if world_size == 0 || self.batch_size < world_size {
            let what = format!(
                "is {}, fewer than the {world_size} ranks; give at least {world_size}, or start fewer ranks",
                self.batch_size
            );
            return Err(self.error_at("run", "batch_size", &what));
        }
        Ok(self.batch_size.div_ceil(world_size))
    }

    /// Sequences that a rank computes at once, of `world_size` ranks.
    ///
    /// # Errors
    /// As [`Run::share`].
    pub fn rows_at_once(&self, world_size: usize) -> Result<usize, Error> {
        let share = self.share(world_size)?;
        Ok(if self.micro_batch_size > 0 { self.micro_batch_size.min(share) } else { share })
    }

    /// Refuses steps of more tokens than can be counted on their way through a model.
    fn check_step(&self) -> Result<(), Error> {
        let share = self.batch_size.div_ceil(self.cluster.ranks);
        let tokens = share.saturating_mul(self.data.sequence_length);
        if self.model.task == Task::ImageClassification || tokens <= MOST_TOKENS {
            return Ok(());
        }
        let what = format!(
            "is {}, and {share} sequences of {} tokens for each rank are more than {MOST_TOKENS} tokens in a step; give fewer",
            self.batch_size, self.data.sequence_length
        );
        Err(self.error_at("run", "batch_size", &what))
    }

    /// Refuses paths that do not exist.
    ///
    /// # Errors
    /// The first path of the configuration that does not exist.
    pub fn check_paths(&self) -> Result<(), Error> {
        let paths = [
            ("model", "path", Some(&self.model.path)),
            ("model", "tokenizer", self.model.tokenizer.as_ref()),
            ("model", "chat_template", self.model.chat_template.as_ref()),
            ("lora", "adapter", self.lora.as_ref().and_then(|lora| lora.adapter.as_ref())),
        ];
        let paths =
            paths.into_iter().filter_map(|(table, key, path)| Some((table, key, path?.as_path())));
        let train = self.data.train.paths().map(|path| ("data", "train", path));
        let eval =
            self.data.eval.iter().flat_map(|eval| eval.paths()).map(|path| ("data", "eval", path));
        for (table, key, path) in paths.chain(train).chain(eval) {
            if !path.exists() {
                let what = format!(
                    "there is no {}; give another path, relative to the current directory",
                    path.display()
                );
                return Err(self.error_at(table, key, &what));
            }
        }
        Ok(())
    }
}

/// Takes a key out of the tables.
fn remove(tables: &mut toml::Table, table: &TableId, key: &str) {
    let entries = match (table.item, table.name.split_once('.')) {
        (Some(index), Some((table, list))) => tables
            .get_mut(table)
            .and_then(|table| table.get_mut(list))
            .and_then(|list| list.get_mut(index)),
        _ => tables.get_mut(&table.name),
    };
    if let Some(entries) = entries.and_then(toml::Value::as_table_mut) {
        entries.remove(key);
    }
}

/// The keys of a configuration that [`Run::to_toml`] has written, as [`Run::keys`] gives them;
/// `None` where `text` is not one.
pub fn keys(text: &str) -> Option<BTreeMap<String, String>> {
    let tables: toml::Table = text.parse().ok()?;
    let mut keys = BTreeMap::new();
    for (table, value) in &tables {
        keys.extend(
            value
                .as_table()?
                .iter()
                .map(|(key, value)| (format!("{table}.{key}"), value.to_string())),
        );
    }
    Some(keys)
}
