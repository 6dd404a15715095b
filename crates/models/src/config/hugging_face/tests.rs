#![allow(clippy::unwrap_used)]

use serde_json::json;

use layers::{Activation, Groups, Pairs, RmsWeight, Scoring};

use super::*;
use crate::config::{
    EmbeddingScale, HeadNorm, LayerConfig, LayerRope, NormKind, RopeConfig, RopeScaling,
};
use crate::{EncoderConfig, InputConfig, ModelConfig};

fn parse(value: Value) -> Result<ModelConfig> {
    let file = Path::new("some/config.json");
    read(file, value.as_object().unwrap())?.into_decoder(file)
}

/// A small model with `changes` on top.
fn small(changes: Value) -> Result<ModelConfig> {
    of("llama", changes)
}

/// A small model of a family with `changes` on top.
fn of(model_type: &str, changes: Value) -> Result<ModelConfig> {
    let heads = if model_type == "deepseek_v3" { 4 } else { 2 };
    let mut value = json!({
        "model_type": model_type, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": heads, "num_hidden_layers": 4,
        "n_embd": 64, "n_head": 4
    });
    for (key, change) in changes.as_object().unwrap() {
        value[key] = change.clone();
    }
    parse(value)
}

#[test]
fn defaults_are_those_of_transformers() {
    let config = parse(json!({"model_type": "llama"})).unwrap();
    assert_eq!(
        (config.hidden_size, config.intermediate_size, config.num_layers),
        (4096, 11008, 32)
    );
    assert_eq!((config.num_heads, config.num_kv_heads, config.head_dim), (32, 32, 128));
    assert_eq!((config.vocab_size, config.max_positions, config.norm_eps), (32000, 2048, 1e-6));
    assert_eq!(config.rope, RopeConfig { theta: 10_000.0, scaling: RopeScaling::None });
    assert_eq!(
        (config.norm, config.activation),
        (NormKind::Rms(RmsWeight::Rounded), Activation::Silu)
    );
    assert_eq!(
        (config.tie_embeddings, config.attention.bias, config.mlp_bias),
        (false, false, false)
    );
    assert_eq!(
        (config.bos_token_id, config.eos_token_ids, config.pad_token_id),
        (Some(1), vec![2], None)
    );
    let layer = LayerConfig {
        window: None,
        rope: LayerRope::Global,
        scale: 1.0 / 128f64.sqrt(),
        mixture: false,
    };
    assert_eq!(config.layers, vec![layer; 32]);
}

#[test]
fn absent_null_and_several_are_told_apart() {
    let config = small(json!({
        "head_dim": null, "num_key_value_heads": 2, "eos_token_id": [7, 8], "bos_token_id": null,
        "pad_token_id": -1, "max_position_embeddings": 8192.0, "some_future_key": {"a": 1}
    }))
    .unwrap();
    assert_eq!((config.head_dim, config.num_kv_heads, config.max_positions), (16, 2, 8192));
    assert_eq!((config.bos_token_id, config.pad_token_id), (None, None));
    assert_eq!(config.eos_token_ids, [7, 8]);
    assert_eq!(small(json!({"head_dim": 24})).unwrap().head_dim, 24);
    assert!(small(json!({"eos_token_id": null})).unwrap().eos_token_ids.is_empty());
}

#[test]
fn every_spelling_of_rope_scaling_is_read() {
    let llama3 = json!({
        "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        "rope_type": "llama3"
    });
    let expected = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let scaling = |changes| small(changes).unwrap().rope;
    assert_eq!(scaling(json!({"rope_scaling": llama3})).scaling, expected);
    let mut newer = llama3.clone();
    newer["rope_theta"] = json!(500000.0);
    let newer = scaling(json!({"rope_parameters": newer}));
    assert_eq!((newer.theta, newer.scaling), (500_000.0, expected));
    let linear =
        scaling(json!({"rope_scaling": {"type": "linear", "factor": 2}, "rope_theta": 1e6}));
    assert_eq!((linear.theta, linear.scaling), (1e6, RopeScaling::Linear { factor: 2.0 }));
    let dynamic = scaling(json!({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}));
    assert_eq!(dynamic.scaling, RopeScaling::Dynamic { factor: 4.0, max_positions: 2048 });
    let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "mscale": 1.0, "mscale_all_dim": 1.0});
    let expected = RopeScaling::Yarn {
        factor: 4.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_max_position_embeddings: 512,
        truncate: true,
        attention_factor: 1.0,
        all_dimensions: Some(1.0),
    };
    assert_eq!(scaling(json!({"rope_scaling": yarn})).scaling, expected);
    let factors = json!({"rope_type": "longrope", "short_factor": vec![1.0; 8], "long_factor": vec![2.0; 8], "factor": 4.0});
    let expected = RopeScaling::LongRope {
        short_factor: vec![1.0; 8],
        long_factor: vec![2.0; 8],
        original_max_position_embeddings: 2048,
        attention_factor: (1.0 + 4f64.ln() / 2048f64.ln()).sqrt(),
    };
    assert_eq!(scaling(json!({"rope_scaling": factors})).scaling, expected);
    let none = scaling(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}));
    assert_eq!((none.theta, none.scaling), (7.0, RopeScaling::None));
}

#[test]
fn options_that_change_the_mathematics_are_refused_by_name() {
    let cases = [
        (json!({"hidden_act": "prelu"}), "hidden_act"),
        (json!({"pretraining_tp": 2}), "pretraining_tp"),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (json!({"quantization_config": {"quant_method": "gptq"}}), "quantization_config"),
        (json!({"rope_scaling": {"type": "ntk", "factor": 4.0}}), "rope_scaling.rope_type"),
        (json!({"rope_parameters": {"rope_type": "mrope"}}), "rope_parameters.rope_type"),
        (json!({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}), "rope_parameters"),
    ];
    for (changes, key) in cases {
        let refused = small(changes.clone()).unwrap_err();
        assert!(
            matches!(&refused, Error::UnsupportedOption { option, .. } if option == key),
            "{changes}: {refused}"
        );
        assert!(refused.to_string().contains("some/config.json"), "{refused}");
    }
    small(json!({"pretraining_tp": 1, "attention_dropout": 0.1, "hidden_act": "gelu"})).unwrap();
}

#[test]
fn impossible_values_are_refused_by_key() {
    let cases = [
        (json!({"hidden_size": 0}), "hidden_size"),
        (json!({"hidden_size": "64"}), "hidden_size"),
        (json!({"num_hidden_layers": -1}), "num_hidden_layers"),
        (json!({"num_hidden_layers": 1e12 as i64}), "num_hidden_layers"),
        (json!({"attention_dropout": 1.0}), "attention_dropout"),
        (json!({"vocab_size": 1e18 as i64}), "vocab_size"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        (json!({"num_attention_heads": 0}), "head_dim"),
        (json!({"num_attention_heads": 3}), "head_dim"),
        (json!({"head_dim": 15}), "head_dim"),
        (json!({"rms_norm_eps": 0}), "rms_norm_eps"),
        (json!({"rope_theta": -1.0}), "rope_theta"),
        (json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor"),
        (json!({"rope_scaling": {"type": "linear", "factor": 0}}), "rope_scaling"),
        (
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0], "factor": 2.0}}),
            "rope_scaling",
        ),
        (json!({"tie_word_embeddings": 1}), "tie_word_embeddings"),
        (json!({"eos_token_id": ["</s>"]}), "eos_token_id"),
        (json!({"model_type": null}), "model_type"),
    ];
    for (changes, expected) in cases {
        let refused = small(changes.clone()).unwrap_err();
        assert!(
            matches!(&refused, Error::InvalidConfig { key, .. } if key == expected),
            "{changes}: {refused}"
        );
    }
}

#[test]
fn an_unknown_architecture_is_told_what_is_supported() {
    let refused = small(json!({"model_type": "mamba"})).unwrap_err().to_string();
    for part in ["mamba", "some/config.json"].iter().chain(SUPPORTED_MODEL_TYPES) {
        assert!(refused.contains(part), "{refused}");
    }
}

#[test]
fn every_family_is_read_and_has_tensors() {
    for model_type in SUPPORTED_MODEL_TYPES {
        let (expected, layers) = match encoder(model_type, json!({})) {
            Ok(config) => (crate::Classifier::tensor_shapes(&config), config.num_layers()),
            Err(_) => {
                let config =
                    of(model_type, json!({})).unwrap_or_else(|why| panic!("{model_type}: {why}"));
                assert_eq!(
                    (config.model_type.as_str(), config.layers.len()),
                    (*model_type, config.num_layers as usize)
                );
                (crate::Decoder::tensor_shapes(&config), config.layers.len())
            }
        };
        assert!(expected.len() > 4 * layers, "{model_type}");
        let mut names: Vec<_> = expected.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), expected.len(), "{model_type}: every tensor once");
    }
}

/// An encoder of a family with nothing said but `changes`.
fn encoder(model_type: &str, changes: Value) -> Result<EncoderConfig> {
    let mut table = changes.as_object().unwrap().clone();
    table.insert("model_type".into(), model_type.into());
    let file = Path::new("some/config.json");
    read(file, &table)?.encoder(file).cloned()
}

#[test]
fn defaults_of_encoders_are_those_of_transformers() {
    let bert = encoder("bert", json!({})).unwrap();
    let InputConfig::Text(text) = &bert.input else { panic!("text") };
    assert_eq!(
        (text.vocab_size, text.max_tokens(), text.token_types, text.padding),
        (30522, 512, 2, Some(0))
    );
    assert_eq!(
        (bert.width(), bert.num_layers(), bert.stages[0].heads, bert.stages[0].inner),
        (768, 12, 12, 3072)
    );
    assert_eq!(
        (bert.norm_eps, bert.activation, bert.dropout.sublayers, bert.attention.dropout),
        (1e-12, Activation::Gelu, [0.1; 2], 0.1)
    );
    assert_eq!(
        (bert.labels.names().to_vec(), bert.problem),
        (vec!["LABEL_0".to_owned(), "LABEL_1".into()], None)
    );
    let InputConfig::Text(text) = encoder("roberta", json!({})).unwrap().input else {
        panic!("text")
    };
    assert_eq!(
        (text.vocab_size, text.max_tokens(), text.padding),
        (50265, 510, Some(1)),
        "positions begin behind the padding's"
    );

    let swin = encoder("swin", json!({})).unwrap();
    let sizes: Vec<_> = swin
        .stages
        .iter()
        .map(|stage| (stage.width, stage.heads, stage.inner, stage.layers.len()))
        .collect();
    assert_eq!(sizes, [(96, 3, 384, 2), (192, 6, 768, 2), (384, 12, 1536, 6), (768, 24, 3072, 2)]);
    let layers: Vec<_> = swin.stages.iter().flat_map(|stage| &stage.layers).collect();
    assert_eq!(
        (layers[0].drop_path, layers[11].drop_path, layers[0].shift, layers[1].shift),
        (0.0, 0.1, 0, 3)
    );
    assert_eq!(swin.stage_of(4).width, 384);

    let siglip = encoder("siglip", json!({"vision_config": {"num_hidden_layers": 3}, "id2label": {"1": "b", "0": "a", "2": "c"}})).unwrap();
    let InputConfig::Image(image) = &siglip.input else { panic!("images") };
    assert_eq!(
        (siglip.num_layers(), image.grid(), siglip.activation),
        (3, [14, 14], Activation::GeluTanh)
    );
    assert_eq!(siglip.labels.number("c"), Some(2));
    let refused =
        encoder("vit", json!({"id2label": {"0": "a", "2": "b"}})).unwrap_err().to_string();
    assert!(
        refused.contains("id2label") && refused.contains("is not one of the 2 classes"),
        "{refused}"
    );
    assert_eq!(encoder("vit", json!({"num_labels": 5})).unwrap().labels.len(), 5);
}

#[test]
fn windows_are_given_or_derived() {
    let windows = |model_type, changes| -> Vec<Option<i64>> {
        of(model_type, changes).unwrap().layers.iter().map(|layer| layer.window).collect()
    };
    let (none, all) = (vec![None; 4], vec![Some(6); 4]);
    assert_eq!(windows("mistral", json!({})), [Some(4096); 4], "the class has a default");
    assert_eq!(windows("mistral", json!({"sliding_window": null})), none);
    assert_eq!(windows("phi3", json!({"sliding_window": 6})), all);
    assert_eq!(windows("qwen2", json!({"sliding_window": 6})), none, "use_sliding_window decides");
    let used = json!({"sliding_window": 6, "use_sliding_window": true, "max_window_layers": 3});
    assert_eq!(windows("qwen3", used.clone()), [None, None, None, Some(6)]);
    assert_eq!(windows("qwen3_moe", used), all);
    assert_eq!(windows("gemma2", json!({"sliding_window": 6})), [Some(6), None, Some(6), None]);
    assert_eq!(
        windows("gemma3_text", json!({"sliding_window": 6, "sliding_window_pattern": 2})),
        [Some(6), None, Some(6), None]
    );
    let types = json!({"sliding_window": 6, "layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention"]});
    assert_eq!(windows("cohere2", types.clone()), [None, Some(6), None, None]);
    let ropes: Vec<_> =
        of("cohere2", types.clone()).unwrap().layers.iter().map(|layer| layer.rope).collect();
    assert_eq!(ropes, [LayerRope::Absent, LayerRope::Global, LayerRope::Absent, LayerRope::Absent]);
    let ropes: Vec<_> =
        of("gemma3_text", types).unwrap().layers.iter().map(|layer| layer.rope).collect();
    assert_eq!(ropes, [LayerRope::Global, LayerRope::Local, LayerRope::Global, LayerRope::Global]);
}

#[test]
fn what_families_add_is_read() {
    let gemma3 = json!({"rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5}, "sliding_attention": {"rope_theta": 7.0}
    }});
    let gemma3 = of("gemma3_text", gemma3).unwrap();
    assert_eq!(
        gemma3.rope,
        RopeConfig { theta: 5e5, scaling: RopeScaling::Linear { factor: 8.0 } }
    );
    assert_eq!(gemma3.local_rope, Some(RopeConfig { theta: 7.0, scaling: RopeScaling::None }));
    assert_eq!(
        (gemma3.attention.soft_cap, gemma3.embedding.scale),
        (None, EmbeddingScale::RootOfWidth)
    );
    let gemma2 = of("gemma2", json!({"attn_logit_softcapping": null})).unwrap();
    assert_eq!(
        (gemma2.attention.soft_cap, gemma2.head.soft_cap, gemma2.head_dim),
        (None, Some(30.0), 256)
    );
    let phi = of("phi", json!({"qk_layernorm": true, "hidden_act": "relu"})).unwrap();
    assert_eq!(
        (phi.attention.head_norm, phi.attention.rotary_width, phi.activation),
        (Some(HeadNorm::PerHead), 8, Activation::Relu)
    );
    let glm = of("glm4", json!({"head_dim": 16, "partial_rotary_factor": 0.25})).unwrap();
    assert_eq!((glm.attention.rotary_width, glm.attention.rotary_pairs), (4, Pairs::Neighbours));
    assert_eq!((glm.attention.bias, glm.attention.output_bias), (true, false));
    let gpt2 =
        of("gpt2", json!({"scale_attn_by_inverse_layer_idx": true, "n_inner": null})).unwrap();
    assert_eq!((gpt2.layers[3].scale, gpt2.intermediate_size), (1.0 / 16.0, 256));
    let deepseek = of(
        "deepseek_v3",
        json!({"q_lora_rank": null, "n_routed_experts": 8, "n_group": 2, "topk_group": 1}),
    )
    .unwrap();
    let (latent, experts) = (deepseek.attention.latent.unwrap(), deepseek.experts.unwrap());
    assert_eq!((latent.query_rank, deepseek.head_dim, deepseek.value_dim()), (None, 192, 128));
    assert_eq!(
        (experts.routing.groups, experts.routing.scoring),
        (Some(Groups { count: 2, chosen: 1 }), Scoring::Sigmoid)
    );
    let qwen = of(
        "qwen3_moe",
        json!({"mlp_only_layers": [1], "decoder_sparse_step": 2, "norm_topk_prob": true}),
    )
    .unwrap();
    assert_eq!(
        qwen.layers.iter().map(|layer| layer.mixture).collect::<Vec<_>>(),
        [false, false, false, true]
    );
    assert_eq!(qwen.experts.unwrap().routing.normalised, Some(0.0));
}

#[test]
fn options_of_families_that_are_not_there_are_refused_by_name() {
    let cases = [
        (
            "gemma3_text",
            json!({"use_bidirectional_attention": true}),
            "use_bidirectional_attention",
        ),
        ("mixtral", json!({"output_router_logits": true}), "output_router_logits"),
        ("mixtral", json!({"router_jitter_noise": 0.1}), "router_jitter_noise"),
        ("gpt2", json!({"add_cross_attention": true}), "add_cross_attention"),
        (
            "qwen2",
            json!({"layer_types": ["full_attention", "full_attention", "full_attention", "linear_attention"]}),
            "layer_types",
        ),
        ("deepseek_v3", json!({"num_key_value_heads": 2}), "num_key_value_heads"),
        ("deepseek_v3", json!({"head_dim": 128}), "head_dim"),
        ("mistral", json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
    ];
    for (model_type, changes, key) in cases {
        let refused = of(model_type, changes.clone()).unwrap_err();
        assert!(
            matches!(&refused, Error::UnsupportedOption { option, .. } if option == key),
            "{model_type} {changes}: {refused}"
        );
    }
    let cases = [
        ("gemma2", json!({"sliding_window": null}), "layer_types"),
        ("qwen2", json!({"layer_types": ["full_attention"]}), "layer_types"),
        ("phi3", json!({"sliding_window": 0}), "sliding_window"),
        ("granite", json!({"logits_scaling": 0}), "logits_scaling"),
        ("mixtral", json!({"num_experts_per_tok": 9}), "num_experts_per_tok"),
        ("deepseek_v3", json!({"n_group": 3}), "n_group"),
    ];
    for (model_type, changes, expected) in cases {
        let refused = of(model_type, changes.clone()).unwrap_err();
        assert!(
            matches!(&refused, Error::InvalidConfig { key, .. } if key == expected),
            "{model_type} {changes}: {refused}"
        );
    }
}
