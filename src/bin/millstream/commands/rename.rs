//! `rename`: a stream gets another name.

use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Give a stream another name; cursor, pause and dead letters go with it
///
/// A stream that runs stops: the program has to register it under the new name.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The name of the stream
    name: String,
    /// Its new name
    new: String,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let Arguments { name, new } = arguments;
    let store = context.open().await?;
    store.stream(&name).await?.rename(new.as_str()).await?;
    store.close().await?;
    context
        .output
        .tell(&json!({ "name": new, "name_before": name }), || {
            format!("renamed {name:?} to {new:?}")
        })?;
    Ok(Exit::Fine)
}
