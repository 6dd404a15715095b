#![allow(clippy::unwrap_used)]

use super::{
    Run, registry,
    source::Source,
    tables::{
        Bits, ByteSize, CompressionMethod, Length, Rank, Site, Sites, StopSignal, TargetModules,
    },
};
use std::collections::BTreeSet;
use std::path::Path;

mod extremes;

/// The least that a configuration must hold. `[data]` stands on line 4.
const LEAST: &str = "[model]\npath = \"m\"\n[lora]\n[data]\ntrain = \"t.jsonl\"\n";

fn load(text: &str, overrides: &[&str]) -> Result<Run, String> {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    let path = Path::new("c.toml");
    Source::new(path, text.to_owned(), &overrides)
        .and_then(|source| Run::resolve(&source, path))
        .map_err(|error| error.to_string())
}

/// The message for `LEAST` followed by `more`; the first line of `more` is line 6.
fn refusal(more: &str, overrides: &[&str]) -> String {
    let message = load(&format!("{LEAST}{more}"), overrides).unwrap_err();
    assert!(!message.contains('\n'), "more than one line: {message}");
    message
}

#[test]
fn defaults_are_the_documented_ones() {
    let run = load(LEAST, &[]).unwrap();
    assert_eq!(run.dir, Path::new("runs/c"));
    assert_eq!(run.length(), Length::Epochs(1.0));
    assert_eq!((run.batch_size, run.micro_batch_size, run.log_every), (8, 0, 1));
    assert_eq!(run.activations.sites, Sites::Of(vec![Site::Layer]));
    assert_eq!(
        (run.activations.compression.method, run.activations.compression.bits),
        (CompressionMethod::Quantized, Bits::Number(8.0))
    );
    let with_rank = load(&format!("{LEAST}[activations]\nrank = 0.25\n"), &[]).unwrap();
    assert_eq!(
        with_rank.activations.compression.method,
        CompressionMethod::Qb,
        "a rank speaks of a method that has one"
    );
    let lora = run.lora.clone().unwrap();
    assert_eq!((lora.rank, lora.alpha, lora.target_modules), (8, 16.0, TargetModules::AllLinear));
    assert_eq!((run.data.eval_samples, run.data.sequence_length), (32, 512));
    assert_eq!(
        (run.optimizer.betas, run.optimizer.momentum, run.schedule.decay),
        (Some([0.9, 0.999]), None, None)
    );
    assert_eq!(
        (run.checkpoint.every, run.checkpoint.keep, run.checkpoint.background),
        (100, 2, true)
    );
    assert_eq!(run.checkpoint.signals.as_slice(), [StopSignal::Usr1, StopSignal::Term]);
    assert_eq!((run.cluster.ranks, run.cluster.mpirun.as_str()), (1, "mpirun"));
    assert_eq!(
        (run.cluster.heartbeat_seconds, run.cluster.stall_seconds, run.check_every),
        (60, 600, 100)
    );
}

/// Configurations that together give every key another value than its default.
fn full() -> Vec<String> {
    let rest = "[run]\ndir = \"a b\"\nseed = 7\nsteps = 12\nbatch_size = 6\nmicro_batch_size = 2\ndevice = \"cpu\"\nthreads = 3\n\
        eval_every = 4\nlog_every = 2\ncheck_every = 5\ntensorboard = true\nloss_chunk = 64\n\
        [checkpoint]\nevery = 7\nkeep = 3\nbackground = false\nsignals = [\"HUP\"]\n\
        [cluster]\nranks = 2\nmpirun = \"mpiexec\"\nmpirun_args = [\"--hostfile\", \"h\"]\nheartbeat_seconds = 9\nstall_seconds = 0\nname = \"a-b\"\nnodes = 2\ncpus_per_rank = 4\n\
        gpus_per_node = 1\nmemory = \"64G\"\ntime = \"04:00:00\"\nwarning_seconds = 60\nqueue = \"long\"\naccount = \"a\"\n\
        setup = [\"module load openmpi\"]\nimage = \"i:1\"\nvolume = \"v\"\n\
        mpi = \"intel\"\nenvironment = { UCX_TLS = \"rc,self\" }\ncontainer = \"pyxis\"\nmounts = [\"/data\"]\narray = [\"lora.rank=8\"]\n\
        image_pull_secrets = [\"s\"]\ntolerations = [\"gpu=yes:NoSchedule\"]\npriority_class = \"high\"\n\
        ttl_seconds_after_finished = 60\nshared_memory = \"8G\"\nrdma = { \"rdma/hca\" = 1 }\n";
    let language = "[model]\npath = \"m.gguf\"\ndtype = \"bf16\"\nquantization = \"gguf\"\ntokenizer = \"t.json\"\nchat_template = \"c.jinja\"\n\
        [lora]\nrank = 2\nalpha = 3\ndropout = 0.125\ntarget_modules = [\"q_proj\", \"v_proj\"]\nexclude_modules = \".*[.]0[.].*\"\n\
        layers_to_transform = [0, 3]\nrank_pattern = { q_proj = 4, \"mlp.up\" = 2 }\nalpha_pattern = { v_proj = 3 }\nuse_rslora = true\nuse_dora = true\ninit = \"pissa\"\n\
        lora_fa = true\nlora_plus_ratio = 16\nmodules_to_save = [\"lm_head\"]\nbias = \"none\"\n\
        [activations]\nsites = [\"act\", \"norm\"]\nmethod = \"rsvd\"\nrank = 64\nkeep_norms = false\nfactors = \"int8\"\npower_iterations = 2\nstream = \"side\"\n\
        overrides = [{ sites = \"act\", layers = \"2..\", factors = \"bf16\" }, { layers = \"1\", method = \"quantized\", bits = 4, group = 64 }]\n\
        [gradients]\nmethod = \"powersgd\"\nrank = 3\nstart_step = 5\nmin_ratio = 1.5\nerror_feedback = false\nwarm_start = false\noverlap = false\nbucket_bytes = \"1KiB\"\n\
        [data]\ntrain = \"t\"\neval_samples = 0\nformat = \"text\"\nsequence_length = 9\noverflow = \"drop\"\npacking = true\n\
        loss_on = \"all\"\nshuffle = false\nmax_samples = 11\nbad_lines = \"skip\"\n\
        pairs = \"chat\"\nprompt_template = \"Q: {{ q }}\"\ncolumns = { prompt = \"q\" }\nchat_template_kwargs = { enable_thinking = false, level = [1, \"high\"] }\n\
        [optimizer]\nmethod = \"muon\"\nlearning_rate = 3e-5\nbetas = [0.5, 0]\neps = 1e-6\nmomentum = 0.8\nnesterov = false\nscale = \"original\"\nweight_decay = 0.1\nclip_grad_norm = 0\nmaster_weights = false\nzero_stage = 1\n\
        [schedule]\nmethod = \"wsd\"\nwarmup_steps = 2\ndecay = 3\nmin_ratio = 0.1\n";
    let with = |task: &str, lora: &str, activations: &str, data: &str| {
        format!(
            "[run]\nepochs = 2\n[model]\npath = \"m\"\ntask = \"{task}\"\n{lora}[activations]\n{activations}\n[data]\ntrain = \"t\"\n{data}\n"
        )
    };
    let classes =
        "label_key = \"class\"\nlabels = [\"ham\", \"spam\"]\nclass_weights = \"balanced\"\n";
    vec![
        format!("{rest}{language}"),
        with(
            "sequence_classification",
            "[lora]\nadapter = \"a\"\n",
            "delta = true\nrank = \"auto\"\nerror = 0.5\nmax_rank = 9\nsketch = \"gaussian\"",
            &format!("eval = \"e\"\ntext_key = \"message\"\n{classes}"),
        ),
        with(
            "image_classification",
            "weights = \"random\"\n",
            "budget = 500\nbasis_layers = 3\nrounding = \"nearest\"\ndrift = 2.5",
            &format!("image_key = \"picture\"\nflip = true\ncrop = [0.25, 1]\n{classes}"),
        ),
        with("causal_lm", "", "method = \"shared\"\nbasis_steps = 7", ""),
        with("causal_lm", "", "method = \"coded\"\nbasis = \"none\"", ""),
    ]
}

#[test]
fn a_configuration_in_full_is_the_same_run_and_has_every_key() {
    let mut written = BTreeSet::new();
    for text in full().iter().map(String::as_str).chain([LEAST]) {
        let run = load(text, &[]).unwrap();
        let in_full = run.to_toml();
        assert_eq!(
            load(&in_full, &[&format!("run.dir='{}'", run.dir.display())]).unwrap(),
            run,
            "{in_full}"
        );
        assert_eq!(load(&in_full, &[]).unwrap(), run);
        assert_eq!(super::keys_of(&in_full).unwrap(), run.keys());
        written.extend(run.keys().into_keys());
    }
    for table in registry::tables().iter().filter(|table| !table.is_list) {
        for key in &table.keys {
            assert!(
                written.contains(&format!("{}.{}", table.name, key.name)),
                "[{}] {} is not written",
                table.name,
                key.name
            );
        }
    }
    let run = load(&full()[0], &[]).unwrap();
    assert_eq!(run.activations.sites, Sites::Of(vec![Site::Norm, Site::Act]), "sorted");
    assert_eq!(run.activations.compression.rank, Rank::Columns(64));
    assert_eq!(run.gradients.bucket_bytes, ByteSize::new(1024));
}

#[test]
fn every_declaration_is_complete_and_its_example_is_valid() {
    for table in registry::tables() {
        assert!(!table.about.is_empty());
        for key in &table.keys {
            assert!(
                key.help.ends_with(['.', ')']) && key.help.len() > 10,
                "[{}] {}: {}",
                table.name,
                key.name,
                key.help
            );
            assert!(!key.valid.is_empty());
            let toml = format!("{} = {}", key.name, key.example).parse::<toml::Table>();
            assert!(toml.is_ok(), "{}: {}", key.name, key.example);
            // An example may be out of place in the least configuration, but it is not invalid.
            let (name, value) = match table.name.split_once('.') {
                Some(("data", list)) => (
                    format!("data.{list}"),
                    format!("[{{ path = \"a\", {} = {} }}]", key.name, key.example),
                ),
                Some((outer, list)) => {
                    (format!("{outer}.{list}"), format!("[{{ {} = {} }}]", key.name, key.example))
                }
                None => (format!("{}.{}", table.name, key.name), key.example.to_owned()),
            };
            if let Err(message) = load(LEAST, &[&format!("{name}={value}")]) {
                assert!(
                    !message.contains("(valid: ")
                        || ["nothing to override", "has a weight"]
                            .iter()
                            .any(|reason| message.contains(reason))
                        || key.name == "path",
                    "{message}"
                );
            }
        }
    }
}

#[test]
fn a_key_that_is_given_and_not_read_is_refused() {
    let cases = [
        (
            "[activations]\nmethod = \"exact\"\nrank = 0.5\n",
            "c.toml:8: [activations] rank: is read only if method is a low-rank",
        ),
        (
            "[activations]\nsites = \"none\"\nrank = 0.5\n",
            "c.toml:8: [activations] rank: is read only if sites names a site",
        ),
        (
            "[activations]\nmethod = \"qb\"\nbits = 4\n",
            "c.toml:8: [activations] bits: is read only if method = \"quantized\" or \"coded\"",
        ),
        (
            "[activations]\nsites = [\"norm\"]\ndelta = true\n",
            "c.toml:8: [activations] delta: is read only if sites has \"layer\"",
        ),
        (
            "[activations]\nbudget = 500\nmethod = \"qb\"\n",
            "c.toml:7: [activations] budget: is read only if",
        ),
        (
            "[gradients]\nrank = 3\n",
            "c.toml:7: [gradients] rank: is read only if [gradients] method = \"powersgd\"",
        ),
        (
            "[optimizer]\nmethod = \"sgd\"\nbetas = [0.9, 0.9]\n",
            "c.toml:8: [optimizer] betas: is read only if [optimizer] method = \"adamw\", \"adamw8bit\", \"lion\" or \"muon\"",
        ),
        (
            "[optimizer]\nmethod = \"lion\"\neps = 1e-8\n",
            "c.toml:8: [optimizer] eps: is read only if",
        ),
        ("[optimizer]\nmomentum = 0.9\n", "c.toml:7: [optimizer] momentum: is read only if"),
        (
            "[schedule]\ndecay = 0.2\n",
            "c.toml:7: [schedule] decay: is read only if [schedule] method = \"wsd\"",
        ),
        (
            "label_key = \"a\"\n",
            "c.toml:6: [data] label_key: is read only if [model] task = \"sequence_classification\" or",
        ),
        ("eval = \"e\"\neval_samples = 3\n", "c.toml:7: [data] eval_samples: is read only if"),
        (
            "[activations]\n[[activations.overrides]]\nrank = 0.5\n",
            "c.toml:8: [[activations.overrides]] rank: is read only if",
        ),
    ];
    for (more, says) in cases {
        let message = refusal(more, &[]);
        assert!(message.starts_with(says), "expected {says:?}: {message}");
    }
    let message = refusal("", &["gradients.rank=3"]);
    assert!(
        message.starts_with("--set gradients.rank=3: [gradients] rank: is read only if"),
        "{message}"
    );
}

#[test]
fn keys_of_the_file_that_an_override_makes_meaningless_are_left_out() {
    let file = format!(
        "{LEAST}eval_samples = 3\n[activations]\nmethod = \"coded\"\nbits = 2.5\nrounding = \"nearest\"\n\
         [[activations.overrides]]\nlayers = \"0\"\nrounding = \"trellis\"\nbits = 4\n\
         [gradients]\nmethod = \"powersgd\"\nrank = 1\n[schedule]\nmethod = \"wsd\"\ndecay = 0.5\n"
    );
    let run = load(
        &file,
        &[
            "gradients.method=exact",
            "schedule.method=linear",
            "activations.sites=none",
            "data.eval=e",
        ],
    )
    .unwrap();
    let written = run.to_toml();
    assert!(
        !["\nrank = 1", "\ndecay", "bits", "rounding", "overrides", "eval_samples"]
            .iter()
            .any(|gone| written.contains(gone)),
        "{written}"
    );
    assert_eq!(load(&written, &[]).unwrap(), run);
    let message = load(
        &file,
        &["schedule.method=linear", "gradients.bucket_bytes=3", "activations.method=qb"],
    )
    .unwrap_err();
    assert!(
        message.contains("[[activations.overrides]] sites: has nothing to override"),
        "{message}"
    );
}

#[test]
fn a_bad_value_is_refused_with_its_line_and_the_valid_values() {
    // (text from line 6 on, the line of the key, what the message says)
    let cases = [
        (
            "[run]\nsteps = 0\n",
            7,
            "[run] steps: must be > 0 and <= 1000000000000 (valid: a whole number >= 1 and <=",
        ),
        ("[run]\nepochs = -1\n", 7, "[run] epochs: must be > 0"),
        ("[run]\nepochs = nan\n", 7, "[run] epochs: must be > 0"),
        (
            "[run]\nsteps = 3\nepochs = 1.0\n",
            8,
            "[run] epochs: cannot be given together with steps",
        ),
        (
            "[run]\nsteps = \"many\"\n",
            7,
            "[run] steps: cannot be \"many\" (valid: a whole number >= 1 and <= 1000000000000)",
        ),
        ("[run]\nsteps = -4\n", 7, "[run] steps: cannot be -4"),
        ("[run]\nbatch_size = 0\n", 7, "[run] batch_size: must be > 0"),
        (
            "[run]\nmicro_batch_size = 9\n",
            7,
            "[run] micro_batch_size: must be <= batch_size, which is 8",
        ),
        (
            "[run]\ndevice = \"gpu\"\n",
            7,
            "[run] device: unknown value \"gpu\", did you mean \"cpu\"? (valid: \"auto\"",
        ),
        ("[run]\nlog_every = 0\n", 7, "[run] log_every: must be > 0"),
        ("[run]\ndir = \"\"\n", 7, "[run] dir: must not be empty"),
        (
            "[activations]\n\n# why\nrank = 0\n",
            9,
            "[activations] rank: must be > 0 (valid: a fraction 0 < r <= 1",
        ),
        ("[activations]\nrank = 0.0\n", 7, "[activations] rank: must be > 0"),
        ("[activations]\nrank = 1.5\n", 7, "[activations] rank: must be <= 1 as a fraction"),
        (
            "[activations]\nrank = \"all\"\n",
            7,
            "[activations] rank: cannot be \"all\" (valid: a fraction",
        ),
        (
            "[activations]\nsites = \"layers\"\n",
            7,
            "unknown value \"layers\", did you mean \"layer\"?",
        ),
        ("[activations]\nsites = [\"norm\", \"attn_inn\"]\n", 7, "did you mean \"attn_in\"?"),
        ("[activations]\nsites = []\n", 7, "must not be an empty list"),
        ("[activations]\nsites = [1]\n", 7, "[activations] sites: cannot be [1]"),
        (
            "[activations]\nmethod = \"coded\"\nfactors = \"int8\"\n",
            8,
            "[activations] factors: cannot be \"int8\" for method = \"coded\"",
        ),
        (
            "[activations]\nmethod = \"coded\"\nbits = 17\n",
            8,
            "[activations] bits: must be > 0 and <= 16",
        ),
        ("[activations]\nbits = \"many\"\n", 7, "[activations] bits: cannot be \"many\""),
        ("[activations]\nbasis_layers = 0\n", 7, "[activations] basis_layers: must be > 0"),
        ("[cluster]\ntime = \"4h\"\n", 7, "[cluster] time: is not a time"),
        (
            "[cluster]\nmemory = \"64\"\n",
            7,
            "[cluster] memory: has no unit; write \"64G\" (valid: a whole number with the unit K, M, G or T",
        ),
        ("[cluster]\nmemory = 24\n", 7, "[cluster] memory: has no unit; write \"24G\""),
        ("[cluster]\nmemory = \"much\"\n", 7, "[cluster] memory: cannot be \"much\""),
        ("[cluster]\nqueue = \"a b\"\n", 7, "[cluster] queue: must be a name"),
        ("[cluster]\nimage = \"#a\"\n", 7, "[cluster] image: must be a name"),
        (
            "[cluster]\nimage_pull_secrets = [\"a\", \"b\\n\"]\n",
            7,
            "[cluster] image_pull_secrets: must be a name",
        ),
        (
            "[cluster]\ntolerations = [\"gpu:Never\"]\n",
            7,
            "[cluster] tolerations: cannot be \"gpu:Never\"",
        ),
        (
            "[cluster]\nenvironment = { \"A B\" = \"1\" }\n",
            7,
            "[cluster] environment: \"A B\" is not the name of an environment variable",
        ),
        (
            "[cluster]\nenvironment = { A = \"1\\n2\" }\n",
            7,
            "[cluster] environment: A has a line break",
        ),
        ("[cluster]\nrdma = { \"rdma/hca\" = 0 }\n", 7, "[cluster] rdma: must be > 0"),
        ("[cluster]\nrdma = { \"a b\" = 1 }\n", 7, "[cluster] rdma: \"a b\" is not the name"),
        (
            "[cluster]\ncontainer = \"pyxis\"\nmounts = [\"data\"]\n",
            8,
            "[cluster] mounts: \"data\" is not a folder from /",
        ),
        ("[cluster]\narray = [\"rank\"]\n", 7, "[cluster] array: \"rank\" is not table.key=value"),
        ("[cluster]\ncontainer = \"docker\"\n", 7, "[cluster] container: unknown value \"docker\""),
        ("[activations]\nbudget = 0\n", 7, "[activations] budget: must be > 0"),
        ("[activations]\nbudget = \"small\"\n", 7, "[activations] budget: cannot be \"small\""),
        ("[activations]\nbasis = \"unit\"\n", 7, "[activations] basis: unknown value \"unit\""),
        (
            "[activations]\nsketch = \"warm\"\nrank = \"auto\"\n",
            7,
            "[activations] sketch: \"warm\" needs a given rank",
        ),
        ("[activations]\nerror = 1.5\n", 7, "[activations] error: must be > 0 and < 1"),
        ("[activations]\nmax_rank = \"auto\"\n", 7, "[activations] max_rank: cannot be \"auto\""),
        (
            "[activations]\nsites = [\"layer\", \"sublayer\"]\n",
            7,
            "[activations] sites: has both \"layer\" and \"sublayer\"",
        ),
        ("[activations]\nstream = \"fast\"\n", 7, "[activations] stream: unknown value \"fast\""),
        ("[activations]\nfactors = \"int4\"\n", 7, "[activations] factors: unknown value \"int4\""),
        (
            "[activations]\nmethod = \"quantized\"\nbits = 3\n",
            8,
            "[activations] bits: must be 8 or 4",
        ),
        (
            "[activations]\nkeep_norms = 1\n",
            7,
            "[activations] keep_norms: cannot be 1 (valid: true | false)",
        ),
        ("[gradients]\nmethod = \"fp8\"\n", 7, "[gradients] method: unknown value \"fp8\""),
        ("[gradients]\nrank = 0\n", 7, "[gradients] rank: must be > 0"),
        ("[gradients]\nbucket_bytes = 0\n", 7, "[gradients] bucket_bytes: must be > 0"),
        (
            "[gradients]\nbucket_bytes = \"32\"\n",
            7,
            "[gradients] bucket_bytes: cannot be \"32\" (valid: a whole number of bytes >= 1 and <= 1099511627776, or a size with a unit",
        ),
        (
            "[optimizer]\nzero_stage = 2\n",
            7,
            "[optimizer] zero_stage: must be >= 0 and <= 1 (valid: 0 | 1)",
        ),
        ("[optimizer]\nzero_stage = true\n", 7, "[optimizer] zero_stage: cannot be true"),
        ("[gradients]\nmin_ratio = 0.5\n", 7, "[gradients] min_ratio: must be >= 1"),
        ("[optimizer]\nlearning_rate = 0.0\n", 7, "[optimizer] learning_rate: must be > 0"),
        (
            "[optimizer]\nbetas = [0.9]\n",
            7,
            "[optimizer] betas: cannot be [0.9] (valid: two numbers",
        ),
        (
            "[optimizer]\nbetas = [0.9, 1.0]\n",
            7,
            "[optimizer] betas: must be >= 0 and < 1 (valid: two numbers, each >= 0",
        ),
        ("[optimizer]\nbetas = [0.9, \"x\"]\n", 7, "[optimizer] betas: cannot be \"x\""),
        ("[optimizer]\nclip_grad_norm = -1.0\n", 7, "[optimizer] clip_grad_norm: must be >= 0"),
        ("[optimizer]\nweight_decay = inf\n", 7, "[optimizer] weight_decay: must be >= 0"),
        (
            "[optimizer]\nmethod = \"adam\"\n",
            7,
            "[optimizer] method: unknown value \"adam\", did you mean \"adamw\"? (valid: \"adamw\" | \"adamw8bit\"",
        ),
        (
            "[optimizer]\nmethod = \"sgd\"\nmomentum = 0\nnesterov = true\n",
            9,
            "[optimizer] nesterov: needs a momentum > 0",
        ),
        (
            "[optimizer]\nmethod = \"muon\"\nmomentum = 1\n",
            8,
            "[optimizer] momentum: must be >= 0 and < 1",
        ),
        (
            "[optimizer]\nmethod = \"muon\"\nscale = \"mean\"\n",
            8,
            "[optimizer] scale: unknown value \"mean\" (valid: \"original\"",
        ),
        (
            "[schedule]\nmethod = \"wsd\"\ndecay = 0\n",
            8,
            "[schedule] decay: must be > 0, and <= 1 as a fraction",
        ),
        (
            "[schedule]\nmethod = \"wsd\"\ndecay = 1.5\n",
            8,
            "[schedule] decay: must be > 0, and <= 1 as a fraction (valid: a fraction",
        ),
        (
            "[run]\nsteps = 5\n[schedule]\nmethod = \"wsd\"\nwarmup_steps = 2\ndecay = 4\n",
            11,
            "[schedule] decay: must be at most the 3 steps",
        ),
        (
            "[run]\nsteps = 5\n[schedule]\nwarmup_steps = 5\n",
            9,
            "[schedule] warmup_steps: must be < 5, the run's steps",
        ),
        ("[schedule]\nmin_ratio = 2\n", 7, "[schedule] min_ratio: must be >= 0 and <= 1"),
        ("[cluster]\nranks = 0\n", 7, "[cluster] ranks: must be > 0"),
        ("[cluster]\nmpirun = \"\"\n", 7, "[cluster] mpirun: must not be empty"),
        (
            "[cluster]\nmpirun_args = \"-v\"\n",
            7,
            "[cluster] mpirun_args: cannot be \"-v\" (valid: a list of strings)",
        ),
    ];
    for (more, line, says) in cases {
        let message = refusal(more, &[]);
        assert!(message.starts_with(&format!("c.toml:{line}: ")), "line {line}: {message}");
        assert!(message.contains(says), "expected {says:?} in: {message}");
    }
    let lora = [
        ("rank = 0", "[lora] rank: must be > 0"),
        ("alpha = 0", "[lora] alpha: must be > 0"),
        ("dropout = 1.0", "[lora] dropout: must be >= 0 and < 1"),
        (
            "target_modules = \"(q_proj\"",
            "[lora] target_modules: \"(q_proj\" is not a regular expression: ",
        ),
        ("exclude_modules = \"\"", "[lora] exclude_modules: must not be empty"),
        (
            "exclude_modules = [\"\"]",
            "[lora] exclude_modules: must name at least one module, and no empty name (valid: a list",
        ),
        (
            "layers_to_transform = []",
            "[lora] layers_to_transform: must name at least one layer (valid: a list of layers",
        ),
        ("layers_to_transform = 3", "[lora] layers_to_transform: cannot be 3"),
        (
            "rank_pattern = { q_proj = 0 }",
            "[lora] rank_pattern: must be > 0 and <= 65536 (valid: a table of ranks by module",
        ),
        (
            "rank_pattern = { \"(q\" = 1 }",
            "[lora] rank_pattern: \"(q\" is not a regular expression: ",
        ),
        ("alpha_pattern = { q_proj = -1.0 }", "[lora] alpha_pattern: must be > 0"),
        ("use_dora = 1", "[lora] use_dora: cannot be 1 (valid: true | false)"),
        (
            "init = \"pisa\"",
            "[lora] init: unknown value \"pisa\", did you mean \"pissa\"? (valid: \"default\" | \"gaussian\" | \"pissa\")",
        ),
        ("lora_plus_ratio = 0", "[lora] lora_plus_ratio: must be > 0"),
        ("modules_to_save = [\"\"]", "[lora] modules_to_save: must not have an empty name"),
        ("bias = \"all\"", "[lora] bias: \"all\" is not available yet (valid: \"none\")"),
        ("target_modules = []", "[lora] target_modules: must name at least one module"),
    ];
    for (key, says) in lora {
        let message =
            load(&LEAST.replace("[lora]\n", &format!("[lora]\n{key}\n")), &[]).unwrap_err();
        assert!(message.starts_with(&format!("c.toml:4: {says}")), "{message}");
    }
    for (key, says) in [("sequence_length = 1", "must be >= 2"), ("max_samples = 0", "must be > 0")]
    {
        let message = refusal(&format!("{key}\n"), &[]);
        assert!(message.starts_with("c.toml:6: [data] ") && message.contains(says), "{message}");
    }
}

#[test]
fn misspelt_names_are_refused_with_the_name_meant() {
    let cases = [
        (
            "[activations]\nsite = 1\n",
            "c.toml:7: [activations] site: unknown key, did you mean `sites`? (valid: sites, stream",
        ),
        (
            "[activation]\nsites = 1\n",
            "c.toml:6: [activation]: unknown table, did you mean [activations]? (valid: [run]",
        ),
        ("[zebra]\nevery = 1\n", "c.toml:6: [zebra]: unknown table (valid: [run]"),
        (
            "[checkpoint]\nsignals = [\"USR1\", \"KILL\"]\n",
            "c.toml:7: [checkpoint] signals: unknown value \"KILL\" (valid: a list of \"USR1\"",
        ),
        ("[checkpoint]\nkeep = 0\n", "c.toml:7: [checkpoint] keep: must be > 0"),
        (
            "[run]\nlearning_rate = 1\n",
            "c.toml:7: [run] learning_rate: unknown key, did you mean [optimizer] learning_rate?",
        ),
        (
            "[optimizer]\nlr = 1e-4\n",
            "c.toml:7: [optimizer] lr: unknown key, did you mean `learning_rate`?",
        ),
        (
            "[run]\nper_device_train_batch_size = 1\n",
            "c.toml:7: [run] per_device_train_batch_size: unknown key, did you mean `batch_size`?",
        ),
        (
            "[run]\nmax_seq_length = 1\n",
            "c.toml:7: [run] max_seq_length: unknown key, did you mean [data] sequence_length?",
        ),
        (
            "[optimizer]\nname = \"sgd\"\n",
            "c.toml:7: [optimizer] name: unknown key, did you mean `method`?",
        ),
        (
            "[optimizer]\nsplit = true\n",
            "c.toml:7: [optimizer] split: unknown key, did you mean `zero_stage`?",
        ),
        (
            "[schedule]\nkind = \"wsd\"\n",
            "c.toml:7: [schedule] kind: unknown key, did you mean `method`?",
        ),
        (
            "[activations]\ndifference = true\n",
            "c.toml:7: [activations] difference: unknown key, did you mean `delta`?",
        ),
        (
            "[activations]\ncolumns = \"norm\"\n",
            "c.toml:7: [activations] columns: unknown key, did you mean `sketch`?",
        ),
        (
            "[activations]\n[[activations.overrides]]\ncolumns = \"norm\"\n",
            "c.toml:8: [[activations.overrides]] columns: unknown key, did you mean `sketch`?",
        ),
        ("[run]\nstpes = 1\n", "c.toml:7: [run] stpes: unknown key, did you mean `steps`?"),
        ("[run]\nzebra = 1\n", "c.toml:7: [run] zebra: unknown key (valid: dir, seed"),
    ];
    for (more, says) in cases {
        let message = refusal(more, &[]);
        assert!(message.starts_with(says), "expected {says:?}: {message}");
    }
    let message = load(&format!("steps = 3\n{LEAST}"), &[]).unwrap_err();
    assert_eq!(message, "c.toml:1: steps: stands outside a table, did you mean [run] steps?");
    let message = load(&format!("run = 3\n{LEAST}"), &[]).unwrap_err();
    assert_eq!(message, "c.toml:1: run: is a table; write its keys below a line [run]");
}

#[test]
fn missing_things_are_named_with_the_nearest_place() {
    let says = |text: &str, start: &str| {
        let message = load(text, &[]).unwrap_err();
        assert!(message.starts_with(start), "{message}");
    };
    says(
        "[lora]\n[data]\ntrain = \"t\"\n",
        "c.toml: [model] path: is missing and has no default (valid: a Hugging Face",
    );
    says("[lora]\n[model]\npath = \"m\"\n[data]\n", "c.toml:4: [data] train: is missing");
    says(
        "[model]\npath = \"\"\n[lora]\n[data]\ntrain = \"t\"\n",
        "c.toml:2: [model] path: must not be empty",
    );
}

#[test]
fn a_syntax_error_names_its_line() {
    let message = refusal("[run]\nsteps = = 3\n", &[]);
    assert!(message.starts_with("c.toml:7: "), "{message}");
    let message = refusal("[run]\nsteps = 3\nsteps = 4\n", &[]);
    assert!(message.starts_with("c.toml:8: ") && message.contains("duplicate"), "{message}");
}

#[test]
fn overrides_win_and_are_toml_or_strings() {
    let text = format!("{LEAST}[run]\nsteps = 9\n");
    let run = load(
        &text,
        &[
            "run.steps=3",
            "run.dir=out/a",
            "activations.sites=[\"act\"]",
            "lora.alpha = 4",
            "run.steps=5",
        ],
    )
    .unwrap();
    assert_eq!(run.length(), Length::Steps(5), "the last one wins");
    assert_eq!(run.dir, Path::new("out/a"));
    assert_eq!(run.activations.sites, Sites::Of(vec![Site::Act]));
    assert_eq!(run.lora.unwrap().alpha, 4.0);
    let run = load(&text, &["cluster.mpirun=/opt/a=b", "data.train='quoted'"]).unwrap();
    assert_eq!(
        (run.cluster.mpirun.as_str(), run.data.train.first()),
        ("/opt/a=b", Path::new("quoted"))
    );
    assert!(
        load("[model]\npath = \"m\"\n[data]\ntrain = \"t\"\n", &["lora.rank=4"]).is_ok(),
        "an override may add a table"
    );
}

#[test]
fn an_override_of_steps_replaces_epochs_of_the_file() {
    assert_eq!(
        load(&format!("{LEAST}[run]\nepochs = 2\n"), &["run.steps=3"]).unwrap().length(),
        Length::Steps(3)
    );
    assert_eq!(
        load(&format!("{LEAST}[run]\nsteps = 2\n"), &["run.epochs=0.5"]).unwrap().length(),
        Length::Epochs(0.5)
    );
    let message = refusal("", &["run.epochs=0.5", "run.steps=3"]);
    assert!(
        message
            .starts_with("--set run.epochs=0.5: [run] epochs: cannot be given together with steps"),
        "{message}"
    );
}

#[test]
fn errors_of_overrides_name_the_override() {
    let cases = [
        (
            "run.steps=abc",
            "--set run.steps=abc: [run] steps: cannot be \"abc\" (valid: a whole number >= 1 and <= 1000000000000)",
        ),
        ("run.steps=0", "--set run.steps=0: [run] steps: must be > 0"),
        ("run.step=3", "--set run.step=3: [run] step: unknown key, did you mean `steps`?"),
        ("runs.steps=3", "--set runs.steps=3: [runs]: unknown table, did you mean [run]?"),
        (
            "optimizer.betas=[0.9,'b']",
            "--set optimizer.betas=[0.9,'b']: [optimizer] betas: cannot be \"b\"",
        ),
        ("steps=3", "--set steps=3: not an override (valid: table.key=value"),
        ("run.steps", "--set run.steps: not an override"),
        ("run.a.b=1", "--set run.a.b=1: not an override"),
        (
            "activations.method=code",
            "--set activations.method=code: [activations] method: unknown value \"code\", did you mean \"coded\"?",
        ),
    ];
    for (given, says) in cases {
        let message = refusal("[run]\nsteps = 9\n", &["run.seed=1", given, "run.threads=1"]);
        assert!(message.starts_with(says), "expected {says:?}: {message}");
    }
}

#[test]
fn a_rank_given_as_a_fraction_is_rounded() {
    assert_eq!(Rank::Fraction(0.25).of(576), Some(144));
    assert_eq!(Rank::Fraction(0.3).of(10), Some(3));
    assert_eq!(Rank::Columns(7).of(10), Some(7));
    assert_eq!(Rank::Auto.of(10), None);
    let rank = |rank: &str| {
        load(&format!("{LEAST}[activations]\nrank = {rank}\n"), &[])
            .unwrap()
            .activations
            .compression
            .rank
    };
    assert_eq!(
        [rank("1.0"), rank("1"), rank("\"auto\"")],
        [Rank::Fraction(1.0), Rank::Columns(1), Rank::Auto]
    );
}

#[test]
fn overrides_hold_for_their_sites_and_layers_and_the_last_one_wins() {
    let text = format!(
        "{LEAST}[activations]\nsites = [\"layer\", \"mlp_in\", \"mlp_out\"]\nrank = 0.5\n\
         [[activations.overrides]]\nsites = \"mlp_*\"\nmethod = \"quantized\"\n\
         [[activations.overrides]]\nlayers = \"4..\"\nbits = 4\nrank = 0.25\n\
         [[activations.overrides]]\nsites = [\"layer\"]\nlayers = \"..2\"\nmethod = \"exact\"\n"
    );
    let run = load(&text, &[]).unwrap();
    assert_eq!(load(&run.to_toml(), &[]).unwrap(), run);
    let at = |site, layer| {
        let (compression, given) = run.activations.compression_at(site, layer).unwrap();
        (compression.method, compression.rank, compression.bits == Bits::Number(4.0), given)
    };
    assert_eq!(at(Site::Layer, 0), (CompressionMethod::Exact, Rank::Fraction(0.5), false, Some(2)));
    assert_eq!(at(Site::Layer, 3), (CompressionMethod::Qb, Rank::Fraction(0.5), false, None));
    assert_eq!(at(Site::Layer, 4), (CompressionMethod::Qb, Rank::Fraction(0.25), true, Some(1)));
    assert_eq!(
        at(Site::MlpOut, 3),
        (CompressionMethod::Quantized, Rank::Fraction(0.5), false, Some(0))
    );
    assert_eq!(
        at(Site::MlpIn, 9),
        (CompressionMethod::Quantized, Rank::Fraction(0.25), true, Some(1))
    );
    assert_eq!(run.activations.compression_at(Site::Act, 0), None);
    let set = "activations.overrides=[{sites='layer', layers='0..3', method='svd'}]";
    let run = load(&text, &[set]).unwrap();
    assert_eq!(run.activations.overrides.len(), 1, "an override of the list replaces it");
    assert_eq!(
        run.activations.compression_at(Site::Layer, 2).unwrap().0.method,
        CompressionMethod::Svd
    );
}

#[test]
fn faults_in_overrides_are_refused_at_their_line() {
    let cases = [
        ("rank = 0", "c.toml:8: [[activations.overrides]] rank: must be > 0 (valid: a fraction"),
        (
            "rnk = 1",
            "c.toml:8: [[activations.overrides]] rnk: unknown key, did you mean `rank`? (valid: sites, layers, method",
        ),
        (
            "bits = \"x\"",
            "c.toml:8: [[activations.overrides]] bits: cannot be \"x\" (valid: 8 | 4; with coded",
        ),
        (
            "sites = \"mlp_*\"\nbits = 4",
            "c.toml:8: [[activations.overrides]] sites: \"mlp_*\" matches none of the sites that are compressed; add",
        ),
        (
            "sites = [\"q*\"]\nbits = 4",
            "c.toml:8: [[activations.overrides]] sites: \"q*\" matches no site (valid: names or",
        ),
        (
            "layers = \"3..3\"\nbits = 4",
            "c.toml:8: [[activations.overrides]] layers: cannot be \"3..3\" (valid: a range",
        ),
        (
            "layers = 3\nbits = 4",
            "c.toml:8: [[activations.overrides]] layers: cannot be 3 (valid: a range",
        ),
        ("sites = \"layer\"", "c.toml:8: [[activations.overrides]] sites: has nothing to override"),
    ];
    for (keys, says) in cases {
        let message = refusal(&format!("[activations]\n[[activations.overrides]]\n{keys}\n"), &[]);
        assert!(message.starts_with(says), "expected {says:?}: {message}");
    }
    let message = refusal("", &["activations.overrides=[{rank=0}]"]);
    assert!(
        message.starts_with(
            "--set activations.overrides=[{rank=0}]: [[activations.overrides]] rank: must be > 0"
        ),
        "{message}"
    );
}

#[test]
fn a_batch_has_a_sequence_for_each_rank_or_is_refused() {
    let run = load(&format!("{LEAST}[run]\nbatch_size = 6\n"), &[]).unwrap();
    assert_eq!((run.share(3).unwrap(), run.share(4).unwrap()), (2, 2));
    let message = run.share(7).unwrap_err().to_string();
    assert!(
        message.starts_with("c.toml:7: [run] batch_size: is 6, fewer than the 7 ranks"),
        "{message}"
    );
}

#[test]
fn paths_that_lead_nowhere_are_refused_at_their_line() {
    let message = load(LEAST, &[]).unwrap().check_paths().unwrap_err().to_string();
    assert!(message.starts_with("c.toml:2: [model] path: there is no m;"), "{message}");
    let here = load(&LEAST.replace("\"m\"", "\".\""), &[]).unwrap();
    let message = here.check_paths().unwrap_err().to_string();
    assert!(message.starts_with("c.toml:5: [data] train: there is no t.jsonl;"), "{message}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let message = Run::load(Path::new("no/such.toml"), &[]).unwrap_err().to_string();
    assert!(message.starts_with("no/such.toml: cannot read the configuration: "), "{message}");
}

#[test]
fn the_ready_configurations_load() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut seen = 0;
    for entry in std::fs::read_dir(configs).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let run = Run::load(&path, &[]).unwrap();
        assert!(run.share(run.cluster.ranks).is_ok(), "{}", path.display());
        let comment = std::fs::read_to_string(&path).unwrap();
        for says in ["# Needs:", "# Fetch:", "# Run:", "loract launch", "--set"] {
            assert!(comment.contains(says), "{} does not say {says}", path.display());
        }
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn training_data_are_a_path_or_a_list_with_weights() {
    let with = |train: &str| LEAST.replace("\"t.jsonl\"", train);
    for (train, expected) in [
        ("\"a\"", vec![("a", 1.0)]),
        ("[\"a\", \"b\"]", vec![("a", 1.0), ("b", 1.0)]),
        ("[\"a\", { path = \"b\", weight = 0.5 }]", vec![("a", 1.0), ("b", 0.5)]),
        ("[{ path = \"a\", weight = 2 }]", vec![("a", 2.0)]),
    ] {
        let run = load(&with(train), &[]).unwrap();
        let found: Vec<_> = run
            .data
            .train
            .iter()
            .map(|source| (source.path.to_str().unwrap(), source.weight))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(load(&run.to_toml(), &[]).unwrap(), run, "{}", run.to_toml());
    }
    let says = |text: &str, what: &str| {
        let message = load(text, &[]).unwrap_err().to_string();
        assert!(message.starts_with("c.toml:") && message.contains(what), "{message}");
    };
    says(
        &with("[]"),
        "5: [data] train: must not be empty (valid: a path, of a file or a folder | a list",
    );
    says(
        &with("[{ path = \"a\", weight = 0 }]"),
        "5: [[data.train]] weight: must be > 0 and <= 1000",
    );
    says(&with("[{ path = \"a\", wait = 1 }]"), "5: [[data.train]] wait: unknown key");
    says(&with("3"), "5: [data] train: cannot be 3");
    says(
        &with("\"a\"\neval = [{ path = \"b\", weight = 2.0 }]"),
        "6: [data] eval: has a weight, which only training data may have",
    );
    let classifier = with("[\"a\", \"b\"]")
        .replace("path = \"m\"", "path = \"m\"\ntask = \"sequence_classification\"");
    says(&classifier, "6: [data] train: is a list, and a classifier reads one file or folder");
}
