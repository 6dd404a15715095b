//! What a name that is unknown most likely means.

use crate::{closest::closest, registry};

/// Names of transformers, TRL, PEFT, axolotl and of scripts around them, with ours.
const ALIASES: &[(&str, &str)] = &[
    ("adam_beta1", "optimizer.betas"),
    ("adam_beta2", "optimizer.betas"),
    ("adam_epsilon", "optimizer.eps"),
    ("base_model", "model.path"),
    ("bf16", "model.dtype"),
    ("cutoff_len", "data.sequence_length"),
    ("dataloader_drop_last", "data.overflow"),
    ("dataset_text_field", "data.text_key"),
    ("datasets", "data.train"),
    ("deepspeed", "optimizer.zero_stage"),
    ("eval_batch_size", "run.batch_size"),
    ("eval_steps", "run.eval_every"),
    ("fp16", "model.dtype"),
    ("gradient_accumulation_steps", "run.micro_batch_size"),
    ("gradient_checkpointing", "activations.sites"),
    ("gradient_clipping", "optimizer.clip_grad_norm"),
    ("init_lora_weights", "lora.init"),
    ("load_in_4bit", "model.quantization"),
    ("logging_steps", "run.log_every"),
    ("lora_alpha", "lora.alpha"),
    ("lora_dropout", "lora.dropout"),
    ("lora_model_dir", "lora.adapter"),
    ("lora_r", "lora.rank"),
    ("lora_target_modules", "lora.target_modules"),
    ("loraplus_lr_ratio", "lora.lora_plus_ratio"),
    ("lr", "optimizer.learning_rate"),
    ("lr_scheduler", "schedule.method"),
    ("lr_scheduler_type", "schedule.method"),
    ("max_grad_norm", "optimizer.clip_grad_norm"),
    ("max_length", "data.sequence_length"),
    ("max_seq_len", "data.sequence_length"),
    ("max_seq_length", "data.sequence_length"),
    ("max_steps", "run.steps"),
    ("micro_batch_size", "run.micro_batch_size"),
    ("model_name_or_path", "model.path"),
    ("num_epochs", "run.epochs"),
    ("num_nodes", "cluster.nodes"),
    ("num_train_epochs", "run.epochs"),
    ("optim", "optimizer.method"),
    ("output_dir", "run.dir"),
    ("partition", "cluster.queue"),
    ("per_device_train_batch_size", "run.batch_size"),
    ("r", "lora.rank"),
    ("sample_packing", "data.packing"),
    ("save_steps", "checkpoint.every"),
    ("save_total_limit", "checkpoint.keep"),
    ("seq_len", "data.sequence_length"),
    ("sequence_len", "data.sequence_length"),
    ("tokenizer_name_or_path", "model.tokenizer"),
    ("torch_dtype", "model.dtype"),
    ("train_file", "data.train"),
    ("use_dora", "lora.use_dora"),
    ("validation_file", "data.eval"),
    ("warmup_steps", "schedule.warmup_steps"),
    ("world_size", "cluster.ranks"),
];

/// Keys that have another name than in earlier versions, with that of now.
const RENAMED: &[(&str, &str)] = &[
    ("activations.columns", "activations.sketch"),
    ("activations.difference", "activations.delta"),
    ("activations.overrides.columns", "activations.overrides.sketch"),
    ("optimizer.name", "optimizer.method"),
    ("optimizer.split", "optimizer.zero_stage"),
    ("schedule.kind", "schedule.method"),
];

/// What `key` in `table`, which has no such key, most likely means, as a message names it: ``
/// `rank` `` in the same table, `[lora] rank` in another.
pub(crate) fn key(table: &str, key: &str, known: &[&str]) -> Option<String> {
    let renamed = format!("{table}.{key}");
    let of = |names: &[(&str, &'static str)], name: &str| {
        names.iter().find(|(other, _)| *other == name).map(|(_, ours)| *ours)
    };
    let here = |name: &str| match name.rsplit_once('.') {
        Some((home, key)) if home == table => format!("`{key}`"),
        Some((home, key)) => format!("[{home}] {key}"),
        None => format!("`{name}`"),
    };
    of(RENAMED, &renamed)
        .map(here)
        .or_else(|| closest(key, known).map(here))
        .or_else(|| home_of(key).map(|home| format!("[{home}] {key}")))
        .or_else(|| of(ALIASES, &key.to_lowercase()).map(here))
}

/// The key that a `name` outside all tables most likely means.
pub(crate) fn key_anywhere(name: &str) -> Option<String> {
    home_of(name).map(|home| format!("[{home}] {name}")).or_else(|| key("", name, &[]))
}

/// The first table that has a key of this name.
fn home_of(key: &str) -> Option<&'static str> {
    registry::tables()
        .iter()
        .find(|table| !table.is_list && table.keys.iter().any(|known| known.name == key))
        .map(|table| table.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_tools_lead_to_keys_that_there_are() {
        for (theirs, ours) in ALIASES.iter().chain(RENAMED) {
            let (table, key) = ours.rsplit_once('.').unwrap_or_default();
            assert!(registry::key(table, key).is_some(), "{theirs} leads to {ours}");
        }
        assert_eq!(key("optimizer", "lr", &[]).as_deref(), Some("`learning_rate`"));
        assert_eq!(key("run", "num_train_epochs", &[]).as_deref(), Some("`epochs`"));
        assert_eq!(key("lora", "lora_r", &[]).as_deref(), Some("`rank`"));
        assert_eq!(key_anywhere("bf16").as_deref(), Some("[model] dtype"));
    }
}
