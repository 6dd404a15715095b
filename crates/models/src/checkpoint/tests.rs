#![allow(clippy::unwrap_used)]

use super::*;

mod gguf_file;
mod hf_directory;
mod real_model;

/// The tensors of a Llama model, by hand: what the architecture is to expect.
fn expected(config: &ModelConfig) -> Vec<(String, Vec<i64>)> {
    let (hidden, mlp) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let mut all = vec![
        ("model.embed_tokens.weight".to_owned(), vec![config.vocab_size, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    if !config.tie_embeddings {
        all.push(("lm_head.weight".to_owned(), vec![config.vocab_size, hidden]));
    }
    for layer in 0..config.num_layers {
        let parts = [
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![q, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, q]),
            ("mlp.gate_proj", vec![mlp, hidden]),
            ("mlp.up_proj", vec![mlp, hidden]),
            ("mlp.down_proj", vec![hidden, mlp]),
        ];
        for (part, shape) in parts {
            all.push((format!("model.layers.{layer}.{part}.weight"), shape));
        }
    }
    all
}

#[test]
fn a_checkpoint_can_be_read_from_many_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Checkpoint>();
}

#[test]
fn paths_that_are_no_models_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    assert!(
        matches!(Checkpoint::open(&absent), Err(Error::MissingFile { path, .. }) if path == absent)
    );
    assert!(matches!(Checkpoint::open(dir.path()), Err(Error::NotAModel { .. })));
    let other = dir.path().join("model.bin");
    std::fs::write(&other, "x").unwrap();
    assert!(matches!(Checkpoint::open(&other), Err(Error::NotAModel { .. })));
    std::fs::write(dir.path().join("weights.gguf"), "x").unwrap();
    let hint = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(hint.contains("weights.gguf"), "{hint}");
}
