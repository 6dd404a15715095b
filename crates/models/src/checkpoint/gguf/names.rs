//! llama.cpp's names and row order, turned into Hugging Face's.

use tch::{TchError, Tensor};

/// The Hugging Face name of a tensor of a GGUF file of the Llama architecture; an unknown name
/// stays as it is, to be reported as the user's file has it.
pub(super) fn hugging_face(name: &str) -> String {
    outside_layers(name).or_else(|| in_layer(name)).unwrap_or_else(|| name.to_owned())
}

fn outside_layers(name: &str) -> Option<String> {
    let (stem, suffix) = name.rsplit_once('.')?;
    let module = match stem {
        "token_embd" => "model.embed_tokens",
        "output_norm" => "model.norm",
        "output" => "lm_head",
        _ => return None,
    };
    Some(format!("{module}.{suffix}"))
}

fn in_layer(name: &str) -> Option<String> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (stem, suffix) =
        rest.split_once('.').filter(|(_, suffix)| matches!(*suffix, "weight" | "bias"))?;
    let module = match stem {
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{module}.{suffix}"))
}

/// The head counts of the projections that rotary embeddings turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rotary {
    /// Heads of the query projection.
    pub q: i64,
    /// Heads of the key projection.
    pub k: i64,
}

impl Rotary {
    /// The head count of the projection that `name` belongs to, if its rows are permuted.
    pub fn heads(&self, name: &str) -> Option<i64> {
        let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
        match module.rsplit_once('.') {
            Some((_, "q_proj")) => Some(self.q),
            Some((_, "k_proj")) => Some(self.k),
            _ => None,
        }
    }
}

/// Puts the rows of a query or key projection (`[heads * head_dim, …]`) from llama.cpp's order,
/// where the two rows of a rotated pair are neighbours, into Hugging Face's, where they are half a
/// head apart: the inverse of `permute` in llama.cpp's `convert_hf_to_gguf.py`.
pub(super) fn half_split(tensor: &Tensor, heads: i64) -> Result<Tensor, TchError> {
    let shape = tensor.size();
    let pairs = shape.first().copied().unwrap_or(0) / heads / 2;
    tensor
        .f_reshape([heads, pairs, 2, -1])?
        .f_transpose(1, 2)?
        .f_contiguous()?
        .f_view(shape.as_slice())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn names_are_those_of_hugging_face() {
        let pairs = [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output_norm.weight", "model.norm.weight"),
            ("output.weight", "lm_head.weight"),
            ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
            ("blk.0.attn_k.bias", "model.layers.0.self_attn.k_proj.bias"),
            ("blk.7.attn_v.weight", "model.layers.7.self_attn.v_proj.weight"),
            ("blk.12.attn_output.weight", "model.layers.12.self_attn.o_proj.weight"),
            ("blk.3.ffn_gate.weight", "model.layers.3.mlp.gate_proj.weight"),
            ("blk.3.ffn_up.bias", "model.layers.3.mlp.up_proj.bias"),
            ("blk.3.ffn_down.weight", "model.layers.3.mlp.down_proj.weight"),
            ("blk.3.attn_norm.weight", "model.layers.3.input_layernorm.weight"),
            ("blk.3.ffn_norm.weight", "model.layers.3.post_attention_layernorm.weight"),
            ("rope_freqs.weight", "rope_freqs.weight"),
            ("blk.3.ffn_gate_exps.weight", "blk.3.ffn_gate_exps.weight"),
            ("blk.x.attn_q.weight", "blk.x.attn_q.weight"),
        ];
        for (gguf, expected) in pairs {
            assert_eq!(hugging_face(gguf), expected);
        }
    }

    /// `permute` of llama.cpp's converter, as it is written there.
    fn permute(tensor: &Tensor, heads: i64) -> Tensor {
        let shape = tensor.size();
        tensor.reshape([heads, 2, shape[0] / heads / 2, -1]).transpose(1, 2).reshape(&shape)
    }

    #[test]
    fn half_split_undoes_the_converters_permutation() {
        for (heads, head_dim, columns) in [(1, 2, 3), (3, 8, 5), (4, 6, 1)] {
            let rows = heads * head_dim;
            let weight =
                Tensor::arange(rows * columns, (Kind::Float, Device::Cpu)).view([rows, columns]);
            let back = half_split(&permute(&weight, heads), heads).unwrap();
            assert!(back.equal(&weight) && back.is_contiguous());
        }
        let bias = Tensor::arange(8, (Kind::Float, Device::Cpu));
        assert!(!permute(&bias, 2).equal(&bias));
        assert!(half_split(&permute(&bias, 2), 2).unwrap().equal(&bias));
    }

    #[test]
    fn the_second_row_of_a_pair_moves_half_a_head_away() {
        // One head of four rows: pairs (a0, b0), (a1, b1) stored as a0 b0 a1 b1.
        let stored = Tensor::from_slice(&[10.0f32, 20.0, 11.0, 21.0]);
        assert!(
            half_split(&stored, 1)
                .unwrap()
                .equal(&Tensor::from_slice(&[10.0f32, 11.0, 20.0, 21.0]))
        );
    }

    #[test]
    fn only_queries_and_keys_are_permuted() {
        let heads = Rotary { q: 9, k: 3 };
        assert_eq!(heads.heads("model.layers.0.self_attn.q_proj.weight"), Some(9));
        assert_eq!(heads.heads("model.layers.0.self_attn.k_proj.bias"), Some(3));
        for name in [
            "model.layers.0.self_attn.v_proj.weight",
            "model.norm.weight",
            "rope_freqs.weight",
            "q_proj",
        ] {
            assert_eq!(heads.heads(name), None, "{name}");
        }
    }
}
