//! SmolLM2-135M-Instruct as its publishers quantized it; `ci/setup` puts it into place.

use super::*;

const MODEL: &str = "../../.deps/models/SmolLM2-135M-Instruct.Q4_1.gguf";

fn open() -> Checkpoint {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL);
    assert!(path.exists(), "missing {}; run ci/setup", path.display());
    Checkpoint::open(&path).unwrap()
}

#[test]
fn smollm2_is_what_its_card_says() {
    let checkpoint = open();
    let config = checkpoint.config().unwrap();
    assert_eq!((config.num_layers, config.hidden_size, config.intermediate_size), (30, 576, 1536));
    assert_eq!((config.num_heads, config.num_kv_heads, config.head_dim), (9, 3, 64));
    assert_eq!((config.vocab_size, config.max_positions), (49152, 8192));
    assert_eq!((config.rope.theta, config.norm_eps), (1e5, 1e-5));
    assert!(config.tie_embeddings && !config.attention.bias && !config.mlp_bias);
    assert_eq!((config.bos_token_id, config.pad_token_id), (Some(1), Some(2)));
    assert_eq!(config.eos_token_ids, [2]);
    checkpoint.check(&expected(config)).unwrap();
}

#[test]
fn smollm2_brings_its_tokenizer_and_template() {
    let checkpoint = open();
    let TokenizerSource::Gguf(tokenizer) = checkpoint.tokenizer() else { panic!("no tokenizer") };
    assert_eq!((tokenizer.tokens.len(), tokenizer.merges.len()), (49152, 48900));
    assert_eq!((tokenizer.model.as_str(), tokenizer.pre.as_deref()), ("gpt2", Some("smollm")));
    assert!(!tokenizer.add_bos);
    assert_eq!(tokenizer.eos.map(|id| tokenizer.tokens[id as usize].as_str()), Some("<|im_end|>"));
    assert!(checkpoint.chat_templates().default.as_deref().unwrap().contains("<|im_start|>"));
}

/// The logits after the last of `ids`, computed in the plainest way (transformers'
/// `LlamaForCausalLM`, eager attention).
fn next_token_logits(checkpoint: &Checkpoint, ids: &Tensor) -> Tensor {
    let config = checkpoint.config().unwrap();
    let read = |name: &str| {
        checkpoint.tensor(&format!("{name}.weight"), Kind::Float, Device::Cpu).unwrap()
    };
    let norm = |x: &Tensor, name: &str| {
        let square = x.square().mean_dim([-1].as_slice(), true, Kind::Float);
        x * (square + config.norm_eps).rsqrt() * read(name)
    };
    let tokens = ids.size()[0];
    let frequencies = Tensor::from_slice(&config.rope.inverse_frequencies(config.head_dim, 1));
    let angles = Tensor::arange(tokens, (Kind::Double, Device::Cpu))
        .outer(&frequencies)
        .to_kind(Kind::Float);
    let angles = Tensor::cat(&[&angles, &angles], -1);
    let heads = |x: Tensor, count: i64| x.view([tokens, count, config.head_dim]).transpose(0, 1);
    let turn = |x: Tensor| {
        let halves = x.chunk(2, -1);
        &x * angles.cos() + Tensor::cat(&[&halves[1].neg(), &halves[0]], -1) * angles.sin()
    };
    let future =
        Tensor::full([tokens, tokens], f64::NEG_INFINITY, (Kind::Float, Device::Cpu)).triu(1);
    let embedding = read("model.embed_tokens");
    let mut x = embedding.index_select(0, ids);
    for layer in 0..config.num_layers {
        let part = |name: &str| format!("model.layers.{layer}.{name}");
        let project = |x: &Tensor, name: &str| x.matmul(&read(&part(name)).tr());
        let input = norm(&x, &part("input_layernorm"));
        let q = turn(heads(project(&input, "self_attn.q_proj"), config.num_heads));
        let groups = config.num_heads / config.num_kv_heads;
        let repeat = |x: Tensor| x.repeat_interleave_self_int(groups, 0, None::<i64>);
        let k = repeat(turn(heads(project(&input, "self_attn.k_proj"), config.num_kv_heads)));
        let v = repeat(heads(project(&input, "self_attn.v_proj"), config.num_kv_heads));
        let scores = q.matmul(&k.transpose(1, 2)) / (config.head_dim as f64).sqrt() + &future;
        let mixed =
            scores.softmax(-1, Kind::Float).matmul(&v).transpose(0, 1).reshape([tokens, -1]);
        x += project(&mixed, "self_attn.o_proj");
        let input = norm(&x, &part("post_attention_layernorm"));
        let inner = project(&input, "mlp.gate_proj").silu() * project(&input, "mlp.up_proj");
        x += project(&inner, "mlp.down_proj");
    }
    embedding.matmul(&norm(&x.select(0, tokens - 1), "model.norm"))
}

/// Names, row order, expansion and rotary base are all right, or the model does not say what
/// transformers recorded.
#[test]
fn smollm2_says_what_transformers_recorded() {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/golden/golden.safetensors");
    let recorded = crate::TensorFile::open(&recorded).unwrap();
    let checkpoint = open();
    for prompt in ["prompt0", "prompt1"] {
        let tensor = |name: &str| recorded.tensor(&format!("{prompt}.{name}")).unwrap();
        let logits = next_token_logits(&checkpoint, &tensor("input_ids").view([-1]));
        let (values, ids) = logits.topk(10, -1, true, true);
        assert!(ids.equal(&tensor("top_ids").view([-1])), "{prompt}");
        let difference = (values - tensor("top_logits").view([-1])).abs().max().double_value(&[]);
        assert!(difference < 1e-3, "{prompt}: {difference}");
    }
}
