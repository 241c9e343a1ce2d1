//! Who takes a stream over, and who gives one away: pure.
//!
//! An owner gives a stream away that somebody stands by for who owns at least two less of the streams that are stood by for. Each
//! such gift makes the sum of the squares of what each owns smaller, so that it comes to an end, and nobody gives back what
//! was given: the owners do not flap. It is decided twice: on what a look shows, and again inside the transaction that does it, which nobody
//! writes beside.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::log::owner::silence::Life;
use crate::log::owner::{Claim, InstanceId, Role};

/// By how many streams an owner has to own more than the one whom it gives one to.
const SURPLUS_MIN: usize = 2;

/// What an instance is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moves {
    /// Streams that it stands by for and that nobody runs, or that were given to it.
    pub(crate) vacant: Vec<Arc<str>>,
    /// Streams that it is to give away, and to whom.
    pub(crate) gifts: Vec<(Arc<str>, InstanceId)>,
}

/// The claims to one stream that count.
#[derive(Default)]
struct Contest<'a> {
    /// Who runs it, or is about to because it was given to him.
    owner: Option<(&'a InstanceId, Role)>,
    standbys: Vec<&'a InstanceId>,
}

impl<'a> Contest<'a> {
    fn owner(&self) -> Option<&'a InstanceId> {
        self.owner.map(|(owner, _)| owner)
    }
}

/// What follows for an instance from all claims to the streams that somebody stands by for.
pub(crate) fn decide(me: &InstanceId, claims: &[Claim], life: impl Fn(&InstanceId) -> Life) -> Moves {
    let mut moves = Moves::default();
    let contests = contests(claims, &life);
    let mut owned = owned(&contests);
    for (stream, contest) in &contests {
        match contest.owner {
            None if contest.standbys.contains(&me) => moves.vacant.push(Arc::clone(stream)),
            Some((owner, Role::Heir)) if owner == me => moves.vacant.push(Arc::clone(stream)),
            _ => {}
        }
        if contest.owner == Some((me, Role::Owner))
            && let Some(heir) = heir(contest, &owned)
        {
            moves.gifts.push((Arc::clone(stream), InstanceId::clone(heir)));
            *owned.entry(me).or_default() -= 1;
            *owned.entry(heir).or_default() += 1;
        }
    }
    moves
}

/// Whether a stream is still to be given to this one.
pub(crate) fn is_due(
    stream: &str,
    heir: &InstanceId,
    me: &InstanceId,
    claims: &[Claim],
    life: impl Fn(&InstanceId) -> Life,
) -> bool {
    let contests = contests(claims, &life);
    let owned = owned(&contests);
    let contest = contests.iter().find(|(name, _)| &***name == stream);
    contest.is_some_and(|(_, contest)| {
        contest.owner == Some((me, Role::Owner))
            && contest.standbys.contains(&heir)
            && load(&owned, me) >= load(&owned, heir) + SURPLUS_MIN
    })
}

/// Who is to be given the stream: the one of those who stand by that owns least, if that is little enough.
fn heir<'a>(contest: &Contest<'a>, owned: &HashMap<&InstanceId, usize>) -> Option<&'a InstanceId> {
    let owner = contest.owner()?;
    let least = contest
        .standbys
        .iter()
        .min_by_key(|standby| (load(owned, standby), **standby))?;
    (load(owned, owner) >= load(owned, least) + SURPLUS_MIN).then_some(least)
}

fn load(owned: &HashMap<&InstanceId, usize>, instance: &InstanceId) -> usize {
    owned.get(instance).copied().unwrap_or(0)
}

/// How many of the streams each one owns, of those that are given away.
fn owned<'a>(contests: &[(&'a Arc<str>, Contest<'a>)]) -> HashMap<&'a InstanceId, usize> {
    let mut owned = HashMap::new();
    for (owner, role) in contests.iter().filter_map(|(_, contest)| contest.owner) {
        *owned.entry(owner).or_default() += usize::from(role != Role::SoleOwner);
    }
    owned
}

/// By stream, in the order of their names. Who has gone counts as nobody; who is silent owns nothing, and is given nothing.
fn contests<'a>(
    claims: &'a [Claim],
    life: &impl Fn(&InstanceId) -> Life,
) -> Vec<(&'a Arc<str>, Contest<'a>)> {
    let mut by_stream: BTreeMap<&Arc<str>, Contest<'a>> = BTreeMap::new();
    for claim in claims {
        let contest = by_stream.entry(&claim.stream).or_default();
        match (claim.role, life(&claim.instance)) {
            (_, Life::Gone | Life::IsSilent) => {}
            (Role::Owner | Role::SoleOwner | Role::Heir, Life::Lives) => {
                contest.owner = Some((&claim.instance, claim.role))
            }
            (Role::Standby, Life::Lives) => contest.standbys.push(&claim.instance),
        }
    }
    by_stream.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Timestamp;

    fn claim(stream: usize, instance: usize, role: Role) -> Claim {
        Claim {
            stream: format!("stream-{stream:02}").into(),
            instance: id(instance),
            role,
            since: Timestamp::EPOCH,
            host: "host".into(),
            process: instance as u32,
        }
    }

    fn id(instance: usize) -> InstanceId {
        format!("instance-{instance}").into()
    }

    fn all_live(_: &InstanceId) -> Life {
        Life::Lives
    }

    /// Carries out what an instance is to do, gifts as the transaction would, and says how many there were.
    fn carry_out(me: usize, claims: &mut [Claim], moves: Moves) -> usize {
        let mut given = 0;
        for stream in moves.vacant {
            let mine = claims
                .iter_mut()
                .find(|claim| claim.stream == stream && claim.instance == id(me));
            mine.unwrap().role = Role::Owner;
        }
        for (stream, heir) in moves.gifts {
            if !is_due(&stream, &heir, &id(me), claims, all_live) {
                continue;
            }
            given += 1;
            for claim in claims.iter_mut().filter(|claim| claim.stream == stream) {
                claim.role = match claim.role {
                    Role::Owner => Role::Standby,
                    _ if claim.instance == heir => Role::Heir,
                    role => role,
                };
            }
        }
        given
    }

    #[test]
    fn whoever_stands_by_takes_what_nobody_living_runs_and_what_was_given_to_it() {
        let claims = [
            claim(1, 1, Role::Owner),
            claim(1, 2, Role::Standby),
            claim(2, 3, Role::Owner),
            claim(2, 2, Role::Standby),
            claim(3, 2, Role::Standby),
            claim(4, 1, Role::Standby),
            claim(5, 2, Role::Heir),
            claim(5, 1, Role::Standby),
        ];
        let life = |instance: &InstanceId| match &**instance {
            "instance-3" => Life::Gone,
            _ => Life::Lives,
        };
        let vacant = |me| decide(&id(me), &claims, life).vacant;
        assert_eq!(vacant(2), ["stream-02", "stream-03", "stream-05"].map(Arc::from));
        assert_eq!(vacant(1), ["stream-04"].map(Arc::from));
    }

    #[test]
    fn one_more_than_the_other_is_kept_and_two_more_are_shared() {
        let mut claims = vec![claim(1, 1, Role::Owner), claim(1, 2, Role::Standby)];
        assert_eq!(decide(&id(1), &claims, all_live), Moves::default());
        claims.extend([claim(2, 1, Role::Owner), claim(2, 2, Role::Standby)]);
        let gifts = decide(&id(1), &claims, all_live).gifts;
        assert_eq!(gifts, [("stream-01".into(), id(2))]);
        for stream in 3..6 {
            claims.extend([claim(stream, 2, Role::Standby), claim(stream, 3, Role::SoleOwner)]);
        }
        assert_eq!(
            decide(&id(3), &claims, all_live),
            Moves::default(),
            "it shares nothing"
        );
        let silent = |instance: &InstanceId| match &**instance {
            "instance-2" => Life::IsSilent,
            _ => Life::Lives,
        };
        assert_eq!(decide(&id(1), &claims, silent), Moves::default());
    }

    proptest! {
        /// Whoever begins with what, and in whatever order they look: after a while every stream has one owner, nobody owns two more
        /// than anybody who stands by for one of his, and nothing moves any more.
        #[test]
        fn owners_spread_and_do_not_flap(
            first in prop::collection::vec(0_usize..4, 0..12),
            turns in prop::collection::vec(0_usize..4, 0..40),
            is_stale in any::<bool>(),
        ) {
            let mut claims = Vec::new();
            for (stream, owner) in first.iter().enumerate() {
                for instance in 0..4 {
                    let role = if instance == *owner { Role::Owner } else { Role::Standby };
                    claims.push(claim(stream, instance, role));
                }
            }
            let rounds = turns.into_iter().chain((0..40).map(|turn| turn % 4));
            let mut seen = claims.clone();
            let mut given = 0;
            for me in rounds {
                // What was decided on may be older than what the transaction finds.
                let moves = decide(&id(me), if is_stale { &seen } else { &claims }, all_live);
                seen.clone_from(&claims);
                let moves = Moves {
                    vacant: decide(&id(me), &claims, all_live).vacant,
                    ..moves
                };
                given += carry_out(me, &mut claims, moves);
            }
            prop_assert!(given <= first.len() * 2, "{given} gifts");
            let owns = |me| claims.iter().filter(|claim| claim.instance == id(me) && claim.role == Role::Owner).count();
            let owned: Vec<usize> = (0..4).map(owns).collect();
            prop_assert_eq!(owned.iter().sum::<usize>(), first.len());
            let (most, least) = (owned.iter().max().unwrap(), owned.iter().min().unwrap());
            prop_assert!(most - least < SURPLUS_MIN, "{owned:?}");
            for me in 0..4 {
                prop_assert_eq!(decide(&id(me), &claims, all_live), Moves::default());
            }
        }
    }
}
