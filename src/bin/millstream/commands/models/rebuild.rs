//! `models rebuild`: a read model is built anew beside the one that serves.

use clap::Args;
use millstream::ModelRequest;

use crate::commands::models::ask::{self, Asking};
use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Let the process that keeps a read model build it anew, beside the one that goes on serving
///
/// A bar shows how far it is. Ctrl-C gives it up: what served before serves still.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    asking: Asking,
}

pub(super) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    ask::run(arguments.asking, ModelRequest::Rebuild, context).await
}
