//! `models promote`: a new version takes the place of the one that serves.

use clap::Args;
use millstream::ModelRequest;

use crate::commands::models::ask::{self, Asking};
use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Let the newest version of a read model serve, which was built beside and has caught up; older ones are retired
#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    asking: Asking,
}

pub(super) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    ask::run(arguments.asking, ModelRequest::Promote, context).await
}
