//! `models cancel`: what was asked last is taken back, or given up.

use clap::Args;
use millstream::Cancelled;
use serde_json::json;

use crate::commands::models::Where;
use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Take back what was asked of a read model last, or have a rebuild given up that is under way
#[derive(Args)]
pub(super) struct Arguments {
    /// The name of the read model
    name: String,
    #[command(flatten)]
    place: Where,
}

pub(super) async fn run(arguments: Arguments, context: &mut Context) -> Result<Exit, Failure> {
    let models = arguments.place.open(context).await?;
    let name = &arguments.name;
    let requests = models.requests().await?;
    let newest = requests.iter().find(|request| request.name == *name);
    let cancelled = match newest.filter(|request| !request.state.is_over()) {
        Some(request) => models.cancel_request(request.number).await?,
        None => Cancelled::TooLate,
    };
    let (state, text) = match cancelled {
        Cancelled::Unbegun => ("unbegun", "what was asked is taken back, nobody had begun it"),
        Cancelled::Told => (
            "told",
            "the rebuild is given up, and what served before serves still",
        ),
        _ => {
            return Err(Failure::Failed(format!(
                "nothing is under way for {name:?}; `models list` shows what was asked last"
            )));
        }
    };
    let told = json!({ "name": name, "state": state });
    context.output.tell(&told, || text.to_owned())?;
    Ok(Exit::Fine)
}
