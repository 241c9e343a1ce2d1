//! A small shop as a web service: three feature slices over one log, and a page that shows orders as they come.
//!
//! ```sh
//! cargo run --example shop_slices -- [--db FOLDER] [--port N]
//! curl -H 'content-type: application/json' -d '{"quantity":5}' localhost:8080/stock/mug
//! curl -H 'content-type: application/json' -d '{"number":"A-1","customer":"Anna","lines":[{"sku":"mug","quantity":2}]}' localhost:8080/orders
//! curl -X POST localhost:8080/parcels/A-1/send
//! ```
//!
//! Each slice is a folder: the facts that it appends, the command that decides on them, the stream and the read model that it
//! keeps from events, its routes. No slice imports another one. What it wants to know of others it hears from the log, and says
//! in a type of its own which part of an event it reads (`Heard`).
//!
//! ```text
//!     ordering   POST /orders   -> order-placed                          GET /orders, /feed
//!     stock      order-placed   -> stock-reserved, reservation-refused   GET /stock
//!     dispatch   POST /parcels  -> parcel-sent                           GET /parcels
//! ```
//!
//! In reading order: `shop` is what every slice is given, `ordering`, `stock` and `dispatch` are the slices; `words` are the
//! values that requests and events are made of, `problem` what a request that fails is answered, `closing` how it all ends.

mod closing;
mod dispatch;
mod ordering;
mod problem;
mod shop;
mod stock;
mod words;

use std::error::Error;
use std::fs;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::response::Html;
use axum::routing::get;
use clap::Parser;
use millstream::{ReadModels, Store};
use tokio::net::TcpListener;

use crate::closing::Closing;
use crate::shop::Shop;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A request is an order of some lines: what is larger is none.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Serves a small shop over HTTP, on this machine alone.
#[derive(Parser)]
struct Arguments {
    /// The folder of the log and the read models [default: one in the directory for temporary files]
    #[arg(long, value_name = "FOLDER")]
    db: Option<PathBuf>,
    /// The port to listen on; 0: any that is free
    #[arg(long, value_name = "N", default_value_t = 8080)]
    port: u16,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Err(error) = run(Arguments::parse()).await else {
        return ExitCode::SUCCESS;
    };
    complain(&error.to_string());
    ExitCode::FAILURE
}

async fn run(arguments: Arguments) -> Result<()> {
    let closing = Closing::on_signal()?;
    let default = || std::env::temp_dir().join("millstream-shop");
    let folder = arguments.db.unwrap_or_else(default);
    fs::create_dir_all(&folder)
        .map_err(|error| format!("cannot make the folder {}: {error}", folder.display()))?;
    let store = Store::open(folder.join("log.db"))?;
    let outcome = async {
        let models = ReadModels::open(folder.join("views.db"))?;
        let shop = Shop {
            store: store.clone(),
            models,
            closing,
        };
        serve(&shop, arguments.port).await
    };
    let outcome = outcome.await;
    // Also after an error: what is in flight is committed, and the cursors of what was handled are stored.
    store.close().await?;
    outcome
}

/// Serves until the process is asked to end.
async fn serve(shop: &Shop, port: u16) -> Result<()> {
    let router = router(shop).await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .map_err(|error| format!("cannot listen on port {port}: {error}; choose another one with --port"))?;
    let address = listener.local_addr()?;
    let server = axum::serve(listener, router).with_graceful_shutdown(shop.closing.clone().requested());
    say(&format!("listening on http://{address}"))?;
    tokio::select! {
        served = server => served?,
        () = shop.closing.clone().overdue() => complain("somebody did not take the answer in time; it ends without them"),
    }
    Ok(())
}

async fn router(shop: &Shop) -> Result<Router> {
    let page = || async { Html(include_str!("page.html")) };
    Ok(Router::new()
        .route("/", get(page))
        .merge(ordering::open(shop).await?)
        .merge(stock::open(shop).await?)
        .merge(dispatch::open(shop).await?)
        .fallback(problem::no_such_page)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX)))
}

/// One line on the standard output. Whoever has read enough is not an error.
fn say(text: &str) -> Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// One line on the standard error.
fn complain(text: &str) {
    // Nobody may be listening.
    let _ = writeln!(io::stderr(), "shop_slices: {text}");
}
