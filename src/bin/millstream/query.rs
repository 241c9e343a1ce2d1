//! Which events, as options.

use clap::Args;
use millstream::{EventFilter, EventQuery};
use serde_json::Value;

/// Which events. Without any of these options: all of them.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct QueryOptions {
    /// Events of this type; given several times: of any of them
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Events with this tag; given several times: with all of them
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Events whose payload contains this JSON, such as '{"order":7}'; given several times: any of them
    #[arg(long = "payload", value_name = "JSON", value_parser = json)]
    payloads: Vec<Value>,
}

impl QueryOptions {
    pub(crate) fn is_empty(&self) -> bool {
        self.types.is_empty() && self.tags.is_empty() && self.payloads.is_empty()
    }

    pub(crate) fn query(&self) -> EventQuery {
        let mut filter = match self.types.is_empty() {
            true => EventFilter::all(),
            false => EventFilter::types(&self.types),
        };
        if !self.tags.is_empty() {
            filter = filter.tags(&self.tags);
        }
        if !self.payloads.is_empty() {
            filter = filter.payloads(self.payloads.iter().cloned());
        }
        filter.into()
    }
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| {
        format!(
            "{error}; this has to be JSON, such as '{{\"order\":7}}' or '\"a text\"' with its quotation marks"
        )
    })
}
