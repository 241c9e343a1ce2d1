//! What is registered on the builder, and whether it fits together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{BoxError, EvolutionError};
use crate::event::evolution::{Evolution, Plan, Upcast};

/// Upcasters and renames as they were registered, not yet checked.
#[derive(Clone, Default)]
pub(crate) struct Registrations {
    upcasts: Vec<(String, u32, Arc<Upcast>)>,
    renames: Vec<(String, String)>,
    newest: Vec<(String, u32)>,
}

/// The versions of one type that are known, before its renames are.
#[derive(Default)]
struct Versions {
    upcasts: BTreeMap<u32, Arc<Upcast>>,
    newest: Option<u32>,
}

impl Registrations {
    pub(crate) fn upcast<P, Q, E>(
        &mut self,
        event_type: String,
        version: u32,
        upcast: impl Fn(P) -> Result<Q, E> + Send + Sync + 'static,
    ) where
        P: DeserializeOwned,
        Q: Serialize,
        E: Into<BoxError>,
    {
        let upcast = move |payload| {
            let new = upcast(serde_json::from_value(payload)?).map_err(Into::into)?;
            Ok(serde_json::to_value(new)?)
        };
        self.upcasts.push((event_type, version, Arc::new(upcast)));
    }

    pub(crate) fn rename(&mut self, event_type: String, renamed: String) {
        self.renames.push((event_type, renamed));
    }

    pub(crate) fn newest(&mut self, event_type: String, version: u32) {
        self.newest.push((event_type, version));
    }

    /// Checks everything. Nothing: nothing is registered.
    pub(crate) fn check(&self) -> Result<Option<Arc<Evolution>>, EvolutionError> {
        let renames = self.check_renames()?;
        let mut versions = self.check_versions()?;
        check_arrivals(&renames, &versions)?;
        let types: BTreeSet<&str> = renames.keys().chain(versions.keys()).copied().collect();
        if types.is_empty() {
            return Ok(None);
        }
        let routes: Vec<Vec<&str>> = types.iter().map(|name| route(&renames, name)).collect();
        let mut plans = HashMap::new();
        for route in routes {
            let name = route[0];
            let known = versions.remove(name).unwrap_or_default();
            let newest = known.newest;
            let plan = Plan {
                oldest: known.upcasts.keys().next().copied().or(newest).unwrap_or(1),
                upcasts: known.upcasts.into_values().collect(),
                newest,
                renamed: route.get(1).map(|renamed| Arc::from(*renamed)),
                shown_type: Arc::from(*route.last().expect("a route begins with its type")),
            };
            plans.insert(Arc::from(name), plan);
        }
        Ok(Some(Arc::new(Evolution { plans })))
    }

    fn check_renames(&self) -> Result<BTreeMap<&str, &str>, EvolutionError> {
        let mut renames = BTreeMap::new();
        for (event_type, renamed) in &self.renames {
            if let Some(first) = renames.insert(&**event_type, &**renamed) {
                return Err(EvolutionError::DuplicateRename {
                    event_type: event_type.clone(),
                    first: first.to_owned(),
                    second: renamed.clone(),
                });
            }
        }
        for start in renames.keys() {
            let mut types = vec![*start];
            while let Some(next) = renames.get(types[types.len() - 1]) {
                let is_known = types.contains(next);
                types.push(next);
                if is_known {
                    // What leads into the circle is not of it.
                    let begin = types.iter().position(|name| name == next).unwrap_or(0);
                    let types = types[begin..].iter().map(|name| (*name).to_owned()).collect();
                    return Err(EvolutionError::RenameCycle { types });
                }
            }
        }
        Ok(renames)
    }

    fn check_versions(&self) -> Result<BTreeMap<&str, Versions>, EvolutionError> {
        let mut types: BTreeMap<&str, Versions> = BTreeMap::new();
        for (name, version, upcast) in &self.upcasts {
            check_range(name, *version, u32::MAX - 1)?;
            let versions = types.entry(name).or_default();
            if versions.upcasts.insert(*version, Arc::clone(upcast)).is_some() {
                return Err(EvolutionError::DuplicateUpcaster {
                    event_type: name.clone(),
                    version: *version,
                });
            }
        }
        for (name, versions) in &mut types {
            versions.newest = Some(end_of_chain(name, versions.upcasts.keys().copied())?);
        }
        for (name, said) in &self.newest {
            check_range(name, *said, u32::MAX)?;
            let newest = &mut types.entry(name).or_default().newest;
            if let Some(found) = newest.replace(*said).filter(|found| found != said) {
                return Err(EvolutionError::NewestVersion {
                    event_type: name.clone(),
                    said: *said,
                    found,
                });
            }
        }
        Ok(types)
    }
}

fn check_range(event_type: &str, version: u32, max: u32) -> Result<(), EvolutionError> {
    if (1..=max).contains(&version) {
        return Ok(());
    }
    Err(EvolutionError::VersionOutOfRange {
        event_type: event_type.to_owned(),
        version,
    })
}

/// Where upcasters from these versions, which grow, lead to.
fn end_of_chain(event_type: &str, versions: impl Iterator<Item = u32>) -> Result<u32, EvolutionError> {
    let mut reached = None;
    for version in versions {
        match reached {
            Some(missing) if missing != version => {
                return Err(EvolutionError::Gap {
                    event_type: event_type.to_owned(),
                    missing,
                    next: version,
                });
            }
            _ => reached = Some(version + 1),
        }
    }
    Ok(reached.expect("a type is there with its first upcaster"))
}

/// Checks that a type which is renamed at a known version can go on from there.
fn check_arrivals(
    renames: &BTreeMap<&str, &str>,
    versions: &BTreeMap<&str, Versions>,
) -> Result<(), EvolutionError> {
    for (name, renamed) in renames {
        let arrives = versions.get(name).and_then(|versions| versions.newest);
        let (Some(version), Some(known)) = (arrives, versions.get(renamed)) else {
            continue;
        };
        let newest = known.newest.unwrap_or(version);
        let oldest = known.upcasts.keys().next().copied().unwrap_or(newest);
        if !(oldest..=newest).contains(&version) {
            return Err(EvolutionError::RenameOutOfRange {
                event_type: (*name).to_owned(),
                version,
                renamed: (*renamed).to_owned(),
                oldest,
                newest,
            });
        }
    }
    Ok(())
}

/// A type and what it is called after each rename. There is no circle.
fn route<'a>(renames: &BTreeMap<&'a str, &'a str>, name: &'a str) -> Vec<&'a str> {
    let mut route = vec![name];
    while let Some(renamed) = renames.get(route[route.len() - 1]) {
        route.push(renamed);
    }
    route
}
