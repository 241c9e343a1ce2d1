//! Who runs the streams of a log in memory: the one store that has it open.

use std::sync::Arc;

use crate::error::StorageError;
use crate::log::memory::MemoryWriter;
use crate::log::owner::{Claim, ClaimWriter, InstanceId, Sign};

impl ClaimWriter for MemoryWriter {
    fn enter(&mut self) -> Result<InstanceId, StorageError> {
        Ok("memory".into())
    }

    fn beat(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    /// There is nobody else.
    fn sign(&mut self, _: &str) -> Result<Sign, StorageError> {
        Ok(Sign::Gone)
    }

    fn leave(&mut self) {}

    fn claims_of(&mut self, stream: &str) -> Result<Vec<Claim>, StorageError> {
        let claim = match self.staged.claims.get(stream) {
            Some(staged) => staged.clone(),
            None => self.shared.lock().claims.get(stream).cloned().flatten(),
        };
        Ok(claim.into_iter().collect())
    }

    fn contested(&mut self) -> Result<Vec<Claim>, StorageError> {
        Ok(Vec::new())
    }

    fn put_claim(&mut self, claim: &Claim) -> Result<(), StorageError> {
        let stream = Arc::clone(&claim.stream);
        self.staged.claims.insert(stream, Some(claim.clone()));
        Ok(())
    }

    fn remove_claim(&mut self, stream: &str, _: &str) -> Result<bool, StorageError> {
        let is_there = !self.claims_of(stream)?.is_empty();
        self.remove_claims(stream)?;
        Ok(is_there)
    }

    fn remove_claims(&mut self, stream: &str) -> Result<(), StorageError> {
        self.staged.claims.insert(stream.into(), None);
        Ok(())
    }

    fn strike(&mut self, _: &str) -> Result<bool, StorageError> {
        Ok(false)
    }
}
