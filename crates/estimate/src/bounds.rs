//! Sizes up to which the sums of an estimate can be counted in 64 bits.

use models::ModelConfig;

/// The columns of an adapter's factors, at most: a configuration gives no more.
const COLUMNS: u128 = 1 << 16;
/// Bytes that an element of one width of a layer stands for, at most: of the tensors that have it,
/// of their gradients, optimizer states and workspaces.
const BYTES: u128 = 1 << 10;
/// What may be counted; no memory is as large.
const MOST: u128 = 1 << 62;

/// Whether the bytes of a step of `batch` sequences of `tokens` tokens can be counted.
pub(crate) fn can_be_counted(model: &ModelConfig, batch: u64, tokens: u64) -> bool {
    let number = |size: i64| u128::from(size.unsigned_abs());
    let heads = number(model.num_heads);
    let (experts, expert_widths) = model.experts.map_or((0, 0), |experts| {
        let chosen = number(experts.routing.per_token) * number(experts.width);
        (number(experts.count), chosen + number(experts.shared_width) + number(experts.count))
    });
    let widths = number(model.hidden_size)
        + number(model.intermediate_size)
        + heads * (number(model.head_dim) + number(model.value_dim()))
        + expert_widths;
    let layers = number(model.num_layers);
    let (batch, tokens) = (u128::from(batch), u128::from(tokens));
    let per_token = layers * (widths + heads * tokens) + number(model.vocab_size);
    let of_tokens = (batch * tokens).checked_mul(per_token);
    let of_adapter = layers * (experts + 1) * widths * COLUMNS;
    // A site's basis is a square of its width.
    let of_bases = layers * widths * widths;
    of_tokens.is_some_and(|elements| elements < MOST / BYTES)
        && [of_adapter, of_bases].into_iter().all(|elements| elements < MOST / BYTES)
}
