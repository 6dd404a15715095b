use crate::config::{self, Columns, Factors, Keeping, Run, Site, Sites};
use crate::{Error, Result};
use layers::Keep;
use lowrank::{Method, Options, Rank, TestMatrix};
use models::{Activations, Adapter, AdapterConfig, BlockActivations, Decoder, ModelConfig, Recompute, TargetModules, read_adapter};
use tch::Kind;

/// How the `[activations]` table compresses a tensor; `None`: not at all.
pub(crate) fn code(table: &config::Activations) -> Option<Options> {
    let test_matrix = match table.columns {
        Columns::Norm => TestMatrix::Norm,
        Columns::Uniform => TestMatrix::Uniform,
        Columns::Gaussian => TestMatrix::Gaussian,
    };
    let method = match table.method {
        Keeping::Exact => return None,
        Keeping::Qb => Method::Qb { test_matrix },
        Keeping::RowSpace => Method::RowSpace { test_matrix, unit_rows: true },
        Keeping::Rsvd => Method::Rsvd { oversampling: 8, power_iterations: table.power_iterations },
        Keeping::Svd => Method::Svd,
        Keeping::Nystrom => Method::Nystrom,
        Keeping::Quantized => Method::Quantized { bits: table.bits, group: 32 },
    };
    Some(Options {
        method,
        rank: match table.rank {
            config::Rank::Fraction(fraction) => Rank::Fraction(fraction),
            config::Rank::Columns(columns) => Rank::Components(columns),
        },
        keep_norms: table.keep_norms,
        factors: match table.factors {
            Factors::F32 => Kind::Float,
            Factors::Bf16 => Kind::BFloat16,
            Factors::Int8 => Kind::Int8,
        },
    })
}

/// The `[activations]` table as the model reads it.
pub fn activations(table: &config::Activations) -> Activations {
    block_activations(table).into()
}

fn block_activations(table: &config::Activations) -> BlockActivations {
    let keep = code(table).map_or(Keep::Exact, Keep::Code);
    let recompute = |recompute| BlockActivations { recompute, ..BlockActivations::default() };
    match &table.sites {
        Sites::None => BlockActivations::default(),
        Sites::Checkpoint => recompute(Recompute::Layer(Keep::Exact)),
        Sites::Layer => recompute(Recompute::Layer(keep)),
        Sites::Sublayer => recompute(Recompute::Sublayer(keep)),
        Sites::Only(sites) => {
            let at = |site| if sites.contains(&site) { keep } else { Keep::Exact };
            BlockActivations {
                recompute: Recompute::Nothing,
                norm: at(Site::Norm),
                attn_in: at(Site::AttnIn),
                attn_out: at(Site::AttnOut),
                mlp_in: at(Site::MlpIn),
                mlp_out: at(Site::MlpOut),
                act: at(Site::Act),
            }
        }
    }
}

/// What is trained beside the model: a new adapter's configuration, or an old adapter to go on with.
pub(crate) enum Lora {
    New(Box<AdapterConfig>),
    From(Box<Adapter>),
}

/// The `[lora]` table as the model reads it.
pub(crate) fn lora(run: &Run) -> Result<Lora> {
    let Some(table) = &run.lora else { return Err(Error::Input("there is no [lora] table; add one".into())) };
    if let Some(path) = &table.adapter {
        return Ok(Lora::From(Box::new(read_adapter(path)?)));
    }
    let target_modules = match &table.target_modules {
        config::TargetModules::AllLinear => TargetModules::Pattern("all-linear".into()),
        config::TargetModules::Suffixes(names) => TargetModules::Names(names.clone()),
    };
    Ok(Lora::New(Box::new(AdapterConfig {
        task_type: Some("CAUSAL_LM".into()),
        base_model_name_or_path: Some(run.model.path.display().to_string()),
        inference_mode: true,
        r: table.rank as i64,
        lora_alpha: table.alpha,
        lora_dropout: table.dropout,
        target_modules,
        ..AdapterConfig::default()
    })))
}

/// Refuses target modules that name no layer of this model.
pub(crate) fn check_lora(run: &Run, model: &ModelConfig, lora: &Lora) -> Result<()> {
    let Lora::New(config) = lora else { return Ok(()) };
    let TargetModules::Names(names) = &config.target_modules else { return Ok(()) };
    let matrices = Decoder::expected(model).into_iter().filter(|(name, shape)| shape.len() == 2 && name.starts_with("model.layers."));
    let mut modules: Vec<String> = matrices.filter_map(|(name, _)| Some(name.strip_suffix(".weight")?.to_owned())).collect();
    for name in names {
        if !modules.iter().any(|module| module == name || module.ends_with(&format!(".{name}"))) {
            modules.iter_mut().for_each(|module| *module = module.rsplit('.').next().unwrap_or_default().to_owned());
            modules.sort();
            modules.dedup();
            let what =
                format!("names {name:?}, which this model has not; it has {}, and \"all-linear\" means all of them", modules.join(", "));
            return Err(run.refuse("lora", "target_modules", &what).into());
        }
    }
    Ok(())
}
