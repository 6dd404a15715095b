//! A request and its answer, under the names that data sets have for them.

use serde_json::{Map, Value};

use super::{Fault, Reader, Record, fault, string, system, turns};
use crate::message::{Conversation, Message};
use crate::options::Pairs;

/// The names of a pair: what is asked, what it is asked about, and what is answered.
struct Names {
    request: &'static str,
    about: &'static [&'static str],
    answer: &'static str,
}

const fn names(
    request: &'static str,
    about: &'static [&'static str],
    answer: &'static str,
) -> Names {
    Names { request, about, answer }
}

/// Pairs by their columns; the first that a record has all of is taken. Alpaca and Dolly come
/// first: they have an `input` or a `context`, too.
const KNOWN: [Names; 11] = [
    names("instruction", &["input", "context"], "output"),
    names("instruction", &["input", "context"], "response"),
    names("prompt", &[], "completion"),
    names("prompt", &[], "response"),
    names("question", &["context"], "answer"),
    names("question", &["context"], "response"),
    names("query", &["context"], "response"),
    names("query", &["context"], "answer"),
    names("problem", &[], "solution"),
    names("inputs", &[], "targets"),
    names("input", &[], "output"),
];

/// Whether a table with these columns has a pair.
pub(super) fn is_in(has: impl Fn(&str) -> bool) -> bool {
    has("chosen") || KNOWN.iter().any(|names| has(names.request) && has(names.answer))
}

/// Takes a pair out of `fields`, if there is one.
pub(super) fn take(
    reader: &Reader,
    fields: &mut Map<String, Value>,
) -> Result<Option<Record>, Fault> {
    if fields.contains_key("chosen") {
        return preference(reader, fields).map(Some);
    }
    let has = |key: &str| fields.contains_key(key);
    let Some(names) = KNOWN.iter().find(|names| has(names.request) && has(names.answer)) else {
        return Ok(None);
    };
    if fields[names.request].is_array() || fields[names.answer].is_array() {
        return conversational(names, fields).map(Some);
    }
    let all = fields.clone();
    let request = string(fields, names.request)?;
    let answer = string(fields, names.answer)?;
    let given: Vec<&str> =
        names.about.iter().copied().filter(|key| fields.contains_key(*key)).collect();
    let about =
        given.into_iter().map(|key| string(fields, key)).collect::<Result<Vec<String>, Fault>>()?;
    let pair = Pair {
        is_completion: names.request == "prompt" && names.answer == "completion",
        is_instruction: names.request == "instruction",
        about: about
            .into_iter()
            .filter(|text| !text.trim().is_empty())
            .collect::<Vec<_>>()
            .join("\n"),
        system: system(fields)?,
        history: history(fields)?,
        request,
        answer,
    };
    if pair.answer.is_empty() {
        return fault(
            format!("the {} is empty", names.answer),
            "remove the record, or skip bad lines",
        );
    }
    pair.record(reader, &all).map(Some)
}

/// A request and its answer, by what they are.
struct Pair {
    is_completion: bool,
    is_instruction: bool,
    request: String,
    about: String,
    answer: String,
    system: Option<String>,
    /// Earlier requests and answers (LLaMA-Factory).
    history: Vec<[String; 2]>,
}

impl Pair {
    fn record(self, reader: &Reader, fields: &Map<String, Value>) -> Result<Record, Fault> {
        if let Some(template) = &reader.prompt_template {
            let variables = super::values(fields);
            let prompt = template.render(&variables).map_err(|problem| Fault {
                problem: format!("[data] prompt_template does not render ({problem})"),
                remedy: "it may use the columns of the record".into(),
            })?;
            return Ok(Record::Completion { prompt, completion: self.answer });
        }
        let as_chat = match reader.pairs {
            Pairs::Auto => !self.is_completion && reader.has_chat_template,
            Pairs::Chat => true,
            Pairs::Text => false,
        };
        if as_chat { Ok(Record::Conversation(self.conversation())) } else { self.completion() }
    }

    fn conversation(self) -> Conversation {
        let asked = if self.about.is_empty() {
            self.request
        } else {
            format!("{}\n\n{}", self.request, self.about)
        };
        let mut messages: Vec<Message> =
            self.system.map(|system| Message::new("system", system)).into_iter().collect();
        for [request, answer] in self.history {
            messages.extend([Message::new("user", request), Message::new("assistant", answer)]);
        }
        messages.extend([Message::new("user", asked), Message::new("assistant", self.answer)]);
        Conversation::new(messages)
    }

    /// As text: Alpaca's words around an instruction (Taori et al., 2023, `train.py`), else the
    /// request as it is.
    fn completion(self) -> Result<Record, Fault> {
        if !self.history.is_empty() {
            return fault(
                "the record has a `history`, which only a chat can show",
                "set [data] pairs to \"chat\", or give a prompt_template",
            );
        }
        let before = self.system.map(|system| format!("{system}\n\n")).unwrap_or_default();
        let prompt = match (self.is_instruction, self.about.as_str()) {
            (true, "") => {
                format!("{ALPACA_PLAIN}\n\n### Instruction:\n{}\n\n### Response:\n", self.request)
            }
            (true, about) => format!(
                "{ALPACA_INPUT}\n\n### Instruction:\n{}\n\n### Input:\n{about}\n\n### Response:\n",
                self.request
            ),
            (false, "") => self.request,
            (false, about) => format!("{about}\n\n{}", self.request),
        };
        Ok(Record::Completion { prompt: format!("{before}{prompt}"), completion: self.answer })
    }
}

const ALPACA_PLAIN: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the request.";
const ALPACA_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides further context. \
                            Write a response that appropriately completes the request.";

/// `history`: a list of lists of a request and its answer.
fn history(fields: &mut Map<String, Value>) -> Result<Vec<[String; 2]>, Fault> {
    const REMEDY: &str = "write [[\"request\", \"answer\"], ...]";
    let refused =
        || Fault { problem: "`history` is no list of pairs".into(), remedy: REMEDY.into() };
    let turns = match fields.shift_remove("history") {
        None => return Ok(Vec::new()),
        Some(Value::Array(turns)) => turns,
        Some(_) => return Err(refused()),
    };
    let pair = |turn: &Value| match turn.as_array().map(Vec::as_slice) {
        Some([Value::String(request), Value::String(answer)]) => {
            Ok([request.clone(), answer.clone()])
        }
        _ => Err(refused()),
    };
    turns.iter().map(pair).collect()
}

/// A prompt and a completion that are lists of turns (TRL's conversational form): the loss falls on
/// the completion's.
fn conversational(names: &Names, fields: &mut Map<String, Value>) -> Result<Record, Fault> {
    let (prompt, answer) = (fields.shift_remove(names.request), fields.shift_remove(names.answer));
    let prompt = turns::read(prompt.unwrap_or_default(), names.request)?;
    let answer = turns::read(answer.unwrap_or_default(), names.answer)?;
    Ok(Record::Conversation(joined(prompt, answer)))
}

fn joined(mut messages: Vec<Message>, answer: Vec<Message>) -> Conversation {
    let prompt_turns = messages.len();
    messages.extend(answer);
    Conversation { prompt_turns, ..Conversation::new(messages) }
}

/// What may stand for `prompt` in a pair for preference training.
const PROMPTS: [&str; 5] = ["prompt", "instruction", "question", "query", "input"];

/// A pair for preference training: what was preferred is learned. `rejected` stays unread, and is
/// named as that, but for what it shares with `chosen`: where no prompt is given that is the prompt
/// (`maybe_extract_prompt` of TRL).
fn preference(reader: &Reader, fields: &mut Map<String, Value>) -> Result<Record, Fault> {
    let all = fields.clone();
    let chosen = fields.shift_remove("chosen").unwrap_or_default();
    let key = PROMPTS.into_iter().find(|key| fields.contains_key(*key));
    let prompt = key.and_then(|key| fields.shift_remove(key));
    match (prompt, chosen) {
        (Some(Value::String(request)), Value::String(answer)) if !answer.is_empty() => {
            let (system, history) = (system(fields)?, history(fields)?);
            let is_completion = key == Some("prompt");
            let pair = Pair {
                is_completion,
                is_instruction: key == Some("instruction"),
                request,
                about: String::new(),
                answer,
                system,
                history,
            };
            pair.record(reader, &all)
        }
        (Some(prompt @ Value::Array(_)), chosen @ Value::Array(_)) => Ok(Record::Conversation(
            joined(turns::read(prompt, "prompt")?, turns::read(chosen, "chosen")?),
        )),
        (prompt @ (None | Some(Value::String(_))), chosen @ Value::Array(_)) => {
            let shared = match (&chosen, fields.get("rejected")) {
                (Value::Array(chosen), Some(Value::Array(rejected))) => {
                    chosen.iter().zip(rejected).take_while(|(a, b)| a == b).count()
                }
                _ => 0,
            };
            let messages = turns::read(chosen, "chosen")?;
            // A prompt that is no turn is named as unread.
            if let (Some(key), Some(prompt)) = (key, prompt)
                && !messages.iter().any(|message| message.fields().get("content") == Some(&prompt))
            {
                fields.insert(key.into(), prompt);
            }
            Ok(Record::Conversation(Conversation {
                prompt_turns: shared.min(messages.len()),
                ..Conversation::new(messages)
            }))
        }
        (None, Value::String(chosen)) if fields.get("rejected").is_some_and(Value::is_string) => {
            let rejected = string(fields, "rejected")?;
            let prompt = shared_prompt(&chosen, &rejected).to_owned();
            let completion = chosen[prompt.len()..].to_owned();
            if completion.trim().is_empty() {
                return fault(
                    "`chosen` says nothing that `rejected` does not say",
                    "remove the record, or skip bad lines",
                );
            }
            Ok(Record::Completion { prompt, completion })
        }
        (Some(prompt), chosen) => {
            let problem = format!(
                "`{}` is {} and `chosen` {}",
                key.unwrap_or("prompt"),
                super::kind(&prompt),
                super::kind(&chosen)
            );
            fault(problem, "give both as text that is not empty, or both as lists of turns")
        }
        (None, chosen) => fault(
            format!("there is no `prompt`, and `chosen` is {}", super::kind(&chosen)),
            "give a prompt, or turns",
        ),
    }
}

/// What two texts begin with alike, without the space before the first difference (`extract_prompt`
/// of TRL).
fn shared_prompt<'a>(chosen: &'a str, rejected: &str) -> &'a str {
    let shared = chosen
        .chars()
        .zip(rejected.chars())
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum();
    let shared: &str = &chosen[..shared];
    shared.strip_suffix(' ').unwrap_or(shared)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{completion, read};
    use super::*;

    #[test]
    fn alpaca_is_its_own_prompt_without_a_chat_template_and_a_chat_with_one() {
        let record = r#"{"instruction":"Add","input":"1 2","output":"3"}"#;
        let (prompt, answer) = completion(&Reader::default(), record);
        assert!(
            prompt.starts_with(ALPACA_INPUT)
                && prompt.ends_with("### Instruction:\nAdd\n\n### Input:\n1 2\n\n### Response:\n"),
            "{prompt}"
        );
        assert_eq!(answer, "3");
        let reader = Reader { has_chat_template: true, ..Reader::default() };
        let expected = Conversation::new(vec![
            Message::new("user", "Add\n\n1 2"),
            Message::new("assistant", "3"),
        ]);
        assert_eq!(read(&reader, record), Ok(Record::Conversation(expected)));
        let text = Reader { pairs: Pairs::Text, ..reader };
        assert_eq!(
            completion(&text, r#"{"instruction":"Add","input":"","output":"3"}"#).0,
            format!("{ALPACA_PLAIN}\n\n### Instruction:\nAdd\n\n### Response:\n")
        );
    }

    #[test]
    fn an_input_that_is_no_text_is_refused() {
        let refused = read(&Reader::default(), r#"{"instruction":"Add","input":3,"output":"3"}"#)
            .unwrap_err();
        assert!(refused.problem.contains("`input` is a number"), "{}", refused.problem);
    }

    #[test]
    fn other_names_of_pairs_are_known() {
        let names = [
            ("question", "answer"),
            ("query", "response"),
            ("problem", "solution"),
            ("inputs", "targets"),
            ("input", "output"),
            ("prompt", "response"),
        ];
        for (request, answer) in names {
            let record = format!(r#"{{"{request}":"a","{answer}":"b"}}"#);
            assert_eq!(
                completion(&Reader::default(), &record),
                ("a".into(), "b".into()),
                "{record}"
            );
        }
    }

    #[test]
    fn a_prompt_template_writes_the_prompt_of_a_pair() {
        let template = crate::jinja::Program::parse(
            "Q: {{ question }} ({{ level }})\nA: ",
            chrono::Local::now(),
        )
        .unwrap();
        let reader =
            Reader { prompt_template: Some(std::sync::Arc::new(template)), ..Reader::default() };
        assert_eq!(
            completion(&reader, r#"{"question":"a","level":3,"answer":"b"}"#),
            ("Q: a (3)\nA: ".into(), "b".into())
        );
    }

    #[test]
    fn a_history_is_a_chat_of_its_own() {
        let reader = Reader { pairs: Pairs::Chat, ..Reader::default() };
        let record = r#"{"system":"s","history":[["a","b"]],"instruction":"c","output":"d"}"#;
        let Ok(Record::Conversation(conversation)) = read(&reader, record) else { panic!() };
        let turns: Vec<_> = conversation
            .messages
            .iter()
            .map(|m| (m.role(), m.fields()["content"].as_str().unwrap()))
            .collect();
        assert_eq!(
            turns,
            [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
        );
        let text = read(&Reader::default(), record).unwrap_err();
        assert!(text.problem.contains("history"));
    }

    #[test]
    fn conversational_pairs_train_their_completion_only() {
        let user = json!({"role":"user","content":"a"});
        let assistant = |text: &str| json!({"role":"assistant","content":text});
        let record = json!({"prompt":[user, assistant("b"), user],"completion":[assistant("c")]})
            .to_string();
        let Ok(Record::Conversation(conversation)) = read(&Reader::default(), &record) else {
            panic!()
        };
        assert_eq!(
            (0..4).map(|index| conversation.trains(index)).collect::<Vec<_>>(),
            [false, false, false, true]
        );
        let record =
            json!({"chosen":[user, assistant("b")],"rejected":[user, assistant("c")]}).to_string();
        let Ok(Record::Conversation(conversation)) = read(&Reader::default(), &record) else {
            panic!()
        };
        assert!(conversation.prompt_turns == 1 && conversation.trains(1));
        assert_eq!(
            completion(&Reader::default(), r#"{"prompt":"a","chosen":"b","rejected":"c"}"#),
            ("a".into(), "b".into())
        );
    }

    #[test]
    fn pairs_for_preference_come_in_several_forms() {
        // HH-RLHF: two dialogues in text.
        let hh = r#"{"chosen":"\n\nHuman: Hi\n\nAssistant: Good day","rejected":"\n\nHuman: Hi\n\nAssistant: Go away"}"#;
        assert_eq!(
            completion(&Reader::default(), hh),
            ("\n\nHuman: Hi\n\nAssistant: Go".into(), "od day".into())
        );
        let spaced = r#"{"chosen":"Q: a A: yes","rejected":"Q: a A: no"}"#;
        assert_eq!(completion(&Reader::default(), spaced), ("Q: a A:".into(), " yes".into()));
        assert!(read(&Reader::default(), r#"{"chosen":"same","rejected":"same"}"#).is_err());
        // Binarized UltraFeedback: the prompt stands apart, too.
        let turns = |text: &str| json!([{"role":"user","content":"Hi"},{"role":"assistant","content":text}]);
        let record =
            json!({"prompt":"Hi","chosen":turns("yes"),"rejected":turns("no")}).to_string();
        let (record, unread) =
            Reader::default().read_json(record.as_bytes(), crate::source::Format::Auto).unwrap();
        let Record::Conversation(conversation) = record else { panic!() };
        assert_eq!((conversation.prompt_turns, unread), (1, vec!["rejected".to_owned()]));
        // Orca: a question, and a system prompt.
        let reader = Reader { has_chat_template: true, ..Reader::default() };
        let record = r#"{"system":"s","question":"q","chosen":"a","rejected":"b"}"#;
        let Ok(Record::Conversation(conversation)) = read(&reader, record) else { panic!() };
        assert_eq!(
            conversation.messages.iter().map(Message::role).collect::<Vec<_>>(),
            ["system", "user", "assistant"]
        );
        // Only the preferred text is wanted.
        let map = [("text".to_owned(), "chosen".to_owned())].into();
        let reader =
            Reader { columns: super::super::Columns::new(&map).unwrap(), ..Reader::default() };
        assert_eq!(read(&reader, r#"{"chosen":"a","rejected":"b"}"#), Ok(Record::Text("a".into())));
    }
}
