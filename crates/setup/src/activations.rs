//! From `[activations]` to the save policies of a model, and what does not fit the model.

use tch::Kind;

use compression::coded::{Rate, Rounding};
use compression::{Method, Options, Rank, TestMatrix};
use config::{Bits, CompressionConfig, CompressionMethod, Factors, Run, Site, Sites, Sketch};
use layers::SavePolicy;
use models::{Activations, BlockActivations, EncoderConfig, ModelConfig, Recompute};

use crate::Result;

/// How a tensor of this width is compressed; `None` if it is saved exactly.
pub fn compression_options(form: &CompressionConfig, width: i64) -> Option<Options> {
    let test_matrix = match form.sketch {
        Sketch::Norm => TestMatrix::Norm,
        Sketch::Uniform => TestMatrix::Uniform,
        Sketch::Gaussian => TestMatrix::Gaussian,
        Sketch::Warm => TestMatrix::Warm,
    };
    let method = match form.method {
        CompressionMethod::Exact => return None,
        CompressionMethod::Qb => Method::Qb { test_matrix },
        CompressionMethod::RowSpace => Method::RowSpace { test_matrix, unit_rows: true },
        CompressionMethod::Rsvd => {
            Method::Rsvd { oversampling: 8, power_iterations: form.power_iterations }
        }
        CompressionMethod::Svd => Method::Svd,
        CompressionMethod::Nystrom => Method::Nystrom,
        CompressionMethod::Shared => Method::Shared,
        CompressionMethod::Quantized => Method::Quantized {
            bits: if form.bits == Bits::Number(4.0) { 4 } else { 8 },
            group: form.group,
        },
        CompressionMethod::Coded => Method::Coded {
            rate: match form.bits {
                Bits::Number(bits) => Rate::Bits(bits),
                Bits::Auto => Rate::Error(form.error),
            },
            rounding: match form.rounding {
                config::Rounding::Trellis => Rounding::Trellis,
                config::Rounding::Nearest => Rounding::Nearest,
                config::Rounding::Stochastic => Rounding::Stochastic,
            },
            drift: form.drift,
            rotate: form.basis == config::BasisKind::Principal,
        },
    };
    Some(Options {
        method,
        rank: match form.rank {
            config::Rank::Fraction(fraction) => Rank::Fraction(fraction),
            config::Rank::Columns(columns) => Rank::Components(columns),
            config::Rank::Auto => Rank::Auto {
                error: form.error,
                max_rank: form.max_rank.of(width).unwrap_or(width).max(1),
            },
        },
        keep_norms: form.keep_norms,
        factors: match form.factors {
            Factors::F32 => Kind::Float,
            Factors::Bf16 => Kind::BFloat16,
            Factors::Int8 => Kind::Int8,
        },
    })
}

/// The width of a site's tensor in a layer.
pub fn site_width(site: Site, model: &ModelConfig, layer: usize) -> i64 {
    match site {
        Site::Layer | Site::Sublayer | Site::Norm | Site::AttnIn | Site::MlpIn => model.hidden_size,
        Site::AttnOut => model.num_heads * model.value_dim(),
        Site::MlpOut | Site::Act => match model.experts {
            Some(experts) if model.layers[layer].mixture => experts.width,
            _ => model.intermediate_size,
        },
    }
}

/// The layers of a model, and the widths of the tensors that they save for backward.
pub trait SiteWidths {
    /// The number of layers.
    fn layers(&self) -> usize;
    /// The width of a site's tensor in a layer.
    fn width(&self, site: Site, layer: usize) -> i64;
}

impl SiteWidths for ModelConfig {
    fn layers(&self) -> usize {
        self.num_layers as usize
    }

    fn width(&self, site: Site, layer: usize) -> i64 {
        site_width(site, self, layer)
    }
}

impl SiteWidths for EncoderConfig {
    fn layers(&self) -> usize {
        self.num_layers()
    }

    fn width(&self, site: Site, layer: usize) -> i64 {
        let stage = self.stage_of(layer);
        if matches!(site, Site::MlpOut | Site::Act) { stage.inner } else { stage.width }
    }
}

/// The save policies of `[activations]` for each layer of a model.
pub fn activation_policies(table: &config::Activations, model: &impl SiteWidths) -> Activations {
    Activations::from_layers(
        (0..model.layers()).map(|layer| layer_policies(table, model, layer)).collect(),
    )
}

fn layer_policies(
    table: &config::Activations,
    model: &impl SiteWidths,
    layer: usize,
) -> BlockActivations {
    block_policies(&table.sites, |site| {
        let form = table
            .compression_at(site, layer)
            .and_then(|(form, _)| compression_options(&form, model.width(site, layer)));
        form.map_or(SavePolicy::Exact, |options| {
            if table.delta { delta_coded(site, options) } else { SavePolicy::Code(options) }
        })
    })
}

/// Delta coding against the previous layer, if the site is the input of blocks or of their
/// sublayers.
pub fn delta_coded(site: Site, options: Options) -> SavePolicy {
    if matches!(site, Site::Layer | Site::Sublayer) {
        SavePolicy::Delta(options)
    } else {
        SavePolicy::Code(options)
    }
}

/// The policies of a layer whose `sites` are saved as `keep` says, and all others exactly.
pub fn block_policies(sites: &Sites, keep: impl Fn(Site) -> SavePolicy) -> BlockActivations {
    let at = |site| if sites.has(site) { keep(site) } else { SavePolicy::Exact };
    let recompute = match sites {
        Sites::None => Recompute::Nothing,
        Sites::Checkpoint => Recompute::Layer(SavePolicy::Exact),
        sites if sites.has(Site::Layer) => Recompute::Layer(at(Site::Layer)),
        sites if sites.has(Site::Sublayer) => Recompute::Sublayer(at(Site::Sublayer)),
        Sites::Of(_) => Recompute::Nothing,
    };
    BlockActivations {
        recompute,
        norm: at(Site::Norm),
        attn_in: at(Site::AttnIn),
        attn_out: at(Site::AttnOut),
        mlp_in: at(Site::MlpIn),
        mlp_out: at(Site::MlpOut),
        act: at(Site::Act),
    }
}

/// Refuses a rank that exceeds a tensor's width, compression that saves no memory for `tokens`
/// tokens, and layers that the model does not have.
///
/// A site of `[tokens, width]` holds `tokens · width` numbers of the model's type; its factors hold
/// `rank · (tokens + width)` numbers of the factors' type.
///
/// # Errors
/// The first key that does not fit.
pub fn check_activations(run: &Run, model: &impl SiteWidths, tokens: i64) -> Result<()> {
    let table = &run.activations;
    let layers = model.layers();
    for (index, given) in table.overrides.iter().enumerate() {
        let Some(range) = given
            .layers
            .filter(|range| range.start >= layers || range.end.is_some_and(|end| end > layers))
        else {
            continue;
        };
        let what = format!(
            "names layers up to {}, and the model has 0 to {}",
            range.end.map_or(range.start, |end| end - 1),
            layers - 1
        );
        return Err(run.error_at_compression(Some(index), "layers", &what).into());
    }
    let Sites::Of(sites) = &table.sites else { return Ok(()) };
    for (layer, &site) in (0..layers).flat_map(|layer| sites.iter().map(move |site| (layer, site)))
    {
        let Some((form, given)) = table.compression_at(site, layer) else { continue };
        check_form(run, &form, given, site, model.width(site, layer), tokens)?;
    }
    Ok(())
}

fn check_form(
    run: &Run,
    form: &CompressionConfig,
    given: Option<usize>,
    site: Site,
    width: i64,
    tokens: i64,
) -> Result<()> {
    let Some(options) = compression_options(form, width) else { return Ok(()) };
    let refuse = |key, what: String| Err(run.error_at_compression(given, key, &what).into());
    let (rank, key) = match form.rank.of(width) {
        Some(rank) => (rank, "rank"),
        None => (form.max_rank.of(width).unwrap_or(width), "max_rank"),
    };
    let name = site.as_str();
    if form.method.has_rank() && rank < 1 {
        return refuse(
            key,
            format!(
                "rounds to 0 columns at {name}'s width of {width}; raise it, or give a whole number of columns"
            ),
        );
    }
    if form.method.has_rank() && rank > width {
        return refuse(
            key,
            format!("must be <= {width}, the width of {name}; lower it, or give a fraction"),
        );
    }
    let exact_bytes = (tokens * width * run.model.dtype.bytes()) as u64;
    // A rank that so few tokens cannot have saves nothing either. An automatic one is what it comes
    // to.
    let bytes = options.bytes(tokens, width).unwrap_or(exact_bytes);
    let automatic = match form.method {
        CompressionMethod::Coded => form.bits == Bits::Auto,
        _ => form.method.has_rank() && form.rank == config::Rank::Auto,
    };
    if bytes < exact_bytes || automatic {
        return Ok(());
    }
    if !form.method.has_rank() {
        let (key, what) = match form.bits {
            Bits::Number(bits) if form.method == CompressionMethod::Quantized => {
                ("group", format!("integers of {bits} bits with a scale for each {}", form.group))
            }
            _ => ("bits", "codes of this length".to_owned()),
        };
        let rest = format!(
            "take {bytes} bytes of {tokens} tokens by {width}, kept exactly they take {exact_bytes}"
        );
        return refuse(
            key,
            format!("saves nothing: {what} {rest}; change it, or set method = \"exact\""),
        );
    }
    refuse(
        key,
        format!(
            "saves nothing: {rank} columns of {tokens} tokens by {width} take {bytes} bytes in {}, kept exactly they take {exact_bytes}; lower \
             the rank, raise [data] sequence_length, or set method = \"exact\"",
            form.factors
        ),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// 64 wide, 2 layers; `[activations]` stands on line 6.
    fn run(keys: &str) -> (tempfile::TempDir, Run) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(
            &path,
            format!(
                "[model]\npath = \"m\"\n[lora]\n[data]\ntrain = \"t\"\n[activations]\n{keys}\n"
            ),
        )
        .unwrap();
        let run = Run::load(&path, &[]).unwrap();
        (folder, run)
    }

    fn model() -> ModelConfig {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        let text = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 3, "head_dim": 16}"#;
        std::fs::write(&file, text).unwrap();
        ModelConfig::read(&file).unwrap()
    }

    #[test]
    fn a_rank_that_saves_nothing_is_refused_at_its_line() {
        let says = |keys: &str, tokens, says: &str| {
            let (_folder, run) = run(keys);
            let message = check_activations(&run, &model(), tokens).unwrap_err().to_string();
            assert!(message.contains(says), "expected {says:?}: {message}");
        };
        let fits = |keys: &str, tokens| check_activations(&run(keys).1, &model(), tokens).is_ok();
        // 32 columns of 64 × 64 in f32 take exactly what the tensor takes; 31 take less, and bf16
        // factors half.
        says(
            "rank = 32\nfactors = \"f32\"",
            64,
            "c.toml:7: [activations] rank: saves nothing: 32 columns of 64 tokens by 64 take 16384 bytes in f32",
        );
        assert!(
            fits("rank = 31\nfactors = \"f32\"", 64) && fits("rank = 32\nfactors = \"bf16\"", 64)
        );
        says("rank = 65", 4096, "[activations] rank: must be <= 64, the width of layer");
        says("rank = 0.001", 4096, "rounds to 0 columns at layer's width of 64");
        says(
            "rank = 49\nsites = [\"attn_out\", \"mlp_out\"]",
            4096,
            "must be <= 48, the width of attn_out",
        );
        says("rank = \"auto\"\nmax_rank = 65", 4096, "[activations] max_rank: must be <= 64");
        assert!(
            fits("rank = \"auto\"\nmax_rank = 64", 64),
            "what it comes to is seen in each step"
        );
        says("method = \"quantized\"", 0, "[activations] group: saves nothing: integers of 8 bits");
        says(
            "[[activations.overrides]]\nlayers = \"1..3\"\nmethod = \"qb\"\nrank = 65",
            4096,
            "c.toml:10: [[activations.overrides]] rank: must be <= 64, the width of layer",
        );
        says(
            "[[activations.overrides]]\nlayers = \"2..5\"\nbits = 4",
            4096,
            "layers: names layers up to 4, and the model has 0 to 3",
        );
    }

    #[test]
    fn each_layer_gets_what_the_table_says_of_it() {
        let (_folder, run) = run(
            "sites = [\"sublayer\", \"act\"]\nrank = \"auto\"\nmax_rank = 0.25\n[[activations.overrides]]\nsites = \"sub*\"\n\
             layers = \"0..1\"\nmethod = \"exact\"",
        );
        let activations = activation_policies(&run.activations, &model());
        let code = |keep: &SavePolicy| match keep {
            SavePolicy::Code(options) | SavePolicy::Delta(options) => Some(options.rank),
            SavePolicy::Exact => None,
        };
        assert_eq!(activations.layer(0).recompute, Recompute::Sublayer(SavePolicy::Exact));
        let Recompute::Sublayer(keep) = activations.layer(1).recompute else {
            panic!("not recomputed")
        };
        assert_eq!(code(&keep), Some(Rank::Auto { error: 0.1, max_rank: 16 }));
        assert_eq!(code(&activations.layer(0).act), Some(Rank::Auto { error: 0.1, max_rank: 24 }));
        assert_eq!(code(&activations.layer(1).norm), None);
    }
}
