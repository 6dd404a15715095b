/// The sources of a model's chat templates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatTemplates {
    /// The one that conversations are written with.
    pub default: Option<String>,
    /// The one for conversations with tools, where the model has one of its own for them.
    pub tool_use: Option<String>,
}
