use config::{Quantization, Run};
use models::{Checkpoint, ModelConfig};

use crate::Result;
use crate::lora::AdapterSource;

/// The model's quantization for `[model] quantization`.
pub fn model_quantization(key: Quantization) -> models::Quantization {
    match key {
        Quantization::None => models::Quantization::None,
        Quantization::Nf4 => models::Quantization::Nf4,
        Quantization::Gguf => models::Quantization::Gguf,
    }
}

/// Refuses quantized weights where the model file has none, or where they would be trained.
/// `checkpoint` may be left out of a directory.
///
/// # Errors
/// The first key that does not fit.
pub fn check_quantization(
    run: &Run,
    model: &ModelConfig,
    checkpoint: Option<&Checkpoint>,
    lora: &Option<AdapterSource>,
) -> Result<()> {
    let quantization = run.model.quantization;
    if quantization == Quantization::None {
        return Ok(());
    }
    let refuse = |table, key, what: String| Err(run.error_at(table, key, &what).into());
    if quantization == Quantization::Gguf && !run.model.path.is_file() {
        let what = format!(
            "keeps the blocks of a .gguf file, and {} is none; give \"nf4\", or a .gguf file",
            run.model.path.display()
        );
        return refuse("model", "quantization", what);
    }
    // The settings of a pretrained adapter stand in the adapter.
    let (config, init, modules_to_save) = match lora {
        Some(AdapterSource::New(config)) => (&**config, "init", "modules_to_save"),
        Some(AdapterSource::Pretrained(adapter)) => (&adapter.config, "adapter", "adapter"),
        None => {
            let what = "is for weights that are frozen, and without a [lora] table all are trained; add one, or leave it out";
            return refuse("model", "quantization", what.into());
        }
    };
    if config.is_pissa() {
        let what = format!(
            "is PiSSA, which changes the weights, and [model] quantization = \"{quantization}\" freezes them; leave one out"
        );
        return refuse("lora", init, what);
    }
    let packed = model_quantization(quantization).quantized_bytes(model, checkpoint);
    if let Some((name, _)) = packed.iter().find(|(name, _)| config.saves(name)) {
        let what = format!(
            "trains {name} whole, which [model] quantization = \"{quantization}\" freezes; leave one out"
        );
        return refuse("lora", modules_to_save, what);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::lora::adapter_source;

    /// What is said of these lines of `[model]`, and of what follows them.
    fn refused(keys: &str, rest: &str) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let (path, file) = (folder.path().join("c.toml"), folder.path().join("config.json"));
        std::fs::write(
            &path,
            format!("[model]\npath = \"m\"\n{keys}\n{rest}\n[data]\ntrain = \"t\"\n"),
        )
        .unwrap();
        let text = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}"#;
        std::fs::write(&file, text).unwrap();
        let run = Run::load(&path, &[]).unwrap();
        let adapter = adapter_source(run.lora.as_ref(), &run.model).unwrap();
        let refused =
            check_quantization(&run, &ModelConfig::read(&file).unwrap(), None, &adapter).err();
        refused.map(|error| {
            assert!(error.is_input());
            error.to_string()
        })
    }

    #[test]
    fn what_cannot_be_quantized_is_refused_at_its_line() {
        let nf4 = "quantization = \"nf4\"";
        let cases = [
            (
                "quantization = \"gguf\"",
                "[lora]",
                "c.toml:3: [model] quantization: keeps the blocks of a .gguf file, and m is none; give \"nf4\"",
            ),
            (
                nf4,
                "",
                "c.toml:3: [model] quantization: is for weights that are frozen, and without a [lora] table all are trained",
            ),
            (
                nf4,
                "[lora]\ninit = \"pissa\"",
                "c.toml:5: [lora] init: is PiSSA, which changes the weights",
            ),
            (
                nf4,
                "[lora]\ntarget_modules = [\"q_proj\"]\nmodules_to_save = [\"up_proj\"]",
                "c.toml:6: [lora] modules_to_save: trains model.layers.0.mlp.up_proj.weight whole, which [model] quantization = \"nf4\" freezes",
            ),
        ];
        for (keys, rest, says) in cases {
            let message = refused(keys, rest).unwrap();
            assert!(message.contains(says) && !message.contains('\n'), "{keys} {rest}: {message}");
        }
        assert_eq!(
            refused(nf4, "[lora]\nmodules_to_save = [\"lm_head\", \"embed_tokens\", \"norm\"]"),
            None
        );
        assert_eq!(refused("quantization = \"none\"", ""), None);
    }
}
