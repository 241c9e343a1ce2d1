//! A bank in which several tellers transfer money at once, and every account has a statement.
//!
//! ```sh
//! cargo run --example bank_statement -- [--db FILE] [--transfers N]
//! ```
//!
//! The log is the only truth: a balance is what an account's events add up to. A teller looks at the account that pays,
//! decides, and appends the transfer only if nothing happened to that account meanwhile (`append_if`); so no balance goes
//! below zero, without a lock. A view keeps the statements: a document per account, which every transfer changes in two
//! places. A second run goes on from where the view is and prints what is new since the first. In the end an audit goes through the
//! whole log, and compares the statements with it.

use std::collections::BTreeMap;
use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use comfy_table::{Cell, CellAlignment, Table, presets};
use millstream::{
    AppendError, BoxError, Condition, Documents, EventQuery, NewEvent, ReadModels, Store, View, ViewQuery,
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ACCOUNTS: [&str; 5] = ["anna", "ben", "chloe", "dragan", "emma"];
/// Where the first deposits come from: the one account that may owe.
const TILL: &str = "the till";
const DEPOSIT_CENTS: i64 = 10_000;
const TRANSFER_CENTS_MAX: usize = 9_000;
const TELLERS: u64 = 4;
/// What a statement shows. Older lines are in what is carried over.
const LINES_MAX: usize = 40;

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
    // Another log has other statements.
    let views = db.with_extension(format!("{:.8}.views.db", store.log_id()));
    let statements = ReadModels::open(views)?.view(store, statements()).await?;
    for account in ACCOUNTS {
        open_account(store, account).await?;
    }
    let before = store.head();
    // What an earlier run has printed.
    let printed = statements.stream().map_or(0, |stream| stream.started_after());
    let tellers: JoinSet<_> = (0..TELLERS).map(|_| work(store.clone(), transfers)).collect();
    let mut conflicts = 0;
    for outcome in tellers.join_all().await {
        conflicts += outcome?;
    }
    statements.wait_for(store.head()).await?;
    let mut out = io::stdout();
    for account in ACCOUNTS {
        let statement = statements.get(account).await?.unwrap_or_default();
        writeln!(out, "{}", print_statement(account, statement, printed))?;
    }
    let (asked, done) = (TELLERS * u64::from(transfers), store.head() - before);
    writeln!(out, "{done} of {asked} transfers, {conflicts} decided again")?;
    writeln!(out, "{}", ranking(&statements).await?)?;
    writeln!(
        out,
        "no balance was ever below zero, the statements say what the log says, the sum is {}",
        audit(store, &statements).await?
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

/// What is known of an account.
#[derive(Default, Serialize, Deserialize)]
struct Statement {
    /// What the lines begin with.
    carried_over: i64,
    lines: Vec<Line>,
    balance: i64,
}

#[derive(Serialize, Deserialize)]
struct Line {
    sequence: u64,
    cents: i64,
    text: String,
}

impl Statement {
    fn add(mut self, sequence: u64, (cents, text): (i64, String)) -> Self {
        self.balance += cents;
        self.lines.push(Line {
            sequence,
            cents,
            text,
        });
        if self.lines.len() > LINES_MAX {
            self.carried_over += self.lines.remove(0).cents;
        }
        self
    }
}

/// The statements: a transfer concerns two of them, or one, when the till is the other.
fn statements() -> View<Statement> {
    View::<Statement>::new("statement", 1)
        .select(EventQuery::types(["transfer"]))
        .index("/balance")
        .try_keys(|event| {
            let transfer = event.decode::<Transfer>()?;
            let accounts = [transfer.from, transfer.to];
            Ok::<_, BoxError>(accounts.into_iter().filter(|account| account != TILL).collect())
        })
        .try_evolve(|account, statement, event| {
            let entry = event.decode::<Transfer>()?.entry(account);
            Ok::<_, BoxError>(Some(statement.unwrap_or_default().add(event.sequence(), entry)))
        })
}

/// What is new on a statement, as a table.
fn print_statement(account: &str, statement: Statement, after: u64) -> Table {
    let (earlier, new): (Vec<Line>, Vec<Line>) = statement
        .lines
        .into_iter()
        .partition(|line| line.sequence <= after);
    let mut balance = statement.carried_over + earlier.iter().map(|line| line.cents).sum::<i64>();
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["", account, "amount", "balance"]);
    table.add_row(["".into(), "carried over".into(), "".into(), money(balance)]);
    for line in new {
        balance += line.cents;
        table.add_row([
            line.sequence.into(),
            line.text.into(),
            money(line.cents),
            money(balance),
        ]);
    }
    table
}

/// The richest and how many own more than they began with: asked of the view, by what its documents say.
async fn ranking(statements: &Documents<Statement>) -> Result<String> {
    let first = ViewQuery::all().sort_by("/balance").descending().limit(1);
    let richest = statements.query(&first).await?.documents;
    let (account, statement) = richest.first().ok_or("there are no statements")?;
    let gained = ViewQuery::filter(Condition::greater("/balance", DEPOSIT_CENTS));
    let gained = statements.count(&gained).await?;
    Ok(format!(
        "{account} owns most, {}; {gained} of {} own more than they began with",
        euros(statement.balance),
        ACCOUNTS.len()
    ))
}

/// Goes through the whole log: no balance may ever have been below zero, no money come or gone, and the statements say the same. Returns the
/// sum.
async fn audit(store: &Store, statements: &Documents<Statement>) -> Result<String> {
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
    for (account, statement) in statements.get_many(ACCOUNTS).await? {
        let (found, expected) = (statement.balance, balances.get(&account).copied());
        if Some(found) != expected {
            return Err(format!(
                "the statement of {account} says {}, the log {expected:?}",
                euros(found)
            )
            .into());
        }
    }
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
