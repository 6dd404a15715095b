use super::*;
use crate::message::Message;
use crate::template::tests::SMOLLM2;
use crate::tokenizer::tests::bytes_only;

pub(crate) fn turns(turns: &[(&str, &str)]) -> Vec<Message> {
    turns.iter().map(|&(role, content)| Message::new(role, content)).collect()
}

pub(crate) fn encode(
    template: &str,
    loss_on: LossOn,
    record: Record,
) -> Result<(String, Vec<String>), String> {
    let tokenizer = bytes_only();
    let template = ChatTemplate::new(template, Some("<|im_start|>"), Some("<|im_end|>")).unwrap();
    let encoder = Encoder {
        tokenizer: &tokenizer,
        template: Some(&template),
        loss_on,
        sequence_length: usize::MAX,
        text_length: usize::MAX,
    };
    let (sample, _) = encoder.encode(record).map_err(|failure| match failure {
        Failure::Record(fault) => format!("record: {}", fault.problem),
        Failure::SetUp(error) => format!("set-up: {error}"),
    })?;
    assert_eq!(sample.segments, [sample.tokens.len() as u32]);
    // The trained tokens as runs of text.
    let mut runs = Vec::new();
    let mut run = Vec::new();
    for (&token, &trained) in sample.tokens.iter().zip(&sample.trained) {
        if trained {
            run.push(token);
        } else if !run.is_empty() {
            runs.push(tokenizer.decode(&std::mem::take(&mut run), false).unwrap());
        }
    }
    if !run.is_empty() {
        runs.push(tokenizer.decode(&run, false).unwrap());
    }
    Ok((tokenizer.decode(&sample.tokens, false).unwrap(), runs))
}

pub(crate) fn conversation(
    template: &str,
    given: &[(&str, &str)],
) -> Result<(String, Vec<String>), String> {
    encode(template, LossOn::Assistant, Record::Conversation(Conversation::new(turns(given))))
}

#[test]
fn smollm2_trains_the_answers_and_their_end_but_not_the_newline() {
    let given = [("user", "Hi"), ("assistant", "Hé"), ("user", "And?"), ("assistant", "Bye\n")];
    let (text, runs) = conversation(SMOLLM2, &given).unwrap();
    assert_eq!(runs, ["Hé<|im_end|>", "Bye\n<|im_end|>"]);
    assert!(text.starts_with("<|im_start|>system\nYou are a helpful AI assistant"));
    assert!(text.ends_with("Bye\n<|im_end|>\n"));
}

#[test]
fn the_loss_on_all_falls_on_the_prompt_too() {
    let messages = turns(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    let record = |prompt_turns| {
        Record::Conversation(Conversation { prompt_turns, ..Conversation::new(messages.clone()) })
    };
    let (text, runs) = encode(SMOLLM2, LossOn::All, record(3)).unwrap();
    assert_eq!(runs, [text]);
    assert_eq!(encode(SMOLLM2, LossOn::Assistant, record(3)).unwrap().1, ["d<|im_end|>"]);
}

#[test]
fn a_blank_text_has_nothing_to_train() {
    assert_eq!(
        encode(SMOLLM2, LossOn::All, Record::Text(" \n".into())).unwrap(),
        (String::new(), Vec::new())
    );
}

#[test]
fn what_follows_the_last_answer_is_not_trained() {
    let given = [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c")];
    assert_eq!(conversation(SMOLLM2, &given).unwrap().1, ["b<|im_end|>"]);
}

#[test]
fn control_tokens_inside_an_answer_do_not_end_it() {
    let given = [("user", "a"), ("assistant", "b<|endoftext|>c")];
    assert_eq!(conversation(SMOLLM2, &given).unwrap().1, ["b<|endoftext|>c<|im_end|>"]);
}

#[test]
fn without_an_end_token_the_newline_ends_the_turn() {
    let plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
                 {% if add_generation_prompt %}assistant: {% endif %}";
    // `trim_blocks` takes the newline after the block, so the template writes it as an expression.
    let plain = plain.replace("{{ m.content }}\n", "{{ m.content + '\n' }}");
    assert_eq!(conversation(&plain, &[("user", "a"), ("assistant", "b")]).unwrap().1, ["b\n"]);
}

#[test]
fn all_means_every_token() {
    let record =
        Record::Conversation(Conversation::new(turns(&[("user", "a"), ("assistant", "b")])));
    let (text, runs) = encode(SMOLLM2, LossOn::All, record).unwrap();
    assert_eq!(runs, [text]);
}

#[test]
fn a_conversation_that_the_template_refuses_is_the_records_fault() {
    let strict = "{{ raise_exception('no system turn, please') }}";
    let message = conversation(strict, &[("user", "a"), ("assistant", "b")]).unwrap_err();
    assert!(
        message.starts_with("record: ") && message.contains("no system turn, please"),
        "{message}"
    );
}

#[test]
fn completions_are_trained_with_the_end_and_without_the_prompt() {
    let record = Record::Completion { prompt: "1+1= ".into(), completion: "2".into() };
    let (text, runs) = encode(SMOLLM2, LossOn::Assistant, record.clone()).unwrap();
    assert_eq!((text.as_str(), runs), ("1+1= 2<|im_end|>", vec!["2<|im_end|>".to_owned()]));
    assert_eq!(encode(SMOLLM2, LossOn::All, record).unwrap().1, ["1+1= 2<|im_end|>"]);
}

#[test]
fn texts_are_trained_as_a_whole() {
    let (_, runs) = encode(SMOLLM2, LossOn::Assistant, Record::Text("once".into())).unwrap();
    assert_eq!(runs, ["once<|im_end|>"]);
}

#[test]
fn conversations_need_a_template() {
    let tokenizer = bytes_only();
    let encoder = Encoder {
        tokenizer: &tokenizer,
        template: None,
        loss_on: LossOn::All,
        sequence_length: usize::MAX,
        text_length: usize::MAX,
    };
    let failure = encoder.encode(Record::Conversation(Conversation::new(turns(&[("user", "a")]))));
    assert!(matches!(failure, Err(Failure::SetUp(Error::Template { .. }))));
}

#[test]
fn marks_need_not_reach_beyond_what_is_kept() {
    let tokenizer = bytes_only();
    let template = ChatTemplate::new(SMOLLM2, None, None).unwrap();
    let given = Record::Conversation(Conversation::new(turns(
        &[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")].repeat(5),
    )));
    let marks = |sequence_length| {
        let encoder = Encoder {
            tokenizer: &tokenizer,
            template: Some(&template),
            loss_on: LossOn::Assistant,
            sequence_length,
            text_length: sequence_length,
        };
        let Ok((sample, _)) = encoder.encode(given.clone()) else { panic!("does not encode") };
        sample.trained
    };
    let all = marks(usize::MAX);
    for length in 0..all.len() {
        assert_eq!(marks(length)[..length], all[..length], "{length}");
    }
}
