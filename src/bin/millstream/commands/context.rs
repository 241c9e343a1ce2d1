//! `context`: the version that `append --expect` compares.

use clap::Args;
use serde::Serialize;

use crate::commands::events::newest_first;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Format;
use crate::query::QueryOptions;
use crate::range::Range;

/// Tell the context version of a query: the sequence of the newest event that it selects, for `append --expect`
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    query: QueryOptions,
}

/// What is told.
#[derive(Serialize)]
struct Told {
    context_version: u64,
    head: u64,
}

pub(crate) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let store = context.open().await?;
    let mut told = Told {
        context_version: 0,
        head: store.head(),
    };
    let range = Range {
        after: None,
        through: told.head,
    };
    newest_first(&store, &arguments.query.query(), range, 1, |_, event| {
        told.context_version = event.sequence();
        Ok(())
    })
    .await?;
    store.close().await?;
    match context.output.format() {
        Format::Json => context.output.json(&told)?,
        Format::Text => context.output.line(&told.context_version.to_string())?,
    }
    Ok(Exit::Fine)
}
