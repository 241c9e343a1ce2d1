//! The commands, a file each. A new one is a file with `Arguments` and `run`, a variant, and a line below.

mod append;
mod backup;
mod completions;
mod context;
mod copy;
mod dead_letters;
mod delete;
mod events;
mod export;
mod follow;
mod import;
mod models;
mod pause;
mod rename;
mod reset;
mod resume;
mod skip;
mod stats;
mod stream;
mod streams;
mod verify;

use clap::Subcommand;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::help::{examples, exit_codes};

/// What can be done.
#[derive(Subcommand)]
pub(crate) enum Command {
    #[command(after_help = examples![
        "millstream append < orders.jsonl",
        "echo '{\"type\":\"order-paid\",\"payload\":{\"order\":7}}' | millstream append",
        "millstream append --batch 100 < orders.jsonl",
        "millstream append --expect 17 --tag account:3 < decision.jsonl",
        "millstream append --key payment:81 < paid.jsonl"
    ])]
    Append(append::Arguments),
    #[command(after_help = examples![
        "millstream events -rn 10",
        "millstream events --type order-paid --tag order:7",
        "millstream events --since 2h --json | jq .payload"
    ])]
    Events(events::Arguments),
    #[command(after_help = examples![
        "millstream follow",
        "millstream follow --type order-paid --json | jq .payload"
    ])]
    Follow(follow::Arguments),
    #[command(after_help = examples![
        "millstream context --tag account:3"
    ])]
    Context(context::Arguments),
    #[command(after_help = examples![
        "millstream stats",
        "millstream stats --json | jq .types"
    ])]
    Stats(stats::Arguments),
    #[command(after_help = examples![
        "millstream streams",
        "millstream streams --watch",
        "millstream streams --json | jq 'select(.lag>1000)'"
    ])]
    Streams(streams::Arguments),
    #[command(after_help = examples![
        "millstream stream ledger"
    ])]
    Stream(stream::Arguments),
    #[command(after_help = examples![
        "millstream pause ledger --by anna",
        "millstream pause ledger --by anna:migration-42"
    ])]
    Pause(pause::Arguments),
    #[command(after_help = examples![
        "millstream resume ledger"
    ])]
    Resume(resume::Arguments),
    #[command(after_help = examples![
        "millstream reset ledger --to beginning",
        "millstream reset ledger --to 1200 --expect 1451 --yes",
        "millstream reset ledger --to 2026-05-01T12:00Z"
    ])]
    Reset(reset::Arguments),
    #[command(after_help = examples![
        "millstream skip ledger --by anna",
        "millstream skip ledger --expect 1451 --by anna --yes"
    ])]
    Skip(skip::Arguments),
    #[command(after_help = examples![
        "millstream rename ledger accounts"
    ])]
    Rename(rename::Arguments),
    #[command(after_help = examples![
        "millstream delete ledger"
    ])]
    Delete(delete::Arguments),
    #[command(after_help = exit_codes!())]
    DeadLetters(dead_letters::Arguments),
    #[command(after_help = exit_codes!())]
    Models(models::Arguments),
    #[command(after_help = examples![
        "millstream verify",
        "millstream verify --json | jq .findings"
    ])]
    Verify(verify::Arguments),
    #[command(after_help = examples![
        "millstream export orders.jsonl",
        "millstream export --since 1d | gzip > orders.jsonl.gz"
    ])]
    Export(export::Arguments),
    #[command(after_help = examples![
        "millstream import orders.jsonl",
        "gunzip -c orders.jsonl.gz | millstream import",
        "millstream import --key orders-of-may orders.jsonl"
    ])]
    Import(import::Arguments),
    #[command(after_help = examples![
        "millstream backup /backup/shop-2026-05-01.db"
    ])]
    Backup(backup::Arguments),
    #[command(after_help = examples![
        "millstream copy shop.db /srv/shop/shop.db",
        "millstream copy shop.db moved.db --json | jq .checksum"
    ])]
    Copy(copy::Arguments),
    #[command(after_help = examples![
        "source <(millstream completions bash)",
        "millstream completions fish > ~/.config/fish/completions/millstream.fish"
    ])]
    Completions(completions::Arguments),
}

/// Does what was asked for.
pub(crate) async fn run(command: Command, context: &mut Context) -> Result<Exit, Failure> {
    match command {
        Command::Append(arguments) => append::run(arguments, context).await,
        Command::Events(arguments) => events::run(arguments, context).await,
        Command::Follow(arguments) => follow::run(arguments, context).await,
        Command::Context(arguments) => self::context::run(arguments, context).await,
        Command::Stats(arguments) => stats::run(arguments, context).await,
        Command::Streams(arguments) => streams::run(arguments, context).await,
        Command::Stream(arguments) => stream::run(arguments, context).await,
        Command::Pause(arguments) => pause::run(arguments, context).await,
        Command::Resume(arguments) => resume::run(arguments, context).await,
        Command::Reset(arguments) => reset::run(arguments, context).await,
        Command::Skip(arguments) => skip::run(arguments, context).await,
        Command::Rename(arguments) => rename::run(arguments, context).await,
        Command::Delete(arguments) => delete::run(arguments, context).await,
        Command::DeadLetters(arguments) => dead_letters::run(arguments, context).await,
        Command::Models(arguments) => models::run(arguments, context).await,
        Command::Verify(arguments) => verify::run(arguments, context).await,
        Command::Export(arguments) => export::run(arguments, context).await,
        Command::Import(arguments) => import::run(arguments, context).await,
        Command::Backup(arguments) => backup::run(arguments, context).await,
        Command::Copy(arguments) => copy::run(arguments, context).await,
        Command::Completions(arguments) => completions::run(arguments, context),
    }
}
