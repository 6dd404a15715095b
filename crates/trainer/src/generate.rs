use crate::{Error, Result, text};
use autograd::random::{Law, derive_seed, draw};
use data::Message;
use models::{Checkpoint, Decoder, Model, read_adapter};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    /// The text to continue; what the user says, where the model has a chat template.
    pub text: &'a str,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// 0 takes the likeliest token.
    pub temperature: f64,
    /// The seed of the draws.
    pub seed: u64,
}

/// Continues a prompt with the model at `model` and perhaps a PEFT adapter, in f32 on the CPU, handing out the text as it grows.
///
/// # Errors
/// If model or adapter cannot be used, or the model has no tokenizer.
pub fn generate(model: &Path, adapter: Option<&Path>, prompt: &Prompt<'_>, out: &mut dyn FnMut(&str)) -> Result<()> {
    let checkpoint = Checkpoint::open(model)?;
    let text = text::of(None, checkpoint.chat_template(), &checkpoint)?;
    let tokenizer = text.tokenizer.ok_or_else(|| Error::Input(format!("{} has no tokenizer.json", model.display())))?;
    let mut decoder = Decoder::load(&checkpoint, Kind::Float, Device::Cpu)?;
    if let Some(folder) = adapter {
        let adapter = read_adapter(folder)?;
        decoder.add_lora(&adapter.config, Some(&adapter.weights), 0, folder)?;
    }
    let ids = match &text.template {
        Some(template) => tokenizer.encode(&template.render(&[Message::new("user", prompt.text)], true)?, false)?,
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
        let token = choose(&logits, prompt.temperature, derive_seed(&[prompt.seed, position as u64]))?;
        if stop.contains(&token) {
            break;
        }
        out(&stream.push(token)?);
        new = vec![i64::from(token)];
    }
    out(&stream.finish()?);
    Ok(())
}

/// The likeliest token, or one drawn from `softmax(logits / temperature)`: the largest of the logits after Gumbel noise was added to each.
fn choose(logits: &Tensor, temperature: f64, seed: u64) -> Result<u32> {
    let scores = if temperature > 0.0 {
        let uniform = draw(Law::Uniform, &logits.size(), Kind::Double, logits.device(), seed)?;
        let gumbel = uniform.f_clamp_min(1e-300)?.f_log()?.f_neg()?.f_log()?.f_neg()?;
        logits.f_to_kind(Kind::Double)?.f_mul_scalar(1.0 / temperature)?.f_add(&gumbel)?
    } else {
        logits.shallow_clone()
    };
    Ok(scores.f_argmax(0, false)?.f_int64_value(&[])? as u32)
}
