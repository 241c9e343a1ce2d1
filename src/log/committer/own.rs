//! What the committer does for the owners of streams (D6): it decides who gets a name, and looks who stands by and who has gone.
//!
//! Claims change inside its transactions, under a new number of the log each time, by which the others notice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Timestamp;
use crate::error::{Instance, StorageError, StreamError};
use crate::log::committer::Committer;
use crate::log::cursor::{CursorClaim, StandsBy, StoredCursor};
use crate::log::letter::Attempt;
use crate::log::owner::share::{self, Moves};
use crate::log::owner::silence::{Life, Signs};
use crate::log::owner::{Claim, InstanceId, Ownership, Role, host_name};
use crate::log::request::{Claimed, HandOverRequest, HandedOver};
use crate::log::steer::Heard;
use crate::log::{Extent, LogWriter, Sync, Tail};

/// The longest time between two looks, so that a stream is taken over soon after its owner has died.
const LOOK_EVERY_MAX: Duration = Duration::from_millis(250);
/// How many signs of life are given within the time after which an instance counts as silent.
const BEATS_PER_SILENCE: u32 = 8;

/// What the committer knows of the owners of streams.
pub(crate) struct Owners {
    /// This instance. Nothing: no durable stream was registered yet.
    me: Option<InstanceId>,
    host: Arc<str>,
    signs: Signs,
    look_every: Duration,
    look_at: Instant,
    /// The claims to streams that somebody stands by for, and the log's number when they were read.
    contested: Vec<Claim>,
    contested_at: Option<u64>,
    /// The last look failed, and that was said.
    is_blind: bool,
}

/// Whether a stream is to be had.
pub(super) enum Contest {
    /// It is, when these claim it no more; or this store owns it already.
    Free { ousted: Vec<InstanceId>, is_mine: bool },
    /// It is to be waited for.
    Owned(Instance),
}

impl Owners {
    pub(crate) fn new(poll_interval: Duration, silence_max: Duration) -> Self {
        let look_every = poll_interval
            .min(LOOK_EVERY_MAX)
            .min(silence_max / BEATS_PER_SILENCE)
            .max(Duration::from_millis(1));
        Self {
            me: None,
            host: host_name(),
            signs: Signs::new(silence_max, look_every),
            look_every,
            look_at: Instant::now(),
            contested: Vec::new(),
            contested_at: None,
            is_blind: false,
        }
    }

    /// When the next look is due, if one is.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.me.is_some().then_some(self.look_at)
    }

    fn claim(&self, stream: &Arc<str>, instance: &InstanceId, role: Role) -> Claim {
        Claim {
            stream: Arc::clone(stream),
            instance: Arc::clone(instance),
            role,
            since: Timestamp::now(),
            host: Arc::clone(&self.host),
            process: std::process::id(),
        }
    }
}

impl<W: LogWriter> Committer<W> {
    /// The id of this instance, which others find alive from now on.
    fn me(&mut self) -> Result<InstanceId, StorageError> {
        if let Some(me) = &self.owners.me {
            return Ok(Arc::clone(me));
        }
        let me = self.writer.enter()?;
        self.owners.look_at = Instant::now() + self.owners.look_every;
        Ok(Arc::clone(self.owners.me.insert(me)))
    }

    fn life(&mut self, me: &InstanceId, instance: &InstanceId) -> Result<Life, StorageError> {
        if instance == me {
            return Ok(Life::Lives);
        }
        let sign = self.writer.sign(instance)?;
        Ok(self.owners.signs.saw(instance, sign, Instant::now()))
    }

    /// The lives of all who claim something.
    fn lives(&mut self, me: &InstanceId, claims: &[Claim]) -> Result<Vec<(InstanceId, Life)>, StorageError> {
        let mut lives: Vec<(InstanceId, Life)> = Vec::new();
        for claim in claims {
            if lives.iter().all(|(instance, _)| *instance != claim.instance) {
                let life = self.life(me, &claim.instance)?;
                lives.push((Arc::clone(&claim.instance), life));
            }
        }
        Ok(lives)
    }

    /// Finds out whether a stream is to be had. Nothing is written but that those who have gone claim nothing any more: the registration may
    /// be refused for another reason.
    pub(super) fn contest(&mut self, name: &str, ownership: Ownership) -> Result<Contest, StreamError> {
        let me = self.me()?;
        let claims = self.writer.claims_of(name)?;
        let (mut ousted, mut is_mine) = (Vec::new(), false);
        for holder in claims {
            if !holder.role.holds() {
                continue;
            }
            if holder.instance == me {
                is_mine = holder.role != Role::Heir;
                continue;
            }
            let life = self.life(&me, &holder.instance)?;
            match (life, ownership) {
                (Life::Gone, _) if self.writer.may_come_back() => ousted.push(holder.instance),
                (Life::Gone, _) => {
                    self.writer.strike(&holder.instance)?;
                }
                (_, Ownership::TakeOver) | (Life::IsSilent, Ownership::Standby) => {
                    tracing::warn!(stream = name, owner = %holder.claimant(), silent = life == Life::IsSilent, "a stream is taken over from its owner");
                    ousted.push(holder.instance);
                }
                (_, Ownership::Fail) => {
                    return Err(StreamError::OwnedElsewhere {
                        name: name.to_owned(),
                        owner: holder.claimant(),
                    });
                }
                (Life::Lives, Ownership::Standby) => return Ok(Contest::Owned(holder.claimant())),
            }
        }
        Ok(Contest::Free { ousted, is_mine })
    }

    /// Claims a stream for this store.
    pub(super) fn own(
        &mut self,
        name: &Arc<str>,
        role: Role,
        ousted: &[InstanceId],
    ) -> Result<(), StorageError> {
        let me = self.me()?;
        for owner in ousted {
            self.writer.remove_claim(name, owner)?;
        }
        let own = self.owners.claim(name, &me, role);
        self.writer.put_claim(&own)
    }

    /// Claims a stream whose cursor is opened later, or to stand by for it.
    pub(super) fn claim(&mut self, name: &Arc<str>, ownership: Ownership) -> Result<Claimed, StreamError> {
        match self.contest(name, ownership)? {
            Contest::Free { is_mine: true, .. } => Ok(Claimed::Before),
            Contest::Free { ousted, .. } => {
                self.own(name, Role::SoleOwner, &ousted)?;
                if !ousted.is_empty() {
                    self.fence_off(name)?;
                }
                Ok(Claimed::Now)
            }
            Contest::Owned(owner) => {
                self.wait_for_turn(name)?;
                Ok(Claimed::StandsBy(owner))
            }
        }
    }

    /// Nobody who runs the stream writes anything more: whoever claimed it reads what there is before the cursor is opened.
    fn fence_off(&mut self, name: &str) -> Result<(), StorageError> {
        let Some(row) = self.writer.cursor(name)? else {
            return Ok(());
        };
        let number = self.writer.next_epoch()?;
        let fenced = StoredCursor {
            epoch: number,
            owner: number,
            ..row
        };
        self.writer.put_cursor(name, &fenced)
    }

    /// Who stands by already goes on doing so since the time it began.
    fn wait_for_turn(&mut self, name: &Arc<str>) -> Result<(), StorageError> {
        let me = self.me()?;
        let claims = self.writer.claims_of(name)?;
        let is_mine = |claim: &Claim| claim.instance == me && claim.role == Role::Standby;
        if claims.iter().any(is_mine) {
            return Ok(());
        }
        let standby = self.owners.claim(name, &me, Role::Standby);
        self.writer.put_claim(&standby)?;
        self.writer.next_epoch().map(|_| ())
    }

    /// Claims to stand by.
    pub(super) fn stand_by(
        &mut self,
        claim: &CursorClaim,
        stored: Option<&StoredCursor>,
        tail: Tail,
        owner: Instance,
    ) -> Result<StandsBy, StreamError> {
        let extent = Extent {
            pruned_through: tail.pruned_through,
            head: tail.head,
        };
        // What would be refused when the owner has gone is refused now.
        claim.resume(stored, extent, &self.log_id)?;
        let Some(row) = stored.cloned() else {
            // The stream was just deleted, and its owner has yet to hear of it.
            return Err(StreamError::OwnedElsewhere {
                name: claim.name.to_string(),
                owner,
            });
        };
        self.wait_for_turn(&claim.name)?;
        Ok(StandsBy {
            row,
            head: tail.head,
            letters: self.writer.letter_counts(&claim.name)?,
            owner,
        })
    }

    /// Claims a stream no more.
    pub(super) fn let_go(&mut self, name: &str) -> Result<(), StorageError> {
        if let Some(me) = self.owners.me.clone()
            && self.writer.remove_claim(name, &me)?
        {
            self.writer.next_epoch()?;
        }
        Ok(())
    }

    /// Gives a stream away, if that is still to be done. The row gets a new epoch, so that nobody writes its cursor before the heir.
    pub(super) fn hand_over(&mut self, request: &HandOverRequest) -> Result<HandedOver, StorageError> {
        let me = self.me()?;
        let HandOverRequest {
            name, epoch, heir, ..
        } = request;
        let Some(row) = self.writer.cursor(name)? else {
            return Ok(HandedOver::Kept);
        };
        let claims = self.writer.claims_of(name)?;
        if !claims
            .iter()
            .any(|claim| claim.instance == me && claim.role == Role::Owner)
        {
            return Ok(HandedOver::OwnershipLost);
        }
        let contested = self.writer.contested()?;
        let lives = self.lives(&me, &contested)?;
        let to = claims.into_iter().find(|claim| claim.instance == *heir);
        let is_due = share::is_due(name, heir, &me, &contested, |instance| life_in(&lives, instance));
        let Some(to) = to.filter(|_| is_due && row.epoch == *epoch) else {
            return Ok(HandedOver::Kept);
        };
        let number = self.writer.next_epoch()?;
        let row = StoredCursor {
            epoch: number,
            attempt: Attempt::ENDED,
            ..row
        };
        self.writer.put_cursor(name, &row)?;
        let standby = self.owners.claim(name, &me, Role::Standby);
        self.writer.put_claim(&standby)?;
        let given = Claim {
            role: Role::Heir,
            since: Timestamp::now(),
            ..to
        };
        self.writer.put_claim(&given)?;
        let to = given.claimant();
        tracing::info!(stream = %name, %to, "a stream is given to somebody who stands by");
        Ok(HandedOver::Done { to })
    }

    /// Gives a sign of life, and looks which streams are to be taken over or given away. One look for all of them.
    pub(super) fn look_for_owners(&mut self) {
        let Some(me) = self.owners.me.clone() else { return };
        self.owners.look_at = Instant::now() + self.owners.look_every;
        match self.find_moves(&me) {
            Ok(Moves { vacant, gifts }) => {
                self.owners.is_blind = false;
                if !vacant.is_empty() {
                    (self.tell)(Heard::Vacant(vacant));
                }
                if !gifts.is_empty() {
                    (self.tell)(Heard::Gifts(gifts));
                }
            }
            Err(error) if !self.owners.is_blind => {
                self.owners.is_blind = true;
                tracing::warn!(%error, "it cannot be seen which streams are to be taken over, the next look tries again");
            }
            Err(_) => {}
        }
    }

    fn find_moves(&mut self, me: &InstanceId) -> Result<Moves, StorageError> {
        self.writer.beat()?;
        let newest = self.writer.newest_epoch()?;
        if self.owners.contested_at != Some(newest) {
            self.owners.contested = self.writer.contested()?;
            self.owners.contested_at = Some(newest);
            let owners = self.owners.contested.iter().filter(|claim| claim.role.holds());
            let owners: Vec<_> = owners
                .map(|claim| (Arc::clone(&claim.stream), claim.claimant()))
                .collect();
            if !owners.is_empty() {
                (self.tell)(Heard::Owners(owners));
            }
        }
        let contested = std::mem::take(&mut self.owners.contested);
        let lives = self.lives(me, &contested);
        self.owners.contested = contested;
        let lives = lives?;
        self.owners
            .signs
            .retain(|instance| lives.iter().any(|(known, _)| known == instance));
        Ok(share::decide(me, &self.owners.contested, |instance| {
            life_in(&lives, instance)
        }))
    }

    /// The committer ends: what this instance claims is free.
    pub(super) fn leave(&mut self) {
        let Some(me) = self.owners.me.take() else { return };
        let strike = |writer: &mut W| {
            writer.begin(Sync::Ordered)?;
            if writer.strike(&me)? {
                writer.next_epoch()?;
            }
            writer.commit()
        };
        if let Err(error) = strike(&mut self.writer) {
            self.writer.rollback();
            // Whoever wants one of the names finds that nobody lives who claims it.
            tracing::debug!(%error, "the claims of a store that closes could not be removed");
        }
        self.writer.leave();
    }
}

fn life_in(lives: &[(InstanceId, Life)], instance: &InstanceId) -> Life {
    let mut lives = lives.iter();
    lives
        .find(|(known, _)| known == instance)
        .map_or(Life::Gone, |(_, life)| *life)
}
