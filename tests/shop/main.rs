//! The example `shop_slices`, as a process of its own: over HTTP, through its end and its next start, and in a browser.
#![cfg(unix)]

mod browser;
mod endings;
mod feed;
mod page;
mod requests;
mod service;
mod slices;
