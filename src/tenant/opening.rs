//! One opening of a tenant: by one task, for all who ask meanwhile.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::error::TenantError;
use crate::stream::handler::panic_text;
use crate::sync::Mutex;
use crate::tenant::folder::{Admitted, Want};
use crate::tenant::handle::Tenant;
use crate::tenant::host::Host;
use crate::tenant::parts::{Attached, Claim, OpenedTenant, Parts};

type Said = Option<Result<(), TenantError>>;

/// What those wait for who ask for a tenant that is being opened.
#[derive(Clone)]
pub(crate) struct Outcome {
    said: watch::Receiver<Said>,
    want: Want,
}

impl Outcome {
    /// Waits until the tenant is open or failed to open, and fails as it did. Then the table is to be asked again: what was opened may
    /// be closed already, an opening that was cut off said nothing, and one that wanted something else may have failed for that.
    pub(crate) async fn joined(mut self, want: Want) -> Result<(), TenantError> {
        match self.said.wait_for(Option::is_some).await.map(|said| said.clone()) {
            Ok(Some(Err(error))) if self.want == want => Err(error),
            _ => Ok(()),
        }
    }
}

/// The duty to open a tenant. Dropped, it gives the seat back.
pub(crate) struct Opening {
    host: Arc<Host>,
    name: Arc<str>,
    want: Want,
    say: watch::Sender<Said>,
    has_seat: bool,
}

impl Opening {
    pub(crate) fn new(host: &Arc<Host>, name: &Arc<str>, want: Want) -> (Self, Outcome) {
        let (say, said) = watch::channel(None);
        let opening = Self {
            host: Arc::clone(host),
            name: Arc::clone(name),
            want,
            say,
            has_seat: true,
        };
        (opening, Outcome { said, want })
    }

    /// Somebody else has the seat.
    pub(crate) fn leave_seat(mut self) {
        self.has_seat = false;
    }

    pub(crate) async fn run(mut self, place: OwnedSemaphorePermit) -> Result<Tenant, TenantError> {
        let outcome = self.open(place).await;
        let tenant = match outcome {
            Ok(parts) => {
                let parts = Arc::new(parts);
                match self.host.opened(&parts) {
                    Some(tenant) => Ok(tenant),
                    None => {
                        // It says itself who was late.
                        let _ = parts.close().await;
                        Err(TenantError::Closed)
                    }
                }
            }
            Err(error) => Err(error),
        };
        self.has_seat = tenant.is_err();
        let said = tenant.as_ref().map(|_| ()).map_err(Clone::clone);
        if self.has_seat {
            self.has_seat = false;
            self.host.gone(&self.name);
        }
        self.say.send_replace(Some(said));
        tenant
    }

    async fn open(&self, place: OwnedSemaphorePermit) -> Result<Parts, TenantError> {
        let (host, name, want) = (Arc::clone(&self.host), Arc::clone(&self.name), self.want);
        let admitted = Handle::current().spawn_blocking(move || {
            let builder = host.options.store.clone();
            host.folder.admit(&name, want, builder)
        });
        let Admitted { store, lock } = admitted.await.unwrap_or(Err(TenantError::Closed))?;
        let opened = OpenedTenant {
            name: Arc::clone(&self.name),
            folder: self.host.folder.of(&self.name),
            store,
        };
        let claim = Claim {
            _lock: lock,
            _place: place,
        };
        match self.attach(opened.clone()).await {
            Ok(attached) => Ok(Parts {
                name: opened.name,
                folder: opened.folder,
                store: opened.store,
                attached,
                claim: Mutex::new(Some(claim)),
            }),
            Err(error) => {
                // Streams that were registered before the failure end with the store.
                let _ = opened.store.close().await;
                Err(error)
            }
        }
    }

    /// Calls the program's closure.
    async fn attach(&self, opened: OpenedTenant) -> Result<Attached, TenantError> {
        let Some(on_open) = &self.host.options.on_open else {
            return Ok(Box::new(()));
        };
        let name = || self.name.to_string();
        let call = AssertUnwindSafe(async { on_open(opened).await });
        match call.catch_unwind().await {
            Ok(Ok(attached)) => Ok(attached),
            Ok(Err(source)) => Err(TenantError::Setup {
                name: name(),
                source: source.into(),
            }),
            Err(panic) => Err(TenantError::SetupPanicked {
                name: name(),
                panic: panic_text(&*panic).into(),
            }),
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if self.has_seat {
            self.host.gone(&self.name);
        }
    }
}
