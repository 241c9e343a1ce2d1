//! Several hosts in one address: the one that can be written to is taken.

use millstream::Store;

use crate::common::postgres::{cluster, cluster_with, new_schema};
use crate::common::{append, in_time};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_hosts_the_one_that_can_be_written_to_is_taken() {
    let settings = "-c default_transaction_read_only=on";
    let (Some(read_only), Some(written)) = (cluster_with(&[], settings), cluster()) else {
        return;
    };
    // Nobody listens on port 1.
    let ports = [1, read_only.port(), written.port()];
    let hosts = ports.map(|port| format!("127.0.0.1:{port}")).join(",");
    let address = format!("postgres://millstream@{hosts}/postgres");
    let schema = new_schema();
    let open = || Store::builder().schema(&schema).connect(&address);
    let store = in_time("it is opened", open()).await.unwrap();
    append(&store, "a", 1).await;
    // It is looked for again after it was gone.
    written.stop();
    written.start_again();
    append(&store, "a", 1).await;
    written.stop();
    let builder = Store::builder().schema(&schema);
    let refused = in_time("it is refused", builder.connect(&address)).await;
    let error = refused.err().map(|error| error.to_string());
    assert!(
        error.as_ref().is_some_and(|text| text.contains(&hosts)),
        "it names all of them: {error:?}"
    );
}
