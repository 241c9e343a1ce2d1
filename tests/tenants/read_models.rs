//! Read models of every tenant: opened with it, kept in its folder, closed and deleted with it.

use millstream::rusqlite::Transaction;
use millstream::{
    BoxError, EventBatch, EventQuery, OpenedTenant, Projection, ReadModel, ReadModels, Tenant, Tenants,
};

use crate::append;

/// Writes down what was noted.
#[derive(Clone)]
struct Notes;

impl Projection for Notes {
    fn name(&self) -> &str {
        "notes"
    }

    fn version(&self) -> u32 {
        1
    }

    fn query(&self) -> EventQuery {
        EventQuery::types(["noted"])
    }

    fn schema(&self) -> &str {
        "CREATE TABLE note (sequence INTEGER PRIMARY KEY, text TEXT NOT NULL)"
    }

    fn apply(&mut self, tx: &Transaction<'_>, batch: &EventBatch) -> Result<(), BoxError> {
        for event in batch {
            let text = event.decode::<String>()?;
            tx.execute(
                "INSERT INTO note VALUES (?1, ?2)",
                (event.sequence() as i64, text),
            )?;
        }
        Ok(())
    }
}

/// A tenant's models: the file is let go of when the tenant is closed.
async fn keep(tenant: OpenedTenant) -> Result<(ReadModels, ReadModel), BoxError> {
    let models = ReadModels::open(tenant.file("views.db")?)?;
    let notes = models.project(tenant.store(), Notes).await?;
    Ok((models, notes))
}

/// What the model of a tenant has, once it has seen everything. A row that is written twice would be refused.
async fn notes(tenant: &Tenant) -> Vec<String> {
    let (_, notes) = tenant
        .attached::<(ReadModels, ReadModel)>()
        .expect("the closure returned it");
    notes.caught_up().await.unwrap();
    let read = notes.read(|rows| {
        let mut texts = rows.prepare("SELECT text FROM note ORDER BY sequence")?;
        texts.query_map([], |row| row.get(0))?.collect()
    });
    read.await.unwrap()
}

#[tokio::test]
async fn r1_each_tenant_keeps_read_models_of_its_own_over_every_close() {
    let folder = tempfile::tempdir().unwrap();
    // With room for one, each of them is closed as the other one is asked for.
    let tenants = Tenants::builder()
        .on_open(keep)
        .open_max(1)
        .open(folder.path())
        .unwrap();
    for round in 1..=3 {
        for name in ["acme", "globex"] {
            let tenant = crate::patiently(&tenants, name).await;
            append(&tenant, &format!("{name} {round}")).await;
            let expected: Vec<_> = (1..=round).map(|round| format!("{name} {round}")).collect();
            assert_eq!(notes(&tenant).await, expected);
        }
    }
    tenants.close().await.unwrap();
}

#[tokio::test]
async fn r2_the_read_models_of_one_tenant_are_rebuilt_and_those_of_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = Tenants::builder().on_open(keep).open(folder.path()).unwrap();
    let acme = tenants.tenant("acme").await.unwrap();
    let globex = tenants.tenant("globex").await.unwrap();
    append(&acme, "one").await;
    append(&globex, "two").await;
    let files = |tenant: &Tenant| {
        let (models, _) = tenant.attached::<(ReadModels, ReadModel)>().unwrap();
        let models = models.clone();
        async move {
            let versions = models.versions().await.unwrap();
            versions
                .into_iter()
                .map(|version| version.file)
                .collect::<Vec<_>>()
        }
    };
    let before = (files(&acme).await, files(&globex).await);
    let (_, model) = acme.attached::<(ReadModels, ReadModel)>().unwrap();
    model.rebuild().await.unwrap().finished().await.unwrap();
    assert_ne!(files(&acme).await, before.0, "it has another file");
    assert_eq!(files(&globex).await, before.1);
    assert_eq!(
        (notes(&acme).await, notes(&globex).await),
        (vec!["one".into()], vec!["two".into()])
    );
    drop((acme, globex));
    tenants.delete("acme").await.unwrap();
    assert!(
        !folder.path().join("acme").exists(),
        "its read models are gone with it"
    );
    let acme = tenants.tenant("acme").await.unwrap();
    append(&acme, "anew").await;
    assert_eq!(notes(&acme).await, ["anew"]);
    drop(acme);
    tenants.close().await.unwrap();
}
