//! Balances that are kept in the database that the log lies in, on a PostgreSQL server.
//!
//! ```sh
//! DATABASE_URL=postgres://bank:secret@localhost/bank cargo run --example server_model --features postgres
//! ```
//!
//! A second run goes on where the first one stopped: what was deposited before is not counted twice. Without `DATABASE_URL` it does nothing.

use std::error::Error;

use millstream::tokio_postgres::{Transaction, types::Type};
use millstream::{BoxError, EventBatch, EventQuery, NewEvent, ServerModels, ServerProjection, Store};
use serde_json::json;

/// What everybody has.
#[derive(Clone)]
struct Balances;

impl ServerProjection for Balances {
    fn name(&self) -> &str {
        "balances"
    }

    fn version(&self) -> u32 {
        1
    }

    fn query(&self) -> EventQuery {
        EventQuery::types(["deposited"])
    }

    fn schema(&self) -> &str {
        "CREATE TABLE balance (account text PRIMARY KEY, total bigint NOT NULL)"
    }

    async fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        for event in batch {
            let (account, amount): (String, i64) = event.payload().decode()?;
            let add = "INSERT INTO balance VALUES ($1, $2)
                ON CONFLICT (account) DO UPDATE SET total = balance.total + excluded.total";
            tx.execute_typed(add, &[(&account, Type::TEXT), (&amount, Type::INT8)])
                .await?;
        }
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let Ok(address) = std::env::var("DATABASE_URL") else {
        println!("skipped: set DATABASE_URL to the address of a PostgreSQL server");
        return Ok(());
    };
    let store = Store::builder()
        .schema("millstream_example")
        .connect(address)
        .await?;
    let balances = ServerModels::of(&store)?.project(Balances).await?;
    let deposits = ["anna", "ben", "anna"].map(|account| NewEvent::new("deposited", json!([account, 70])));
    let appended = store.append(deposits).await?;
    balances.wait_for(appended).await?;
    let rows = balances
        .read(async |tx| {
            tx.query("SELECT account, total FROM balance ORDER BY account", &[])
                .await
        })
        .await?;
    for row in &rows {
        println!("{}: {}", row.get::<_, &str>(0), row.get::<_, i64>(1));
    }
    println!("{} in the schema {}", balances.name(), balances.schema().await?);
    drop(balances);
    store.close().await?;
    Ok(())
}
