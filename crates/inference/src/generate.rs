//! Generates text with a model and perhaps an adapter.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use autograd::random::{Distribution, derive_seed, draw};
use data::Message;
use models::{Checkpoint, Decoder, Model, read_adapter};
use setup::TextProcessor;

use crate::{Error, Result};

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    /// The text to continue; what the user says, where the model has a chat template.
    pub text: &'a str,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// The sampling temperature; 0 takes the likeliest token.
    pub temperature: f64,
    /// Nucleus sampling: among the likeliest tokens that have this probability together; 1: among
    /// all.
    pub top_p: f64,
    /// The seed of the draws.
    pub seed: u64,
}

/// Continues a prompt with the model at `model` and perhaps a PEFT adapter, in f32 on the CPU and
/// in bf16 on a GPU. `out` receives the text as it grows.
///
/// # Errors
/// If model or adapter cannot be used, or the model has no tokenizer.
pub fn generate(
    model: &Path,
    adapter: Option<&Path>,
    prompt: &Prompt<'_>,
    device: Device,
    out: &mut dyn FnMut(&str),
) -> Result<()> {
    check_sampling(prompt)?;
    let checkpoint = Checkpoint::open(model)?;
    let text = TextProcessor::new(None, checkpoint.chat_templates(), &checkpoint)?;
    let tokenizer = text
        .tokenizer
        .ok_or_else(|| Error::Input(format!("{} has no tokenizer.json", model.display())))?;
    let kind = if device == Device::Cpu { Kind::Float } else { Kind::BFloat16 };
    let mut decoder = Decoder::load(&checkpoint, kind, device)?;
    if let Some(folder) = adapter {
        let adapter = read_adapter(folder)?;
        decoder.add_lora(&adapter.config, Some(&adapter.weights), 0, folder)?;
    }
    let ids = match &text.template {
        Some(template) => tokenizer
            .encode(&template.render(&[Message::new("user", prompt.text)], true)?, false)?,
        None => tokenizer.encode(prompt.text, true)?,
    };
    if ids.is_empty() {
        return Err(Error::Input("the prompt is empty; give at least a word".into()));
    }
    let mut stop = tokenizer.stop_token_ids();
    stop.extend(decoder.config().eos_token_ids.iter().filter_map(|id| u32::try_from(*id).ok()));

    let mut cache = decoder.cache();
    let mut stream = tokenizer.stream(true);
    let mut new: Vec<i64> = ids.into_iter().map(i64::from).collect();
    for position in 0..prompt.max_tokens {
        let logits = decoder.next_logits(&new, &mut cache)?;
        let token = sample(&logits, prompt, derive_seed(&[prompt.seed, position as u64]))?;
        if stop.contains(&token) {
            break;
        }
        out(&stream.push(token)?);
        new = vec![i64::from(token)];
    }
    out(&stream.finish()?);
    Ok(())
}

fn check_sampling(prompt: &Prompt<'_>) -> Result<()> {
    for (name, value, is_valid) in [
        ("temperature", prompt.temperature, prompt.temperature >= 0.0),
        ("top-p", prompt.top_p, prompt.top_p > 0.0 && prompt.top_p <= 1.0),
    ] {
        if !is_valid {
            return Err(Error::Input(format!(
                "--{name} is {value}; a temperature is 0 or more, top-p more than 0 and at most 1"
            )));
        }
    }
    Ok(())
}

/// The likeliest token, or one drawn from `softmax(logits / temperature)`: the largest of the
/// logits after Gumbel noise was added to each of those in question.
fn sample(logits: &Tensor, prompt: &Prompt<'_>, seed: u64) -> Result<u32> {
    let scores = if prompt.temperature > 0.0 {
        let logits = logits.f_to_kind(Kind::Double)?.f_mul_scalar(1.0 / prompt.temperature)?;
        let uniform =
            draw(Distribution::Uniform, &logits.size(), Kind::Double, logits.device(), seed)?;
        let gumbel = uniform.f_clamp_min(1e-300)?.f_log()?.f_neg()?.f_log()?.f_neg()?;
        let noisy = logits.f_add(&gumbel)?;
        if prompt.top_p < 1.0 {
            noisy.f_masked_fill(&beyond(&logits, prompt.top_p)?, f64::NEG_INFINITY)?
        } else {
            noisy
        }
    } else {
        logits.shallow_clone()
    };
    Ok(scores.f_argmax(0, false)?.f_int64_value(&[])? as u32)
}

/// Of `logits` `[n]`, those that are not needed: likelier ones have the probability `top_p` without
/// them.
fn beyond(logits: &Tensor, top_p: f64) -> Result<Tensor> {
    let (sorted, order) = logits.f_softmax(0, Kind::Double)?.f_sort(0, true)?;
    let likelier = sorted.f_cumsum(0, Kind::Double)?.f_sub(&sorted)?;
    let needless = likelier.f_ge(top_p)?;
    Ok(needless.f_zeros_like()?.f_scatter(0, &order, &needless)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_likeliest_tokens_are_drawn() {
        let logits = Tensor::from_slice(&[0.1_f32, 0.4, 0.2, 0.3]).log();
        let drawn = |temperature, top_p| {
            let prompt = Prompt { text: "", max_tokens: 1, temperature, top_p, seed: 0 };
            let mut counts = [0; 4];
            (0..4000)
                .for_each(|seed| counts[sample(&logits, &prompt, seed).unwrap() as usize] += 1);
            counts
        };
        let near = |counts: [i32; 4], shares: [f64; 4]| {
            // Four standard deviations of a count.
            let off = counts
                .iter()
                .zip(shares)
                .map(|(&count, share)| (f64::from(count) / 4000.0 - share).abs())
                .fold(0.0, f64::max);
            assert!(
                off < 4.0 * 0.5 / 4000f64.sqrt()
                    && counts.iter().zip(shares).all(|(&count, share)| share > 0.0 || count == 0),
                "{counts:?}"
            );
        };
        near(drawn(0.0, 1.0), [0.0, 1.0, 0.0, 0.0]);
        near(drawn(1.0, 1.0), [0.1, 0.4, 0.2, 0.3]);
        near(drawn(1.0, 0.3), [0.0, 1.0, 0.0, 0.0]);
        near(drawn(1.0, 0.5), [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        near(drawn(1.0, 0.95), [0.1, 0.4, 0.2, 0.3]);
        // Squares of the probabilities: 1, 16, 4, 9 of 30; the first two have 25.
        near(drawn(0.5, 0.8), [0.0, 16.0 / 25.0, 0.0, 9.0 / 25.0]);
    }
}
