//! Which backend a new flow goes to: affinity first, then the scheduler, within limits. Counts what it decides.

use crate::{
    atomic,
    maps::{AFFINITY, BACKENDS, FRONTEND_COUNTS, FRONTENDS, MEMBERS, SLOTS},
    service::Family,
};
use aya_ebpf::helpers::{bpf_get_prandom_u32, generated::bpf_ktime_get_coarse_ns};
use mesh_ebpf_common::{
    Backend, Drop, Frontend, MemberKey, Service, Sticky, StickyKey, flag, hash::scale, state,
};

/// How many picks a flow has before it is refused, where backends are full.
const PICKS: u32 = 4;
/// Up to how many slots [`flag::PICK_LEAST`] looks at all; of more it takes the better of two.
const SCAN: u32 = 64;

/// A backend for a new flow of `client`, and its index. The flow is counted there until [`ended`].
#[inline(always)]
pub fn choose<A: Family>(service: &Service, client: A) -> Result<(u32, &'static Backend), Drop> {
    let chosen = admit(service, client);
    if let Err(reason) = chosen
        && let Some(counts) = FRONTEND_COUNTS.get_ptr_mut(service.frontend)
    {
        // SAFETY: the entry of this CPU, which runs one program at a time.
        let counts = unsafe { &mut *counts };
        match reason {
            Drop::Denied => counts.denied += 1,
            Drop::Limited => counts.limited += 1,
            _ => counts.no_backend += 1,
        }
    }
    chosen
}

/// A flow that [`choose`] began has ended. Another backend may have its entry by now.
#[inline(always)]
pub fn ended(index: u32, generation: u32) {
    let Some(backend) = BACKENDS.get_ptr_mut(index) else { return };
    // SAFETY: an entry of an array stays where it is.
    if unsafe { (*backend).generation } == generation {
        atomic::add(active(backend), u64::MAX);
    }
}

#[inline(always)]
fn admit<A: Family>(service: &Service, client: A) -> Result<(u32, &'static Backend), Drop> {
    if service.flags & flag::ALLOW != 0 && !client.is_allowed(service.frontend) {
        return Err(Drop::Denied);
    }
    if service.flags & (flag::STICKY | flag::LIMIT) == 0 {
        return schedule(service, client, 0);
    }
    let frontend = FRONTENDS.get(service.frontend).ok_or(Drop::NoBackend)?;
    let limit = if service.flags & flag::LIMIT == 0 { 0 } else { frontend.max_flows };
    if service.flags & flag::STICKY == 0 {
        return schedule(service, client, limit);
    }
    stick(service, frontend, client, limit)
}

#[inline(always)]
fn stick<A: Family>(
    service: &Service,
    frontend: &Frontend,
    client: A,
    limit: u32,
) -> Result<(u32, &'static Backend), Drop> {
    // SAFETY: asks for nothing.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let until = now + frontend.sticky_ms * 1_000_000;
    let key = StickyKey { service: frontend.service, client: client.wide() };
    if let Some(known) = AFFINITY.get_ptr_mut(key) {
        // SAFETY: an entry of this map stays memory of this map while the program runs; that of another client, at
        // worst, whose time is then prolonged.
        let known = unsafe { &mut *known };
        if known.until > now
            && let Some((index, backend)) = member(service.frontend, known.id)
            && enter(index, limit).is_ok()
        {
            known.until = until;
            return Ok((index, backend));
        }
    }
    let (index, backend) = schedule(service, client, limit)?;
    let _ = AFFINITY.insert(key, Sticky { id: backend.id, until }, 0);
    Ok((index, backend))
}

/// The backend of that id behind a frontend.
#[inline(always)]
fn member(frontend: u32, id: u64) -> Option<(u32, &'static Backend)> {
    // SAFETY: entries of this map are replaced, never written to, and freed after programs that may see them.
    let index = *unsafe { MEMBERS.get(MemberKey { id, frontend, short: 0 }) }?;
    let backend = BACKENDS.get(index)?;
    (backend.id == id).then_some((index, backend))
}

/// A flow as the scheduler says.
#[inline(always)]
fn schedule<A: Family>(service: &Service, client: A, limit: u32) -> Result<(u32, &'static Backend), Drop> {
    let hint = match service.flags & flag::PICK {
        flag::PICK_HASH => client.hash(),
        flag::PICK_LEAST if service.slots <= SCAN => mesh_least(service, limit),
        flag::PICK_LEAST => least_of_two(service, limit),
        _ => 0,
    };
    match mesh_schedule(service, hint, limit) {
        FULL => Err(Drop::Limited),
        index => BACKENDS.get(index).map(|backend| (index, backend)).ok_or(Drop::NoBackend),
    }
}

/// No index: none takes new flows.
const NONE: u32 = u32::MAX;
/// No index: those that do have as many as they may.
const FULL: u32 = u32::MAX - 1;

/// Picks a backend by index and counts the flow in; the hint is the client's hash or the first slot. The verifier looks at such a function by itself, once for a
/// program: inlined, its loops would multiply all paths of whoever chooses.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mesh_schedule(held: *const Service, hint: u32, limit: u32) -> u32 {
    // SAFETY: a value of a map, which the verifier checks.
    let Some(service) = (unsafe { held.as_ref() }) else { return NONE };
    let mut reason = NONE;
    if service.slots == 0 {
        return reason;
    }
    for pick in 0..PICKS {
        let slot = match service.flags & flag::PICK {
            flag::PICK_NEXT => turn(held, service.slots),
            flag::PICK_HASH => scale(hint.rotate_left(8 * pick), service.slots),
            flag::PICK_LEAST if pick == 0 => hint,
            _ => any(service),
        };
        let Some(index) = SLOTS.get(service.base.wrapping_add(slot)) else { continue };
        match enter(*index, limit) {
            Ok(()) => return *index,
            Err(Drop::Limited) => reason = FULL,
            Err(_) => {}
        }
    }
    reason
}

/// Counts a flow in, if it may go there.
#[inline(always)]
fn enter(index: u32, limit: u32) -> Result<(), Drop> {
    let backend = BACKENDS.get_ptr_mut(index).ok_or(Drop::NoBackend)?;
    // SAFETY: an entry of an array stays where it is.
    if unsafe { (*backend).state } & state::ACTIVE == 0 {
        return Err(Drop::NoBackend);
    }
    if limit == 0 {
        atomic::add(active(backend), 1);
    } else if atomic::fetch_add(active(backend), 1).cast_signed() >= i64::from(limit) {
        atomic::add(active(backend), u64::MAX);
        return Err(Drop::Limited);
    }
    // SAFETY: as above.
    atomic::add(unsafe { &raw mut (*backend).begun }, 1);
    Ok(())
}

#[inline(always)]
fn active(backend: *mut Backend) -> *mut u64 {
    // SAFETY: as in `enter`.
    unsafe { &raw mut (*backend).active }.cast()
}

/// The slots in turn.
#[inline(always)]
fn turn(service: *const Service, slots: u32) -> u32 {
    // SAFETY: an entry of a map. Who replaces it meanwhile loses this step.
    let turn = unsafe { &raw mut (*service.cast_mut()).turn };
    atomic::fetch_add_word(turn, 1) % slots.max(1)
}

#[inline(always)]
fn any(service: &Service) -> u32 {
    // SAFETY: asks for nothing.
    scale(unsafe { bpf_get_prandom_u32() }, service.slots)
}

/// The slot whose backend has the fewest open flows for its weight, counting the one to come; equals take turns. The
/// verifier looks at it by itself, too.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mesh_least(held: *const Service, limit: u32) -> u32 {
    // SAFETY: a value of a map, which the verifier checks.
    let Some(service) = (unsafe { held.as_ref() }) else { return 0 };
    // A copy: the verifier knows that it does not change.
    let service = &Service { ..*service };
    let start = turn(held, service.slots);
    let (mut best, mut lightest) = (start, FULLEST);
    for step in 0..SCAN.min(service.slots) {
        // Never the number 0 as such: the verifier would follow each number that it can know through every turn.
        let slot = start.wrapping_add(step);
        let slot = if slot >= service.slots { slot.wrapping_sub(service.slots) } else { slot };
        let load = load(service, slot, limit);
        if lighter(load, lightest) {
            (best, lightest) = (slot, load);
        }
    }
    best
}

/// The better of two slots: near to the best of all of them, for the price of two (Mitzenmacher, "The Power of Two
/// Choices in Randomized Load Balancing", 2001).
#[inline(always)]
fn least_of_two(service: &Service, limit: u32) -> u32 {
    let (one, other) = (any(service), any(service));
    if lighter(load(service, other, limit), load(service, one, limit)) { other } else { one }
}

/// What is never lighter than anything.
const FULLEST: (u64, u64) = (1 << 31, 1);

/// Open flows with the one to come, and weight.
#[inline(always)]
fn load(service: &Service, slot: u32, limit: u32) -> (u64, u64) {
    let Some(index) = SLOTS.get(service.base.wrapping_add(slot)) else { return FULLEST };
    let Some(backend) = BACKENDS.get(*index) else { return FULLEST };
    // SAFETY: programs of other CPUs write it.
    let active = unsafe { (&raw const backend.active).read_volatile() };
    if backend.state & state::ACTIVE == 0 || (limit != 0 && active >= i64::from(limit)) {
        return FULLEST;
    }
    (active.max(0).cast_unsigned() + 1, u64::from(backend.weight))
}

#[inline(always)]
fn lighter(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 * b.1 < b.0 * a.1
}
