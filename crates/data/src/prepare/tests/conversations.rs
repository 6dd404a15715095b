//! What of conversations is trained, and what is counted as left out.

use super::*;

#[test]
fn keys_that_reach_no_text_are_counted() {
    let desk = Desk::new();
    let talk = |more: &str| {
        format!(
            r#"{{"messages":[{{"role":"user","content":"a"}},{{"role":"assistant","content":"b"{more}}}],"tools":[{{"name":"f"}}],"mood":"m"}}"#
        )
    };
    let lines =
        [talk(r#","reasoning_content":"r""#), talk(""), r#"{"text":"x","id":3}"#.to_owned()]
            .join("\n");
    let sources = Sources::train([
        desk.file("a.jsonl", lines),
        desk.file("b.csv", "text,mark,id\nx,1,2\ny,3,4\n"),
    ]);
    let report = desk.prepare(&sources, &Options::default()).unwrap().train.facts.report.clone();
    let counts = |pairs: &[(&str, usize)]| {
        pairs.iter().map(|&(key, count)| (key.to_owned(), count)).collect()
    };
    assert_eq!(report.unread, counts(&[("mark", 2), ("mood", 2)]));
    assert_eq!(report.unwritten, counts(&[("reasoning_content", 1), ("tools", 2)]));
}

#[test]
fn turns_and_keys_that_the_template_leaves_out_are_counted() {
    let mut desk = Desk::new();
    let source = "{% for m in messages %}{% if m.role in ['user', 'assistant', 'tool'] %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    desk.template = ChatTemplate::new(source, None, None).unwrap();
    let talk = r#"{"messages":[{"role":"developer","content":"d"},{"role":"user","content":"a","images":["x.png"],"id":1},{"role":"assistant","content":"b"}]}"#;
    let older = r#"{"messages":[{"role":"user","content":"a"},{"role":"function","name":"f","content":"found"},{"role":"assistant","content":"b"}]}"#;
    let sources = Sources::train([desk.file("a.jsonl", [talk, older].join("\n"))]);
    for loss_on in [LossOn::Assistant, LossOn::All] {
        let train =
            desk.prepare(&sources, &Options { loss_on, ..Options::default() }).unwrap().train;
        let expected = [("images", 1), ("turns of `developer`", 1)]
            .map(|(key, count)| (key.to_owned(), count))
            .into();
        assert_eq!(train.facts.report.unwritten, expected);
        // An answer of OpenAI's older form is a tool's.
        let texts: Vec<String> = (0..2)
            .map(|index| {
                desk.tokenizer.decode(&train.sample(index).unwrap().tokens, false).unwrap()
            })
            .collect();
        assert!(texts.iter().any(|text| text.contains("tool\nfound")), "{texts:?}");
    }
}

#[test]
fn turns_without_weight_are_not_trained_whatever_the_loss_is_on() {
    let desk = Desk::new();
    let talk = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"bad","weight":0},{"role":"user","content":"c"},{"role":"assistant","content":"good"}]}"#;
    let sources = Sources::train([desk.file("a.jsonl", talk)]);
    for loss_on in [LossOn::Assistant, LossOn::All] {
        let train =
            desk.prepare(&sources, &Options { loss_on, ..Options::default() }).unwrap().train;
        let sample = train.sample(0).unwrap();
        let trained: Vec<u32> = sample
            .tokens
            .iter()
            .zip(&sample.trained)
            .filter(|(_, trained)| **trained)
            .map(|(&token, _)| token)
            .collect();
        let text = desk.tokenizer.decode(&trained, false).unwrap();
        assert!(!text.contains("bad") && text.contains("good<|im_end|>"), "{loss_on:?}: {text}");
        assert_eq!(text.contains("user"), loss_on == LossOn::All, "{text}");
    }
}
