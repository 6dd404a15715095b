//! The tokenizer classes of transformers 4.57.6, as far as they decide ids: the special tokens that
//! each has where no file names any (the defaults of its `__init__`), and which class belongs to
//! which `model_type` (`tokenization_auto.py`).

use serde_json::Value;

/// The special tokens of transformers, in its order: `bos`, `eos`, `unk`, `sep`, `pad`, `cls`,
/// `mask`.
pub(super) const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What a tokenizer class of transformers does beyond its files.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Class {
    /// Its name without `TokenizerFast`.
    pub(super) name: &'static str,
    /// The default of each of [`ROLES`]; empty where there is none.
    defaults: [&'static str; 7],
}

/// A class that none of the known is: `PreTrainedTokenizerFast`, or one that comes as code with the
/// model.
const OTHER: Class = Class { name: "PreTrained", defaults: [""; 7] };

#[rustfmt::skip]
const DEFAULTS: [(&str, [&str; 7]); 41] = [
    ("Albert", ["[CLS]", "[SEP]", "<unk>", "[SEP]", "<pad>", "[CLS]", "[MASK]"]),
    ("Bart", ["<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"]),
    ("Bert", ["", "", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]),
    ("BigBird", ["<s>", "</s>", "<unk>", "[SEP]", "<pad>", "[CLS]", "[MASK]"]),
    ("BlenderbotSmall", ["<|endoftext|>", "<|endoftext|>", "<|endoftext|>", "", "", "", ""]),
    ("Blenderbot", ["<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"]),
    ("Bloom", ["<s>", "</s>", "<unk>", "", "<pad>", "", ""]),
    ("Camembert", ["<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"]),
    ("CodeGen", ["<|endoftext|>", "<|endoftext|>", "<|endoftext|>", "", "", "", ""]),
    ("CodeLlama", ["<s>", "</s>", "<unk>", "", "", "", ""]),
    ("Cohere", ["<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<UNK>", "", "", "", ""]),
    ("ConvBert", ["", "", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]),
    ("Deberta", ["[CLS]", "[SEP]", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]),
    ("DebertaV2", ["[CLS]", "[SEP]", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]),
    ("DistilBert", ["", "", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]),
    ("Electra", ["", "", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]),
    ("FNet", ["", "", "<unk>", "[SEP]", "<pad>", "[CLS]", "[MASK]"]),
    ("Funnel", ["<s>", "</s>", "<unk>", "<sep>", "<pad>", "<cls>", "<mask>"]),
    ("GPT2", ["<|endoftext|>", "<|endoftext|>", "<|endoftext|>", "", "", "", ""]),
    ("GPTNeoX", ["<|endoftext|>", "<|endoftext|>", "<|endoftext|>", "", "", "", ""]),
    ("Gemma", ["<bos>", "<eos>", "<unk>", "", "<pad>", "", ""]),
    ("LED", ["<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"]),
    ("Llama", ["<s>", "</s>", "<unk>", "", "", "", ""]),
    ("Longformer", ["<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"]),
    ("MPNet", ["<s>", "</s>", "[UNK]", "</s>", "<pad>", "<s>", "<mask>"]),
    ("MT5", ["", "</s>", "<unk>", "", "<pad>", "", ""]),
    ("MobileBert", ["", "", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]),
    ("Mvp", ["<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"]),
    ("OpenAIGPT", ["", "", "<unk>", "", "", "", ""]),
    ("Pegasus", ["", "</s>", "<unk>", "", "<pad>", "", "<mask_2>"]),
    ("Qwen2", ["", "<|endoftext|>", "<|endoftext|>", "", "<|endoftext|>", "", ""]),
    ("Reformer", ["", "</s>", "<unk>", "", "", "", ""]),
    ("RemBert", ["[CLS]", "[SEP]", "<unk>", "[SEP]", "<pad>", "[CLS]", "[MASK]"]),
    ("RoFormer", ["", "", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]),
    ("Roberta", ["<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"]),
    ("Splinter", ["", "", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]),
    ("SqueezeBert", ["", "", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]),
    ("T5", ["", "</s>", "<unk>", "", "<pad>", "", ""]),
    ("XGLM", ["<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", ""]),
    ("XLMRoberta", ["<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"]),
    ("XLNet", ["<s>", "</s>", "<unk>", "<sep>", "<pad>", "<cls>", "<mask>"]),
];

/// The class of a `model_type`, where `tokenizer_config.json` and `config.json` name none.
const MODEL_TYPES: &[(&str, &[&str])] = &[
    ("Albert", &["albert", "nystromformer", "yoso"]),
    ("Bart", &["bart"]),
    (
        "Bert",
        &[
            "align",
            "bark",
            "bert",
            "blip",
            "bros",
            "chinese_clip",
            "ernie",
            "git",
            "grounding-dino",
            "megatron-bert",
            "mm-grounding-dino",
            "nezha",
            "qdqbert",
            "tvp",
            "vilt",
            "visual_bert",
        ],
    ),
    ("BigBird", &["big_bird"]),
    ("Blenderbot", &["blenderbot"]),
    ("Bloom", &["bloom"]),
    ("Camembert", &["camembert"]),
    ("CodeGen", &["codegen", "phi"]),
    ("CodeLlama", &["code_llama"]),
    ("Cohere", &["aya_vision", "cohere", "cohere2"]),
    ("ConvBert", &["convbert"]),
    ("Deberta", &["deberta"]),
    ("DebertaV2", &["deberta-v2"]),
    ("DistilBert", &["distilbert"]),
    ("Electra", &["electra"]),
    ("FNet", &["fnet"]),
    ("Funnel", &["funnel"]),
    (
        "GPT2",
        &[
            "blip-2",
            "dbrx",
            "emu3",
            "exaone4",
            "flex_olmo",
            "gpt2",
            "gpt_bigcode",
            "gpt_neo",
            "gptj",
            "instructblip",
            "instructblipvideo",
            "minimax",
            "olmo3",
            "opt",
            "starcoder2",
        ],
    ),
    (
        "GPTNeoX",
        &[
            "falcon_mamba",
            "gpt_neox",
            "mamba",
            "mamba2",
            "mpt",
            "olmo",
            "olmo2",
            "olmoe",
            "rwkv",
            "stablelm",
            "xlstm",
        ],
    ),
    (
        "Gemma",
        &[
            "gemma",
            "gemma2",
            "gemma3",
            "gemma3_text",
            "gemma3n",
            "gemma3n_text",
            "recurrent_gemma",
            "shieldgemma2",
            "siglip2",
            "t5gemma",
        ],
    ),
    ("LED", &["led"]),
    (
        "Llama",
        &[
            "arcee",
            "aria",
            "chameleon",
            "colpali",
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_vl",
            "deepseek_vl_hybrid",
            "diffllama",
            "ernie4_5",
            "ernie4_5_moe",
            "idefics",
            "idefics2",
            "idefics3",
            "jamba",
            "janus",
            "jetmoe",
            "llama",
            "llama4",
            "llama4_text",
            "llava",
            "llava_next",
            "llava_next_video",
            "llava_onevision",
            "ministral",
            "mistral",
            "mistral3",
            "mixtral",
            "mllama",
            "paligemma",
            "persimmon",
            "phi3",
            "phimoe",
            "video_llava",
            "vipllava",
            "zamba",
            "zamba2",
        ],
    ),
    ("Longformer", &["longformer"]),
    ("MPNet", &["mpnet"]),
    ("MT5", &["mt5"]),
    ("MobileBert", &["mobilebert"]),
    ("Mvp", &["mvp"]),
    ("OpenAIGPT", &["openai-gpt"]),
    ("Pegasus", &["bigbird_pegasus", "pegasus", "pegasus_x"]),
    (
        "Qwen2",
        &[
            "colqwen2",
            "internvl",
            "qwen2",
            "qwen2_5_omni",
            "qwen2_5_vl",
            "qwen2_audio",
            "qwen2_moe",
            "qwen2_vl",
            "qwen3",
            "qwen3_moe",
            "qwen3_next",
            "qwen3_omni_moe",
            "qwen3_vl",
            "qwen3_vl_moe",
        ],
    ),
    ("Reformer", &["reformer"]),
    ("RemBert", &["rembert"]),
    ("RoFormer", &["roformer"]),
    (
        "Roberta",
        &[
            "bridgetower",
            "clap",
            "data2vec-text",
            "ibert",
            "mega",
            "mra",
            "roberta",
            "roberta-prelayernorm",
        ],
    ),
    ("Splinter", &["splinter"]),
    ("SqueezeBert", &["squeezebert"]),
    (
        "T5",
        &[
            "longt5",
            "musicgen",
            "musicgen_melody",
            "pix2struct",
            "switch_transformers",
            "t5",
            "umt5",
        ],
    ),
    ("XGLM", &["xglm"]),
    ("XLMRoberta", &["kosmos-2", "metaclip_2", "xlm-roberta", "xlm-roberta-xl", "xmod"]),
    ("XLNet", &["xlnet"]),
];

impl Class {
    /// The class that `AutoTokenizer` opens: that of `tokenizer_config.json`, else that of
    /// `config.json`, else the one of its `model_type`.
    pub(super) fn new(tokenizer_config: &Value, model_config: &Value) -> Self {
        let named = [tokenizer_config, model_config]
            .into_iter()
            .find_map(|table| table["tokenizer_class"].as_str());
        let name = match named {
            Some(class) => class.trim_end_matches("Fast").trim_end_matches("Tokenizer"),
            None => model_config["model_type"].as_str().map_or("", of_model_type),
        };
        Self::named(name)
    }

    fn named(name: &str) -> Self {
        DEFAULTS
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(OTHER, |&(name, defaults)| Self { name, defaults })
    }

    /// The class that opens a SentencePiece model or a `tekken.json` on its own.
    pub(super) fn llama() -> Self {
        Self::named("Llama")
    }

    /// Whether transformers has no class of this name, or one without rules of its own.
    pub(super) fn is_other(&self) -> bool {
        self.name == OTHER.name
    }

    /// Whether `add_prefix_space` has it made from its SentencePiece model, whatever
    /// `tokenizer.json` says.
    pub(super) fn converts_for_prefix(&self) -> bool {
        ["Llama", "T5", "MT5"].contains(&self.name)
    }

    /// The default for the role at this place of [`ROLES`].
    pub(super) fn default(&self, role: usize) -> Option<&'static str> {
        Some(self.defaults[role]).filter(|token| !token.is_empty())
    }

    /// Whether `add_bos_token` and `add_eos_token` decide the tokens around a text, whatever
    /// `tokenizer.json` says (`update_post_processor`), and what `add_bos_token` is where it is not
    /// given.
    pub(super) fn adds_bos(&self) -> Option<bool> {
        match self.name {
            "Llama" | "CodeLlama" | "Gemma" | "Cohere" => Some(true),
            "GPTNeoX" => Some(false),
            _ => None,
        }
    }

    /// Whether `do_lower_case`, `strip_accents` and `tokenize_chinese_chars` are written into the
    /// normalizer.
    pub(super) fn sets_bert_normalizer(&self) -> bool {
        [
            "Bert",
            "ConvBert",
            "DistilBert",
            "Electra",
            "Funnel",
            "MobileBert",
            "MPNet",
            "RoFormer",
            "Splinter",
            "SqueezeBert",
        ]
        .contains(&self.name)
    }

    /// Additional special tokens that a class brings: the sentinels of T5, the infilling of Code
    /// Llama.
    pub(super) fn additional(&self, config: &Value) -> Vec<String> {
        match self.name {
            "T5" | "MT5" => (0..config["extra_ids"].as_u64().unwrap_or(100))
                .map(|i| format!("<extra_id_{i}>"))
                .collect(),
            "CodeLlama" => ["▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"].map(str::to_owned).to_vec(),
            _ => Vec::new(),
        }
    }
}

fn of_model_type(model_type: &str) -> &'static str {
    MODEL_TYPES.iter().find(|(_, types)| types.contains(&model_type)).map_or("", |(class, _)| class)
}
