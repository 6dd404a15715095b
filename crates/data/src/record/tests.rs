use serde_json::json;

use super::*;
use crate::message::Message;

pub(super) fn read(reader: &Reader, record: &str) -> Result<Record, Fault> {
    let Ok(Value::Object(fields)) = serde_json::from_str(record) else { panic!("{record}") };
    Ok(reader.read_fields(fields, Format::Auto)?.0)
}

pub(super) fn completion(reader: &Reader, record: &str) -> (String, String) {
    match read(reader, record) {
        Ok(Record::Completion { prompt, completion }) => (prompt, completion),
        other => panic!("{other:?}"),
    }
}

fn conversation(record: &str) -> Conversation {
    match read(&Reader::default(), record) {
        Ok(Record::Conversation(conversation)) => conversation,
        other => panic!("{other:?}"),
    }
}

fn problem(record: &str) -> String {
    read(&Reader::default(), record).unwrap_err().problem
}

fn turns() -> Vec<Message> {
    vec![Message::new("user", "a"), Message::new("assistant", "b")]
}

#[test]
fn reads_the_four_shapes() {
    let messages =
        r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"id":1}"#;
    assert_eq!(conversation(messages).messages, turns());
    for record in [
        r#"{"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}"#,
        r#"{"conversation":[{"role":"user","text":"a"},{"from":"assistant","content":"b"}]}"#,
        r#"{"conversations":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#,
    ] {
        assert_eq!(conversation(record).messages, turns(), "{record}");
    }
    assert_eq!(
        completion(&Reader::default(), r#"{"prompt":"a","completion":"b"}"#),
        ("a".into(), "b".into())
    );
    assert_eq!(read(&Reader::default(), r#"{"text":"a"}"#), Ok(Record::Text("a".into())));
}

#[test]
fn names_what_is_wrong() {
    assert!(problem(r#"{"page":"a","note":"b"}"#).contains("`page`, `note`"));
    assert!(problem(r#"{"messages":[]}"#).contains("empty"));
    assert!(
        problem(r#"{"messages":[{"role":"user","content":"a"}]}"#).contains("no assistant turn")
    );
    assert!(
        problem(r#"{"messages":[{"role":"user","content":null}]}"#)
            .contains("`content` of turn 1 is null")
    );
    assert!(problem(r#"{"conversations":[{"from":"bird","value":"a"}]}"#).contains("\"bird\""));
    let silent = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":null,"tool_calls":[]}]}"#;
    assert!(problem(silent).contains("`content` of turn 2 is null"));
    let tools = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"tools":["f"]}"#;
    assert!(problem(tools).contains("a tool is a text"));
    assert!(problem(r#"{"prompt":"a","completion":""}"#).contains("empty"));
    assert!(
        problem(r#"{"messages":[{"role":"user","content":[{"type":"image","image":"x"}]}]}"#)
            .contains("type \"image\"")
    );
}

#[test]
fn a_format_narrows_the_shapes() {
    let fields = |record: &str| serde_json::from_str::<Map<String, Value>>(record).unwrap();
    let all = Reader { loss_on: LossOn::All, ..Reader::default() };
    let text = all.read_fields(fields(r#"{"text":"a"}"#), Format::Conversations);
    assert!(text.unwrap_err().problem.contains("source of conversations"));
    let pair = all.read_fields(fields(r#"{"prompt":"a","completion":"b"}"#), Format::Text);
    assert!(pair.unwrap_err().problem.contains("source of texts"));
    assert!(read(&all, r#"{"messages":[{"role":"user","content":"a"}]}"#).is_ok());
}

#[test]
fn columns_of_null_are_absent() {
    let record = r#"{"messages":null,"tools":null,"conversations":[{"from":"human","value":"a","weight":null},{"from":"gpt","value":"b","tool_calls":null}],"text":null}"#;
    assert_eq!(conversation(record).messages, turns());
    assert_eq!(
        read(&Reader::default(), r#"{"messages":null,"text":"a"}"#),
        Ok(Record::Text("a".into()))
    );
}

#[test]
fn a_column_that_a_record_lacks_is_named_only_where_it_is_needed() {
    let map = [("instruction", "q"), ("input", "about"), ("output", "a")]
        .map(|(ours, theirs)| (ours.to_owned(), theirs.to_owned()));
    let reader = Reader {
        columns: Columns::new(&map.into()).unwrap(),
        has_chat_template: true,
        ..Reader::default()
    };
    for record in [
        r#"{"q":"a","a":"b"}"#,
        r#"{"q":"a","about":null,"a":"b"}"#,
        r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#,
    ] {
        let Ok(Record::Conversation(conversation)) = read(&reader, record) else {
            panic!("{record}")
        };
        assert_eq!(conversation.messages, turns());
    }
    assert!(read(&reader, r#"{"q":"a"}"#).unwrap_err().problem.contains("there is no `about`"));
}

#[test]
fn json_in_a_column_keeps_its_nulls_and_a_column_of_structs_has_none() {
    let text = r#"[{"role":"user","content":"a"},{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":{"x":null}}}]}]"#;
    let arguments = |row: Value| {
        let Value::Object(row) = row else { panic!() };
        let (Record::Conversation(conversation), _) =
            Reader::default().read_row(row, Format::Auto).unwrap()
        else {
            panic!()
        };
        conversation.messages[1].fields()["tool_calls"][0]["function"]["arguments"].clone()
    };
    assert_eq!(arguments(json!({ "messages": text })), json!({ "x": null }));
    let structs: Value =
        serde_json::from_str(&text.replace("\"x\":null", "\"x\":1,\"content\":null")).unwrap();
    assert_eq!(arguments(json!({ "messages": structs })), json!({ "x": 1 }));
}

#[test]
fn lists_in_columns_may_be_indented_and_tools_may_be_texts() {
    let row = json!({"prompt": "[\n  {\"role\": \"user\", \"content\": \"a\"}\n]", "completion": "[{\"role\": \"assistant\", \"content\": \"b\"}]",
        "tools": ["{\"name\": \"f\"}"]});
    let Value::Object(row) = row else { panic!() };
    let (Record::Conversation(conversation), _) =
        Reader::default().read_row(row, Format::Auto).unwrap()
    else {
        panic!()
    };
    assert_eq!(
        (conversation.messages, conversation.tools),
        (turns(), Some(json!([{"name": "f"}])))
    );
}

#[test]
fn turns_of_share_gpt_may_be_called_messages_and_a_system_may_stand_twice() {
    let record = r#"{"messages":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]}"#;
    assert_eq!(conversation(record).messages, turns());
    let record = r#"{"system":"s","messages":[{"role":"system","content":"s"},{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#;
    assert_eq!(conversation(record).messages.len(), 3);
}

#[test]
fn a_long_number_is_refused_where_it_is_read() {
    let record = |arguments: &str, id: &str| {
        let call = format!(r#"[{{"function":{{"name":"f","arguments":{{"x":{arguments}}}}}}}]"#);
        format!(
            r#"{{"id":{id},"messages":[{{"role":"user","content":"a"}},{{"role":"assistant","content":"","tool_calls":{call}}}]}}"#
        )
    };
    let long = "123456789012345678901234567890";
    let read = |record: String| Reader::default().read_json(record.as_bytes(), Format::Auto);
    assert!(read(record(long, "1")).unwrap_err().problem.contains("64 bits"));
    assert!(read(record("1", long)).is_ok());
}

#[test]
fn a_row_of_structs_has_the_keys_of_all_rows_as_null() {
    let row = json!({"messages": [
        {"role": "user", "content": "a", "tool_calls": null},
        {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1, "y": null}}}]},
    ]});
    let Value::Object(row) = row else { panic!() };
    let (Record::Conversation(conversation), _) =
        Reader::default().read_row(row, Format::Auto).unwrap()
    else {
        panic!()
    };
    assert_eq!(
        conversation.messages[1].fields()["tool_calls"][0]["function"]["arguments"],
        json!({"x": 1})
    );
    assert!(
        conversation.messages[1].fields()["content"].is_null()
            && !conversation.messages[0].fields().contains_key("tool_calls")
    );
}

#[test]
fn everything_for_the_template_is_kept() {
    let record = r#"{"tools":"[{\"name\":\"f\"}]","system":"s","chat_template_kwargs":{"enable_thinking":false},"documents":[{"title":"t"}],
        "messages":[{"role":"user","content":"a","name":"Ann"},
                    {"role":"assistant","content":null,"reasoning_content":"r","tool_calls":[{"id":"1","function":{"name":"f","arguments":"{}"}}]},
                    {"role":"tool","tool_call_id":"1","content":"c"},
                    {"role":"assistant","content":"b"}]}"#;
    let conversation = conversation(record);
    assert_eq!(conversation.messages[0], Message::new("system", "s"));
    assert_eq!(conversation.tools, Some(json!([{"name": "f"}])));
    assert_eq!(conversation.documents, Some(json!([{"title": "t"}])));
    assert_eq!(conversation.template_kwargs["enable_thinking"], false);
    let keys =
        |index: usize| conversation.messages[index].fields().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(1), ["role", "content", "name"]);
    assert_eq!(keys(2), ["role", "content", "reasoning_content", "tool_calls"]);
    assert_eq!(keys(3), ["role", "tool_call_id", "content"]);
}

#[test]
fn a_turn_says_whether_it_is_trained() {
    let record = r#"{"messages":[{"role":"user","content":"a","weight":0},{"role":"assistant","content":"b","weight":0},
        {"role":"user","content":"c"},{"role":"assistant","content":"d","train":true},{"role":"assistant","content":"e","loss":false}]}"#;
    let conversation = conversation(record);
    assert_eq!(
        (0..5).map(|index| conversation.trains(index)).collect::<Vec<_>>(),
        [false, false, false, true, false]
    );
    assert!(conversation.messages.iter().all(|message| message.fields().len() == 2));
    let assistant =
        |flag: &str| format!(r#"{{"messages":[{{"role":"assistant","content":"b",{flag}}}]}}"#);
    assert!(problem(&assistant(r#""weight":0.5"#)).contains("`weight` of turn 1 is 0.5"));
    assert!(problem(&assistant(r#""weight":1,"train":false"#)).contains("at once"));
    assert!(
        problem(&assistant(r#""x":1}, {"role":"user","content":"c","weight":1"#))
            .contains("the user's")
    );
}

#[test]
fn roles_of_share_gpt_become_calls_and_tools() {
    let record = r#"{"system":"","tools":"","conversations":[{"from":"human","value":"a"},
        {"from":"function_call","value":"{\"name\": \"f\", \"arguments\": {\"x\": 1}}"},{"from":"observation","value":"40"},{"from":"gpt","value":"b"}]}"#;
    let conversation = conversation(record);
    assert_eq!(
        conversation.messages.iter().map(Message::role).collect::<Vec<_>>(),
        ["user", "assistant", "tool", "assistant"]
    );
    assert_eq!(
        conversation.messages[1].fields()["tool_calls"],
        json!([{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}])
    );
    assert!(
        problem(r#"{"conversations":[{"from":"function_call","value":"f(1)"}]}"#)
            .contains("no call in JSON")
    );
    let old = r#"{"functions":[{"name":"f"}],"messages":[{"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{\"x\": 1}"}}]}"#;
    let old = self::conversation(old);
    assert_eq!(old.tools, Some(json!([{"type": "function", "function": {"name": "f"}}])));
    assert_eq!(old.messages[0].fields()["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
}

#[test]
fn columns_may_have_other_names() {
    let columns = Columns::new(
        &[("prompt".into(), "q".into()), ("completion".into(), "prompt".into())].into(),
    )
    .unwrap();
    let reader = Reader { columns, ..Reader::default() };
    assert_eq!(completion(&reader, r#"{"q":"a","prompt":"b"}"#), ("a".into(), "b".into()));
    assert!(read(&reader, r#"{"prompt":"b"}"#).unwrap_err().problem.contains("`q`"));
    let read = reader.columns();
    let reads = |column: &str| read.iter().any(|read| read == column);
    assert!(reads("q") && reads("prompt") && !reads("completion") && reads("messages"));
    assert!(reader.knows(&["q", "prompt"]) && !reader.knows(&["prompt", "completion"]));
    assert!(Columns::new(&[("promt".into(), "q".into())].into()).is_err());
}

#[test]
fn keys_that_nobody_reads_are_named_unless_they_are_known_to_be_harmless() {
    let fields =
        serde_json::from_str(r#"{"text":"a","id":3,"source":"web","quality":0.5,"prompt":"x"}"#)
            .unwrap();
    let (record, unread) = Reader::default().read_fields(fields, Format::Auto).unwrap();
    assert_eq!(
        (record, unread),
        (Record::Text("a".into()), vec!["quality".into(), "prompt".into()])
    );
}
