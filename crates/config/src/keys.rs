//! Every key and its valid values, for messages. A test holds this list against the raw structs.

/// A table's name, and its keys with their valid values.
pub(super) type TableKeys = (&'static str, &'static [(&'static str, &'static str)]);

const PATH: &str = "a path, relative to the current directory";
const SOURCES: &str = r#"a path, of a file or a folder | a list of paths and of tables such as { path = "a.jsonl", weight = 2.0 }"#;
const SWITCH: &str = "true | false";
const WHOLE: &str = "a whole number >= 0";
const POSITIVE: &str = "a whole number >= 1";

// The keys of a form, which [activations] and its overrides share.
const METHOD: (&str, &str) = ("method", r#""exact" | "qb" | "rowspace" | "rsvd" | "svd" | "nystrom" | "quantized" | "coded" | "shared""#);
const RANK: (&str, &str) = ("rank", r#"a fraction 0 < r <= 1 of the width, a whole number of columns >= 1, or "auto""#);
const ERROR: (&str, &str) = ("error", "a number, 0 < e < 1: of a token, met by rank = \"auto\" and bits = \"auto\"");
const MAX_RANK: (&str, &str) = ("max_rank", "a fraction 0 < r <= 1 of the width, or a whole number of columns >= 1");
const COLUMNS: (&str, &str) = ("columns", r#""norm" | "uniform" | "gaussian" | "warm""#);
const KEEP_NORMS: (&str, &str) = ("keep_norms", SWITCH);
const FACTORS: (&str, &str) = ("factors", r#""f32" | "bf16" | "int8""#);
const POWER_ITERATIONS: (&str, &str) = ("power_iterations", "a whole number >= 0; above 0 with rsvd only");
const BITS: (&str, &str) = ("bits", r#"8 | 4; with coded a number > 0 and <= 16, or "auto""#);
const GROUP: (&str, &str) = ("group", POSITIVE);
const ROUNDING: (&str, &str) = ("rounding", r#""trellis" | "nearest" | "stochastic""#);
const DRIFT: (&str, &str) = ("drift", "a number >= 0");
const BASIS: (&str, &str) = ("basis", r#""principal" | "none""#);

/// The tables in a list that is a key's value.
pub(super) const LISTS: &[TableKeys] = &[
    (
        "activations.overrides",
        &[
            (
                "sites",
                r#"names or patterns of "layer", "sublayer", "norm", "attn_in", "attn_out", "mlp_in", "mlp_out", "act", such as "mlp_*""#,
            ),
            ("layers", r#"a range of layers from 0, its end not included: "0..8", "24..", "..4", "3""#),
            METHOD,
            RANK,
            ERROR,
            MAX_RANK,
            COLUMNS,
            KEEP_NORMS,
            FACTORS,
            POWER_ITERATIONS,
            BITS,
            GROUP,
            ROUNDING,
            DRIFT,
            BASIS,
        ],
    ),
    ("data.train", &[("path", PATH), ("weight", "a number above 0, at most 1000")]),
    ("data.eval", &[("path", PATH), ("weight", "1")]),
];

/// All tables.
pub(super) const TABLES: &[TableKeys] = &[
    (
        "run",
        &[
            ("dir", PATH),
            ("seed", WHOLE),
            ("steps", POSITIVE),
            ("epochs", "a number > 0"),
            ("batch_size", "a whole number >= 1: sequences per optimiser step over all ranks"),
            ("micro_batch_size", "a whole number from 0 to batch_size, 0 = a rank's whole share"),
            ("device", r#""auto" | "cpu" | "cuda""#),
            ("threads", "a whole number >= 0, 0 = cores / ranks on this host"),
            ("eval_every", "a whole number >= 0, 0 = before and after only"),
            ("log_every", POSITIVE),
            ("check_every", "a whole number >= 0, 0 = at the start only"),
            ("tensorboard", SWITCH),
            ("loss_chunk", "a whole number >= 0 of tokens, 0 = automatic"),
        ],
    ),
    (
        "model",
        &[
            ("path", "a Hugging Face model directory, or a .gguf file"),
            ("task", r#""causal_lm" | "sequence_classification" | "image_classification""#),
            ("weights", r#""pretrained" | "random""#),
            ("dtype", r#""f32" | "bf16""#),
            ("quantization", r#""none" | "nf4" | "gguf""#),
            ("tokenizer", "the path of a tokenizer.json, tokenizer.model or tekken.json, or a directory that has one"),
            ("chat_template", "the path of a Jinja chat template"),
        ],
    ),
    (
        "lora",
        &[
            ("rank", POSITIVE),
            ("alpha", "a number > 0"),
            ("dropout", "a number, 0 <= p < 1"),
            (
                "target_modules",
                r#""all-linear" | a list of module-name suffixes such as ["q_proj", "v_proj"] | a regular expression on whole paths"#,
            ),
            ("exclude_modules", "a list of module-name suffixes | a regular expression on whole paths"),
            ("layers_to_transform", "a list of layers from 0, such as [0, 1, 5]"),
            ("rank_pattern", "a table of ranks by module, such as { q_proj = 16, \"mlp.down_proj\" = 4 }"),
            ("alpha_pattern", "a table of alphas by module, such as { q_proj = 32.0 }"),
            ("use_rslora", SWITCH),
            ("use_dora", SWITCH),
            ("init", r#""default" | "gaussian" | "pissa""#),
            ("lora_fa", SWITCH),
            ("lora_plus_ratio", "a number > 0"),
            ("modules_to_save", r#"a list of module-name suffixes such as ["lm_head", "embed_tokens"]"#),
            ("bias", r#""none""#),
            ("adapter", "the directory of a PEFT adapter"),
        ],
    ),
    (
        "activations",
        &[
            (
                "sites",
                r#""none" | "checkpoint" | "layer" | "sublayer" | a list of "norm", "attn_in", "attn_out", "mlp_in", "mlp_out", "act""#,
            ),
            ("stream", r#""main" | "side""#),
            ("difference", SWITCH),
            ("budget", r#"a number > 0 of bytes per token, or "auto"; with coded"#),
            ("basis_layers", POSITIVE),
            ("basis_steps", POSITIVE),
            ("overrides", "a list of tables [[activations.overrides]] with sites, layers, and the keys that differ there"),
            METHOD,
            RANK,
            ERROR,
            MAX_RANK,
            COLUMNS,
            KEEP_NORMS,
            FACTORS,
            POWER_ITERATIONS,
            BITS,
            GROUP,
            ROUNDING,
            DRIFT,
            BASIS,
        ],
    ),
    (
        "gradients",
        &[
            ("method", r#""exact" | "bf16" | "powersgd" | "shared_basis""#),
            ("rank", POSITIVE),
            ("start_step", WHOLE),
            ("min_ratio", "a number >= 1"),
            ("error_feedback", SWITCH),
            ("warm_start", SWITCH),
            ("overlap", SWITCH),
            ("bucket_bytes", POSITIVE),
        ],
    ),
    (
        "data",
        &[
            ("train", SOURCES),
            ("eval", "the same as train, without weights"),
            ("eval_samples", "a whole number >= 0, 0 = no held-out samples"),
            ("format", r#""auto" | "conversations" | "text" | "batches""#),
            ("sequence_length", "a whole number >= 2"),
            ("overflow", r#""split" | "truncate" | "drop""#),
            ("packing", SWITCH),
            ("loss_on", r#""assistant" | "all""#),
            ("shuffle", SWITCH),
            ("max_samples", POSITIVE),
            ("bad_lines", r#""fail" | "skip""#),
            ("text_key", "the key of the text in a record, or its column"),
            ("label_key", "the key of the class in a record, or its column"),
            ("image_key", "the column of the image in a table"),
            ("flip", SWITCH),
            ("crop", "the least and the most part of an image, such as [0.08, 1]"),
            ("labels", r#"a list of the names of the classes, such as ["ham", "spam"]"#),
            ("class_weights", r#""none" | "balanced""#),
            ("pairs", r#""auto" | "text" | "chat""#),
            ("prompt_template", r#"a Jinja template over a record's columns, such as "Question: {{ question }}\nAnswer: ""#),
            ("columns", r#"a table of the data's own names, such as { prompt = "question", completion = "answer" }"#),
            ("chat_template_kwargs", "a table of variables of the chat template, such as { enable_thinking = false }"),
        ],
    ),
    (
        "optimizer",
        &[
            ("name", r#""adamw" | "adamw8bit" | "lion" | "sgd" | "muon""#),
            ("learning_rate", "a number > 0"),
            ("betas", "two numbers, each 0 <= b < 1"),
            ("eps", "a number > 0"),
            ("momentum", "a number, 0 <= m < 1; with sgd and muon only"),
            ("nesterov", "true | false; with sgd and muon only"),
            ("scale", r#""match_rms_adamw" | "original"; with muon only"#),
            ("weight_decay", "a number >= 0"),
            ("clip_grad_norm", "a number >= 0, 0 = no clipping"),
            ("master_weights", SWITCH),
            ("split", SWITCH),
        ],
    ),
    (
        "schedule",
        &[
            ("kind", r#""constant" | "linear" | "cosine" | "wsd""#),
            ("warmup_steps", "a whole number >= 0, less than [run] steps"),
            ("decay", "a fraction 0 < d <= 1 of the steps, or a whole number of steps >= 1; with wsd only"),
            ("min_ratio", "a number, 0 <= r <= 1: the last learning rate as a fraction of the first"),
        ],
    ),
    (
        "checkpoint",
        &[
            ("every", "a whole number >= 0, 0 = only when a signal asks for one"),
            ("keep", POSITIVE),
            ("background", SWITCH),
            ("signals", r#"a list of "USR1", "USR2", "TERM", "INT", "HUP"; [] = none"#),
        ],
    ),
    (
        "cluster",
        &[
            ("ranks", POSITIVE),
            ("mpirun", "the name or path of mpirun"),
            ("mpirun_args", "a list of strings"),
            ("heartbeat_seconds", "a whole number >= 0, 0 = no heartbeat"),
            ("stall_seconds", "a whole number >= 0, 0 = wait for ever"),
            ("name", "letters, digits and -, at most 40"),
            ("nodes", "a whole number >= 1 by which ranks can be divided"),
            ("cpus_per_rank", POSITIVE),
            ("gpus_per_node", WHOLE),
            ("memory", r#"of each node, such as "64G""#),
            ("time", r#"hours, minutes and seconds in quotes, such as "04:00:00""#),
            ("warning_seconds", WHOLE),
            ("queue", "the name of a queue or partition"),
            ("account", "the name of an account"),
            ("setup", r#"a list of shell commands, such as ["module load openmpi"]"#),
            ("image", "the name of a container image"),
            ("volume", "the name of a persistent volume claim"),
        ],
    ),
];

/// The keys of `table`, or of the tables in the list `table.key`.
pub(super) fn of(table: &str) -> Option<&'static [(&'static str, &'static str)]> {
    TABLES.iter().chain(LISTS).find(|(name, _)| *name == table).map(|(_, keys)| *keys)
}

/// The valid values of a key.
pub(super) fn valid(table: &str, key: &str) -> Option<&'static str> {
    of(table)?.iter().find(|(name, _)| *name == key).map(|(_, valid)| *valid)
}
