//! A bank in which several tellers transfer money at once, and every account has a statement.
//!
//! ```sh
//! cargo run --example bank_statement -- [--db FILE] [--transfers N]
//! ```
//!
//! The log is the only truth: a balance is what an account's events add up to. A teller looks at the account that pays,
//! decides, and appends the transfer only if nothing happened to that account meanwhile (`append_if`); so no balance goes
//! below zero, without a lock. A durable stream per account writes its statement. A second run goes on from the cursors
//! and prints what is new since the first. In the end an audit goes through the whole log.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use comfy_table::{Cell, CellAlignment, Table, presets};
use millstream::{AppendError, DurableStream, EventBatch, EventQuery, HandleStream, NewEvent, Store};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ACCOUNTS: [&str; 5] = ["anna", "ben", "chloe", "dragan", "emma"];
/// Where the first deposits come from: the one account that may owe.
const TILL: &str = "the till";
const DEPOSIT_CENTS: i64 = 10_000;
const TRANSFER_CENTS_MAX: usize = 9_000;
const TELLERS: u64 = 4;

/// Lets tellers transfer money, and prints the statements of all accounts.
#[derive(Parser)]
struct Arguments {
    /// The file of the log [default: one in the directory for temporary files]
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
    /// How many transfers each teller is asked for
    #[arg(long, value_name = "N", default_value_t = 6)]
    transfers: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Err(error) = run(Arguments::parse()).await else {
        return ExitCode::SUCCESS;
    };
    // Nobody may be listening.
    let _ = writeln!(io::stderr(), "bank_statement: {error}");
    ExitCode::FAILURE
}

async fn run(arguments: Arguments) -> Result<()> {
    let default = || std::env::temp_dir().join("millstream-bank.db");
    let db = arguments.db.unwrap_or_else(default);
    writeln!(io::stdout(), "the log is {}", db.display())?;
    let store = Store::open(&db)?;
    let outcome = one_day(&store, &db, arguments.transfers).await;
    // Also after an error: the cursors of what was handled are stored.
    store.close().await?;
    outcome
}

async fn one_day(store: &Store, db: &Path, transfers: u32) -> Result<()> {
    let mut statements = Vec::new();
    for account in ACCOUNTS {
        let file = db.with_extension(format!("{:.8}-{account}.txt", store.log_id()));
        let durable = DurableStream::new(format!("statement of {account}"));
        let handle = write_statement(account, file.clone());
        let stream = store.stream_to_durable(&durable, &of(account), handle).await?;
        open_account(store, account).await?;
        statements.push((account, file, stream));
    }
    let before = store.head();
    let tellers: JoinSet<_> = (0..TELLERS).map(|_| work(store.clone(), transfers)).collect();
    let mut conflicts = 0;
    for outcome in tellers.join_all().await {
        conflicts += outcome?;
    }
    store.settled().await?;
    let mut out = io::stdout();
    for (account, file, stream) in &statements {
        writeln!(out, "{}", print_statement(account, file, stream.started_after())?)?;
    }
    let (asked, done) = (TELLERS * u64::from(transfers), store.head() - before);
    writeln!(out, "{done} of {asked} transfers, {conflicts} decided again")?;
    writeln!(
        out,
        "no balance was ever below zero, their sum is {}",
        audit(store).await?
    )?;
    Ok(())
}

/// The only kind of event.
#[derive(Serialize, Deserialize)]
struct Transfer {
    from: String,
    to: String,
    cents: i64,
}

impl Transfer {
    fn new(from: &str, to: &str, cents: i64) -> Self {
        let (from, to) = (from.to_owned(), to.to_owned());
        Self { from, to, cents }
    }

    /// The event carries the tags of both accounts, so that both find it.
    fn event(&self) -> NewEvent {
        NewEvent::new("transfer", self).tags([tag(&self.from), tag(&self.to)])
    }

    /// What the transfer adds to one of its two accounts, and how the statement puts it.
    fn entry(&self, account: &str) -> (i64, String) {
        match account == self.to {
            true => (self.cents, format!("from {}", self.from)),
            false => (-self.cents, format!("to {}", self.to)),
        }
    }
}

fn tag(account: &str) -> String {
    format!("account:{account}")
}

fn of(account: &str) -> EventQuery {
    EventQuery::tags([tag(account)])
}

/// Pays the first deposit in, unless the account has events already.
async fn open_account(store: &Store, account: &str) -> Result<()> {
    let deposit = Transfer::new(TILL, account, DEPOSIT_CENTS);
    match store.append_if([deposit.event()], &of(account), 0).await {
        Ok(_) | Err(AppendError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The work of one teller: transfers that chance chooses. Returns how often another one was faster.
async fn work(store: Store, transfers: u32) -> Result<u32> {
    let mut conflicts = 0;
    for _ in 0..transfers {
        let from = below(ACCOUNTS.len());
        let to = (from + 1 + below(ACCOUNTS.len() - 1)) % ACCOUNTS.len();
        let wanted = Transfer::new(ACCOUNTS[from], ACCOUNTS[to], 1 + below(TRANSFER_CENTS_MAX) as i64);
        while !transfer(&store, &wanted).await? {
            conflicts += 1;
        }
    }
    Ok(conflicts)
}

/// Looks, decides, and appends if what was looked at is still so. `false`: it is not, and all that has to be done again.
async fn transfer(store: &Store, wanted: &Transfer) -> Result<bool> {
    let payer = of(&wanted.from);
    let context = store.query(&payer).await?;
    let mut balance = 0;
    for event in &context.events {
        balance += event.decode::<Transfer>()?.entry(&wanted.from).0;
    }
    if balance < wanted.cents {
        return Ok(true);
    }
    let version = context.context_version;
    match store.append_if([wanted.event()], &payer, version).await {
        Ok(_) => Ok(true),
        Err(AppendError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The handler that adds lines to an account's statement. A crash can tear a line or repeat some; so each one begins with
/// the line feed, and with its sequence.
fn write_statement(account: &'static str, path: PathBuf) -> HandleStream {
    let write = move |batch: EventBatch| {
        let mut lines = String::new();
        for event in &batch {
            let (cents, text) = event.decode::<Transfer>()?.entry(account);
            lines += &format!("\n{} {cents} {text}", event.sequence());
        }
        let mut file = File::options().append(true).create(true).open(&path)?;
        file.write_all(lines.as_bytes())?;
        Result::Ok(file.sync_data()?)
    };
    HandleStream::new(move |batch| std::future::ready(write(batch)))
}

/// Takes a line of a statement apart; a torn one is none.
fn parse(line: &str) -> Option<(u64, (i64, String))> {
    let (sequence, line) = line.split_once(' ')?;
    let (cents, text) = line.split_once(' ')?;
    Some((sequence.parse().ok()?, (cents.parse().ok()?, text.to_owned())))
}

/// What is new on a statement, as a table. A line that is there twice counts once.
fn print_statement(account: &str, path: &Path, after: u64) -> Result<Table> {
    let text = fs::read_to_string(path)?;
    let mut earlier: BTreeMap<u64, (i64, String)> = text.lines().filter_map(parse).collect();
    let new = earlier.split_off(&(after + 1));
    let mut balance = earlier.values().map(|(cents, _)| cents).sum();
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["", account, "amount", "balance"]);
    table.add_row(["".into(), "carried over".into(), "".into(), money(balance)]);
    for (sequence, (cents, text)) in new {
        balance += cents;
        table.add_row([sequence.into(), text.into(), money(cents), money(balance)]);
    }
    Ok(table)
}

/// Goes through the whole log: no balance may ever have been below zero, and no money come or gone. Returns the sum.
async fn audit(store: &Store) -> Result<String> {
    let mut balances = BTreeMap::<String, i64>::new();
    for event in store.query(&EventQuery::all()).await?.events {
        let transfer: Transfer = event.decode()?;
        for account in [&transfer.from, &transfer.to] {
            let balance = balances.entry(account.clone()).or_default();
            *balance += transfer.entry(account).0;
            if *balance < 0 && account != TILL {
                return Err(format!("{account} had {} at {}", euros(*balance), event.sequence()).into());
            }
        }
    }
    balances.remove(TILL);
    let (sum, expected) = (balances.values().sum(), DEPOSIT_CENTS * ACCOUNTS.len() as i64);
    if sum != expected {
        return Err(format!("{} were paid in, {} are there", euros(expected), euros(sum)).into());
    }
    Ok(euros(sum))
}

fn money(cents: i64) -> Cell {
    Cell::new(euros(cents)).set_alignment(CellAlignment::Right)
}

fn euros(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100)
}

/// A number by chance: the standard library's hashers have random keys.
fn below(bound: usize) -> usize {
    RandomState::new().hash_one(bound) as usize % bound
}
