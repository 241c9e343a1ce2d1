//! The page, in a real browser.

use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::tempdir;

use crate::browser::Browser;
use crate::service::Service;

/// What somebody enters who does not want to buy anything.
const MARKUP: &str = r#"<img src="x" onerror="window.broken = true"><b>Anna</b>"#;

#[test]
fn the_page_shows_new_orders_as_they_come() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let folder = tempdir().unwrap();
    let service = Service::start(folder.path());
    service.restock(2);
    service.order("A-1", "Anna", 2);
    browser.open(&service.url("/"));
    browser.until(&state_is("A-1", "reserved"));
    browser.until("document.getElementById('link').textContent === 'live'");
    browser.value("window.never_reloaded = true");

    service.order("A-2", MARKUP, 1);
    browser.until(&state_is("A-2", "refused: 1 of mug are wanted, 0 are there"));
    assert_eq!(browser.value(&cell("A-2", 1)), MARKUP);
    assert_eq!(browser.value("document.querySelectorAll('td *').length"), 0);
    assert_eq!(browser.value("'broken' in window"), false);
    service.post("/parcels/A-1/send", &json!(null));
    browser.until(&state_is("A-1", "sent"));

    // The service goes, and comes back with an order that the browser was not told of.
    let port = service.port();
    assert_eq!(service.end(Signal::SIGTERM).status.code(), Some(0));
    browser.until("document.getElementById('link').textContent === 'connecting'");
    let service = Service::start_on(folder.path(), port);
    service.order("A-3", "Chloe", 1);
    browser.until(&state_is("A-3", "refused: 1 of mug are wanted, 0 are there"));
    assert_eq!(browser.value("window.never_reloaded"), true);
    let numbers = "[...document.querySelectorAll('td:first-child')].map(cell => cell.textContent)";
    assert_eq!(browser.value(numbers), json!(["A-3", "A-2", "A-1"]));
}

/// The text of a cell in the row of an order; `undefined` where there is no such row.
fn cell(number: &str, column: usize) -> String {
    format!(
        "[...document.querySelectorAll('#orders tr')].find(row => row.cells[0].textContent === '{number}')?.cells[{column}].textContent"
    )
}

fn state_is(number: &str, state: &str) -> String {
    format!("{} === '{state}'", cell(number, 3))
}
